"""Trained networks as files that run without this project: ONNX, and PyTorch's own exported graph.

A file maps images (slices, 1, H, W) float32 in [0, 1], cut and windowed as the training's regions, to class
probabilities (slices, C, H, W), for any number of slices. It is compared with PyTorch before it is kept.
"""

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.errors import InputError
from common.files import write_atomically
from runtime.model_card import ModelCard
from segmentation.prediction.segmenter import load_exportable

Runner = Callable[[NDArray[np.float32]], NDArray[np.float32]]

OPSET = 20  # of ONNX; runtimes since 2023 read it
MAXIMAL_DIFFERENCE = 1e-4  # of a probability, between PyTorch and the exported file, both in float32 on the CPU
_BATCHES = (1, 2, 5)  # other numbers of slices than the example's are part of the check
_EXAMPLE = 2  # slices; a batch of one would be frozen into the graph
_IMAGES, _PROBABILITIES = "images", "probabilities"


@dataclass(frozen=True)
class Exported:
    """A checked file.

    Attributes:
        path: The file.
        difference: Largest difference of a probability from PyTorch's, over several numbers of slices.
        opset: ONNX's operator set; None for another format.
    """

    path: Path
    difference: float
    opset: int | None


def export_model(folder: Path, path: Path, format_: str, largest: float = MAXIMAL_DIFFERENCE) -> Exported:
    """Export a model folder's network and compare the file with PyTorch.

    Args:
        folder: Written by `train_segmenter`.
        path: The file to write; it is whole or absent.
        format_: Key of `EXPORT_FORMATS`: `onnx`, or `torch_export` for `torch.export.load`.
        largest: Difference of a probability above which the file is refused.

    Raises:
        InputError: The folder is damaged, ONNX is not installed, or the file's probabilities are not PyTorch's.
    """
    form = EXPORT_FORMATS[format_]
    form.require()
    module = load_exportable(folder)
    height, width = ModelCard.read(folder).input_size
    differences: list[float] = []

    def write_and_check(part: Path) -> None:
        with _quiet_exporters():
            form.write(module, torch.rand(_EXAMPLE, 1, height, width, generator=_generator()), part)
            differences.append(largest_difference(module, form.open(part), (height, width)))
        if not differences[0] <= largest:
            raise InputError(
                f"{path}: its probabilities differ from PyTorch's by up to {differences[0]:.3g}, more than "
                f"{largest:g}; nothing was written; export with the package versions of constraints.txt"
            )

    write_atomically(path, write_and_check)
    return Exported(path, differences[0], form.opset)


def largest_difference(module: nn.Module, run: Runner, size: tuple[int, int]) -> float:
    """Return the largest difference of a probability between a module and an exported file on random images."""
    found = []
    for count in _BATCHES:
        images = torch.rand(count, 1, *size, generator=_generator())
        with torch.inference_mode():
            expected = module(images).numpy()
        found.append(float(np.abs(run(images.numpy()) - expected).max()))
    return max(found)


def write_onnx(module: nn.Module, example: Tensor, path: Path) -> None:
    """Write an ONNX file whose first axis is free."""
    program = torch.onnx.export(
        module,
        (example,),
        dynamo=True,
        opset_version=OPSET,
        input_names=[_IMAGES],
        output_names=[_PROBABILITIES],
        dynamic_shapes=({0: torch.export.Dim("slices")},),
        verbose=False,
    )
    assert program is not None
    program.save(str(path))


def write_torch_export(module: nn.Module, example: Tensor, path: Path) -> None:
    """Write an exported graph (`.pt2`) whose first axis is free; it holds no pickled code."""
    program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("slices")},))
    with path.open("wb") as file:
        torch.export.save(program, file)


def open_onnx(path: Path) -> Runner:
    """Open an ONNX file on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: session.run([_PROBABILITIES], {_IMAGES: images})[0]


def open_torch_export(path: Path) -> Runner:
    """Open an exported graph on the CPU."""
    with path.open("rb") as file:
        module = torch.export.load(file).module()

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return module(torch.from_numpy(images)).numpy()

    return run


def _require_onnx() -> None:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"ONNX needs {', '.join(missing)}; install it with `pip install 'scarforge[export]'`")


@dataclass(frozen=True)
class ExportFormat:
    """How a kind of file is written and read.

    Attributes:
        suffix: Of its files.
        write: Writes a module, given an example of its input.
        open: Opens a file on the CPU.
        require: Raises `InputError` where a package is missing.
        opset: ONNX's operator set; None where it has none.
    """

    suffix: str
    write: Callable[[nn.Module, Tensor, Path], None]
    open: Callable[[Path], Runner]
    require: Callable[[], None] = lambda: None
    opset: int | None = None


_TABLE = {
    "onnx": ExportFormat(".onnx", write_onnx, open_onnx, _require_onnx, OPSET),
    "torch_export": ExportFormat(".pt2", write_torch_export, open_torch_export),
}
EXPORT_FORMATS: Mapping[str, ExportFormat] = MappingProxyType(_TABLE)


@contextmanager
def _quiet_exporters() -> Iterator[None]:
    """Silence the exporters' remarks, which are about their own internals."""
    logs = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx", "torch.export")]
    levels = [log.level for log in logs]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for log in logs:
                log.setLevel(logging.ERROR)
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
