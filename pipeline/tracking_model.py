"""A trained network as an MLflow model on disk: an exported graph, which holds no pickled code."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

_CARRIED = ("config.json", "model_card.json")  # the weights are in the graph


def save_mlflow_model(target: Path, folder: Path, module_factory: Callable[[], Any], example: NDArray[float32]) -> None:
    """Write an MLflow model (`pt2`) with signature, example and requirements; no server is needed.

    Args:
        target: Folder to create.
        folder: Our model folder, whose configuration and card go along.
        module_factory: Gives the network, on the CPU and in `eval()`.
        example: Input of shape (2, 1, H, W); a batch of one would be frozen into the graph.

    Raises:
        RuntimeError, ValueError, TypeError, MlflowException: The network cannot be exported.
    """
    import mlflow.pytorch

    module = module_factory().to("cpu").eval()
    extra = [str(folder / name) for name in _CARRIED if (folder / name).exists()]
    torch_logger = logging.getLogger("torch.export")
    level = torch_logger.level
    torch_logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's remarks are about its own internals
            mlflow.pytorch.save_model(
                module,
                str(target),
                input_example=example,
                pip_requirements=[f"{name}=={version(name)}" for name in ("torch", "numpy")],
                extra_files=extra or None,
                serialization_format="pt2",
            )
    finally:
        torch_logger.setLevel(level)
