"""What a training run shows besides figures: its course as curves, and what the model makes of validation slices."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from common.tables import read_csv
from engine.worker.task import CURVES, VALIDATION
from imaging.labels import LabelSet
from imaging.overlay import contact_sheet
from imaging.slices.part import PartSlices

_COLUMNS = 6
_SHADES = 0.6, 1.0  # of the reference box and the predicted one
_PERCENTILES = 1, 99


def save_pictures(folder: Path, sheet: Image.Image) -> list[Path]:
    """Save curves and validation slices into the folder of a training."""
    sheet.save(folder / VALIDATION, optimize=True)
    return [save_curves(read_csv(folder / "history.csv"), folder / CURVES), folder / VALIDATION]


def save_curves(history: pd.DataFrame, path: Path) -> Path:
    """Plot losses and validation measures of a training's course over its steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in history.columns.drop("step"):
        if "loss" in name:
            left.plot(history["step"], history[name], label=name)
        elif any(word in name for word in ("dice", "iou", "ssim", "psnr")):
            right.plot(history["step"], history[name], label=name)
    for axis, title in ((left, "loss"), (right, "validation")):
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=7)
    figure.savefig(path, dpi=80)
    return path


def most_lesion(masks: NDArray[np.uint8], labels: LabelSet) -> NDArray[np.intp]:
    """Return the rows of the six label maps (N, H, W) with most lesion, or most of any label where none can be."""
    sought = masks > 2 if labels.num_classes > 3 else masks > 0
    return np.argsort(-sought.sum(axis=(1, 2)), kind="stable")[:_COLUMNS]


def beside_reference(
    images: NDArray[np.floating],
    reference: NDArray[np.uint8],
    predicted: NDArray[np.uint8],
    labels: LabelSet,
    case_ids: Sequence[str],
) -> Image.Image:
    """Return slices (N, H, W) with the reference above the prediction."""
    return contact_sheet(
        np.concatenate([images, images]),
        np.concatenate([reference, predicted]),
        labels,
        columns=len(images),
        titles=[f"{case} {what}" for what in ("reference", "prediction") for case in case_ids],
    )


def drawn_below_real(slices: PartSlices, drawn: NDArray[np.floating], labels: LabelSet) -> Image.Image:
    """Return slices with the drawings (N, H, W) from their own label maps below them."""
    images = np.concatenate([slices.images, drawn])
    titles = [f"{case} {what}" for what in ("real", "drawn") for case in slices.case_ids]
    return contact_sheet(images, np.zeros(images.shape, np.uint8), labels, len(drawn), titles)


def boxed(image: NDArray[np.float32], boxes: Sequence[tuple[float, float, float, float]]) -> NDArray[np.float32]:
    """Return a slice (H, W) in [0, 1] with the outlines of boxes (top, left, bottom, right), the last one white."""
    low, high = np.percentile(image, _PERCENTILES)
    shown = np.clip((image - low) / max(float(high - low), 1e-6), 0, 1).astype(np.float32)
    for box, shade in zip(boxes, _SHADES, strict=True):
        top, left, bottom, right = (round(side) for side in box)
        edge = np.zeros(shown.shape, np.bool_)
        edge[max(top, 0) : bottom, max(left, 0) : right] = True
        edge[max(top, 0) + 1 : bottom - 1, max(left, 0) + 1 : right - 1] = False
        shown[edge] = shade
    return shown
