"""What the server that steps are forked from has imported: Dagster with the graph, torch with Fabric, and MLflow.

None of them starts a Python thread or touches a GPU, so that a fork is safe.
"""

from pipeline.quiet import quieten

quieten()  # before MLflow is imported, which would else announce itself

import mlflow  # noqa: E402, F401

import pipeline.definitions  # noqa: E402, F401
import training.fabric  # noqa: E402, F401
