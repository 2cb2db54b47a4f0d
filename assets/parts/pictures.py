"""Pictures for the asset pages, small enough to lie in Dagster's event log."""

from pathlib import Path

import numpy as np
import pandas as pd

from engine.outcome import Fact, image
from imaging.slices.store import SliceStore

_PREVIEW_SLICES = 12


def store_preview(store: SliceStore, folder: Path, name: str = "preview.png") -> Fact:
    """Save and return a contact sheet of slices spread over a store, preferring those with lesions."""
    from imaging.overlay import contact_sheet

    index = _spread(store)
    cases = store.rows["case_id"].to_numpy(dtype=str)[index]
    sheet = contact_sheet(
        store.images(index).astype(np.float32),
        store.masks(index),
        store.label_set,
        columns=6,
        titles=list(cases),
    )
    path = folder / name
    sheet.save(path, optimize=True)
    return image(path, folder)


def _spread(store: SliceStore) -> np.ndarray:
    from imaging.slices.balance import slice_categories

    categories = slice_categories(store.masks(), store.label_set)
    chosen: list[int] = []
    kinds = len(set(categories)) if len(categories) else 1
    for category in ("no_reflow", "infarct", "no_infarct"):
        rows = np.flatnonzero(categories == category)
        count = min(len(rows), _PREVIEW_SLICES // kinds)
        chosen += rows[np.linspace(0, len(rows) - 1, count).astype(int)].tolist() if count else []
    return np.array(sorted(set(chosen)))


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
