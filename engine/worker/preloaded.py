"""What the server that steps and trainings are forked from has imported: torch, MLflow and what trains.

None of them starts a Python thread or touches a GPU, so that a fork is safe.
"""

import os

from common.quiet import quieten

quieten()  # before MLflow is imported, which would else announce itself
# How long a thread spins before it sleeps. For ever (OpenMP's default) takes the cores from whatever else runs; not at
# all makes a training alone a seventh slower (`docs/speed.md`). OpenMP reads them when torch is imported.
os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"}

import mlflow.pytorch  # noqa: E402, F401
import torch._functorch.aot_autograd  # noqa: E402, F401 # of the export to MLflow
from mlflow.utils.requirements_utils import warn_dependency_requirement_mismatches  # noqa: E402

import engine.worker.process  # noqa: E402, F401
import gan.training.loop  # noqa: E402, F401
import segmentation.localiser.training  # noqa: E402
import segmentation.training.loop  # noqa: E402, F401
from engine.worker.fork import remember_address  # noqa: E402

warn_dependency_requirement_mismatches(["torch"])  # MLflow then knows what is installed, for every model
remember_address()
