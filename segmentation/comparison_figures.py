"""Figures of a comparison, as PNG files: paired patients, and a forest plot of the differences.

Drawn without `pyplot`, so that no global state and no display is needed.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imaging.errors import InputError
from segmentation.comparison import REAL_ONLY, REAL_PLUS_GAN, Comparison

_GAIN, _LOSS, _INK = "#2a7f62", "#c0504d", "#303030"


def plot_pairs(comparison: Comparison, path: Path, rule: str = "positive") -> None:
    """Draw each patient's Dice in both arms as a line: one panel a network (row) and tissue (column)."""
    pairs = comparison.pairs[comparison.pairs["rule"] == rule].dropna()
    _refuse_empty(pairs, rule)
    networks, tissues = list(pairs["network"].unique()), list(pairs["tissue"].unique())
    size = (2.6 * len(tissues) + 0.6, 2.9 * len(networks) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(networks), len(tissues), squeeze=False, sharey=True)
    for row, network in enumerate(networks):
        for column, tissue in enumerate(tissues):
            chosen = pairs[(pairs["network"] == network) & (pairs["tissue"] == tissue)]
            _draw_pairs(axes[row, column], chosen)
            axes[row, column].set_title(f"{tissue} (n = {len(chosen)})", fontsize=9)
        axes[row, 0].set_ylabel(f"{network}\nDice, {rule} rule", fontsize=9)
    figure.suptitle("Each line is a patient (mean over seeds); bars are means", fontsize=9)
    figure.savefig(path, dpi=150)


def plot_forest(comparison: Comparison, path: Path, rule: str = "positive") -> None:
    """Draw the differences between the arms with their 95 % intervals, one line a network and tissue."""
    rows = comparison.differences[comparison.differences["rule"] == rule]
    _refuse_empty(rows, rule)
    figure = Figure(figsize=(8.0, 0.42 * len(rows) + 1.3), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows.itertuples(index=False)):
        _draw_difference(axes, place, row.difference, row.low, row.high)  # type: ignore[arg-type]
    axes.axvline(0.0, color=_INK, linewidth=0.8)
    axes.set_yticks(np.arange(len(rows)), [_forest_label(row) for _, row in rows.iterrows()], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(f"Dice difference, {REAL_PLUS_GAN} minus {REAL_ONLY} ({rule} rule)", fontsize=9)
    _clean(axes)
    figure.savefig(path, dpi=150)


def _draw_pairs(axes: Axes, pairs: pd.DataFrame) -> None:
    for before, after in pairs[[REAL_ONLY, REAL_PLUS_GAN]].to_numpy(float):
        colour = _GAIN if after >= before else _LOSS
        axes.plot([0, 1], [before, after], color=colour, marker="o", markersize=3, linewidth=1, alpha=0.6)
    means = pairs[[REAL_ONLY, REAL_PLUS_GAN]].mean().to_numpy(float)
    axes.hlines(means, [-0.2, 0.8], [0.2, 1.2], colors=_INK, linewidth=2.5)
    axes.set_xticks([0, 1], ["real only", "real + GAN"], fontsize=8)
    axes.set_xlim(-0.35, 1.35)
    axes.set_ylim(-0.03, 1.03)
    _clean(axes)


def _draw_difference(axes: Axes, place: int, difference: float, low: float, high: float) -> None:
    certain = np.isfinite(low) and np.isfinite(high)
    colour = (_GAIN if low > 0 else _LOSS if high < 0 else _INK) if certain else _INK
    if certain:
        axes.plot([low, high], [place, place], color=colour, linewidth=2)
    axes.plot([difference], [place], color=colour, marker="s", markersize=6)


def _forest_label(row: pd.Series) -> str:
    return f"{row['network']}, {row['tissue']} (n = {row['pairs']}): {row['verdict']}"


def _clean(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.grid(visible=True, color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)


def _refuse_empty(table: pd.DataFrame, rule: str) -> None:
    if len(table) == 0:
        raise InputError(f"there is no pair under rule {rule!r} to draw; score both training sets first")
