"""The differences between the arms with their intervals, one line a network and tissue, drawn without `pyplot`."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imaging.errors import InputError
from segmentation.comparison import Comparison
from segmentation.report.picture import INK, WIDTH_IN, tidy
from segmentation.report.words import number, words

GAIN, LOSS = "#2a7f62", "#c0504d"


def forest_figure(comparison: Comparison, rule: str = "positive") -> Figure:
    """Draw the differences under one rule, grouped by tissue, the figures at the right.

    Raises:
        InputError: No patient was scored in both arms under that rule.
    """
    rows = comparison.differences[comparison.differences["rule"] == rule]
    if rows.empty:
        raise InputError(f"there is no pair of arms under rule {rule!r} to draw; score both training sets first")
    rows = rows.sort_values("tissue", key=lambda names: names.map(_order(rows)), kind="stable")
    figure = Figure(figsize=(WIDTH_IN, 0.34 * len(rows) + 0.9), layout="constrained")
    axes = figure.subplots()
    for place, (_, row) in enumerate(rows.iterrows()):
        _draw_difference(axes, place, row)
    axes.axvline(0.0, color=INK, linewidth=0.8)
    axes.set_yticks(np.arange(len(rows)), [_label(row) for _, row in rows.iterrows()])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(f"Dice difference, real + GAN minus real only ({words(rule)} rule)")
    tidy(axes, "x")
    _separate_tissues(axes, list(rows["tissue"]))
    right = axes.secondary_yaxis("right")
    right.set_yticks(np.arange(len(rows)), [_figures(row) for _, row in rows.iterrows()])
    right.tick_params(length=0)
    right.spines["right"].set_visible(False)
    return figure


def _order(rows: pd.DataFrame) -> dict[str, int]:
    return {tissue: place for place, tissue in enumerate(rows["tissue"].unique())}


def _separate_tissues(axes: Axes, tissues: list[str]) -> None:
    for place in range(1, len(tissues)):
        if tissues[place] != tissues[place - 1]:
            axes.axhline(place - 0.5, color="#b9c4d0", linewidth=0.7)


def _draw_difference(axes: Axes, place: int, row: pd.Series) -> None:
    low, high = row["low"], row["high"]
    certain = np.isfinite(low) and np.isfinite(high)
    colour = (GAIN if low > 0 else LOSS if high < 0 else INK) if certain else INK
    if certain:
        axes.plot([low, high], [place, place], color=colour, linewidth=2)
    axes.plot([row["difference"]], [place], color=colour, marker="s", markersize=5)


def _label(row: pd.Series) -> str:
    return f"{words(row['tissue'])}, {words(row['network'])}"


def _figures(row: pd.Series) -> str:
    return f"{number(row['difference'], '+.3f')}   n = {row['pairs']}   {row['verdict']}"
