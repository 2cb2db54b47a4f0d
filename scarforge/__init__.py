"""What a notebook needs: load a model, predict, evaluate, compare, open slices and read studies.

`import scarforge` is light: PyTorch comes with the first model, Dagster and MLflow never.
"""

from scarforge.models import Model, Prediction, load_model
from scarforge.scores import compare, evaluate
from scarforge.studies import open_slices, read_source

__all__ = ["Model", "Prediction", "compare", "evaluate", "load_model", "open_slices", "read_source"]
