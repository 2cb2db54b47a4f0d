"""Draws how simulated masks are distributed beside the training slices."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from gan.simulator.distributions import LESION_MEASURES, MEASURES, SOURCES
from training.files import write_atomically

_COLOURS = {"training": "#4c78a8", "simulated": "#d98b00"}
_BINS = 24


def plot_distributions(table: pd.DataFrame, path: Path) -> None:
    """Save a histogram of each measure, training and simulated masks over each other, as PNG.

    Lesions of slices with no-reflow and of those without are drawn together; only slices within the simulator's
    limits count, as in `summarise_distributions`.

    Args:
        table: What `compare_distributions` returns.
        path: The file, written aside and renamed.
    """
    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots(2, 4)
    counted = table[table["within_limits"].astype(bool)]  # an empty table knows no types
    for axis, measure in zip(axes.flat, MEASURES, strict=True):
        _histograms(axis, counted[counted["measure"] == measure], measure)
    handles = [Patch(color=colour, alpha=0.6, label=source) for source, colour in _COLOURS.items()]
    figure.legend(handles=handles, loc="outside upper right", ncols=2, fontsize=8, frameon=False)
    write_atomically(path, lambda part: figure.savefig(part, dpi=80, format="png"))


def _histograms(axis: Axes, found: pd.DataFrame, measure: str) -> None:
    edges = _edges(found["value"].to_numpy(dtype=float))
    for source in SOURCES:
        part = found.loc[found["source"] == source, "value"].to_numpy(dtype=float)
        if len(part):
            share = np.histogram(part, edges)[0] / len(part)
            axis.stairs(share, edges, color=_COLOURS[source], fill=source == "training", alpha=0.6, label=source)
    of_slices = "slices with infarct" if measure in LESION_MEASURES else "slices with a ventricle"
    axis.set_title(measure.replace("_", " "), fontsize=9)
    axis.set_xlabel(f"{MEASURES[measure]} ({of_slices})", fontsize=7)
    axis.set_yticks([])
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(labelsize=7)


def _edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the bins' edges, leaving the outermost hundredth out."""
    low, high = (float(edge) for edge in np.quantile(values, (0.005, 0.995))) if len(values) else (0.0, 1.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, _BINS + 1)
