"""Simulated masks measured beside the training slices: for tables and plots.

Draws how simulated masks are distributed beside the training slices.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from common.errors import InputError
from common.files import write_atomically
from common.pages.words import words
from common.seeds import random_generator
from gan.simulator.anatomy import read_anatomy
from gan.simulator.config import SimulatorConfig
from gan.simulator.lesion_model import measure_lesion
from imaging.slices.store import SliceStore

DISTRIBUTION_COLUMNS = ("source", "slice", "category", "measure", "unit", "value", "within_limits")
MEASURES = {
    "infarct_share": "share of myocardium",
    "no_reflow_share": "share of infarct",
    "transmurality": "share of wall",
    "extent": "share of circumference",
    "wall_thickness": "mm",
    "diameter": "mm",
    "wall_to_cavity": "ratio",
    "axis_ratio": "ratio",
}
LESION_MEASURES = ("infarct_share", "no_reflow_share", "transmurality", "extent")
SOURCES = ("training", "simulated")
SUMMARY_COLUMNS = (
    "measure",
    "category",
    "unit",
    "source",
    "slices",
    "lower_quartile",
    "median",
    "upper_quartile",
    "distance",
)


def compare_distributions(
    real: SliceStore,
    train_index: NDArray[np.integer],
    simulated: SliceStore,
    config: SimulatorConfig,
    maximum: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure training slices and simulated masks alike.

    Args:
        real: The real slices.
        train_index: Rows of `real` that belong to training patients.
        simulated: The store that `write_lesion_masks` wrote.
        config: Its configuration, whose limits mark which lesions could have been accepted.
        maximum: At most so many slices of each are measured, drawn at random.
        seed: Decides which.

    Returns:
        A tidy table with `DISTRIBUTION_COLUMNS`, `source` being `training` or `simulated`. Lesions are measured
        where there are any. Training lesions outside the limits have `within_limits` False; compare the others.
    """
    parts = []
    for source, store, rows in (
        ("training", real, np.asarray(train_index)),
        ("simulated", simulated, np.arange(len(simulated))),
    ):
        rng = random_generator(seed, f"distributions: {source}")
        rows = np.sort(rng.permutation(rows)[:maximum])
        parts.append(measure_masks(store.masks(rows), store.attributes.spacing_mm, source, config))
    return pd.concat(parts, ignore_index=True)


def measure_masks(masks: NDArray[np.integer], spacing_mm: float, source: str, config: SimulatorConfig) -> pd.DataFrame:
    """Return the measures of label maps (N, H, W) with `DISTRIBUTION_COLUMNS`; empty slices are left out."""
    rows: list[tuple[str, int, str, str, str, float, bool]] = []
    for index, mask in enumerate(masks):
        values = _measure(mask, spacing_mm)
        within = _within(values, config)
        category = _category(values)
        rows.extend((source, index, category, name, MEASURES[name], value, within) for name, value in values.items())
    return pd.DataFrame(rows, columns=list(DISTRIBUTION_COLUMNS))


def summarise_distributions(table: pd.DataFrame) -> pd.DataFrame:
    """Return quartiles of each measure in both sources, and how far the distributions are apart.

    Lesions are compared by category, since simulated masks hold no-reflow more often than training slices.
    `distance` is the Kolmogorov-Smirnov statistic (0 equal, 1 apart) of the slices within the limits; NaN
    where one source has no value.

    Raises:
        InputError: The table lacks columns.
    """
    missing = set(DISTRIBUTION_COLUMNS) - set(table.columns)
    if missing:
        raise InputError(f"the distributions lack {sorted(missing)}; use what compare_distributions returns")
    rows: list[tuple[object, ...]] = []
    for measure in MEASURES:
        found = table[table["within_limits"].astype(bool) & (table["measure"] == measure)]
        if measure not in LESION_MEASURES:
            rows += _compare(found, measure, "all")
        for category in ("infarct", "no_reflow") if measure in LESION_MEASURES else ():
            rows += _compare(found[found["category"] == category], measure, category)
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))


def _compare(found: pd.DataFrame, measure: str, category: str) -> list[tuple[object, ...]]:
    """Return a row for each source."""
    values = {name: found.loc[found["source"] == name, "value"].to_numpy() for name in SOURCES}
    full = all(len(part) for part in values.values())
    distance = float(ks_2samp(*values.values()).statistic) if full else float("nan")
    rows: list[tuple[object, ...]] = []
    for source, part in values.items():
        quartiles = np.quantile(part, (0.25, 0.5, 0.75)) if len(part) else np.full(3, np.nan)
        rows.append((measure, category, MEASURES[measure], source, len(part), *quartiles, distance))
    return rows


def _measure(mask: NDArray[np.integer], spacing_mm: float) -> dict[str, float]:
    anatomy = read_anatomy(mask, spacing_mm)
    if anatomy is None:
        return {}
    values = {
        "wall_thickness": anatomy.wall_mm,
        "diameter": anatomy.diameter_mm,
        "wall_to_cavity": anatomy.wall_to_cavity,
        "axis_ratio": anatomy.axis_ratio,
    }
    lesion = measure_lesion(anatomy, mask[anatomy.box])
    if lesion.infarct_share > 0:
        values |= {name: getattr(lesion, name) for name in LESION_MEASURES}
    return {name: value for name, value in values.items() if name != "no_reflow_share" or value > 0}


def _category(values: dict[str, float]) -> str:
    """Return the slice's category as in `imaging.slices.balance`."""
    if "no_reflow_share" in values:
        return "no_reflow"
    return "infarct" if "infarct_share" in values else "no_infarct"


def _within(values: dict[str, float], config: SimulatorConfig) -> bool:
    """Return whether a slice's lesion, if there is one, is within the limits."""
    for name, (low, high) in (
        ("infarct_share", config.infarct_limits),
        ("no_reflow_share", config.no_reflow_limits),
    ):
        if name in values and not low <= values[name] <= high:
            return False
    return True


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
    axis.set_title(words(measure), fontsize=9)
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
