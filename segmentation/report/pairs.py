"""Each patient's Dice in both arms as a line: one panel a network (row) and tissue (column)."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imaging.errors import InputError
from segmentation.comparison import REAL_ONLY, REAL_PLUS_GAN, Comparison
from segmentation.report.forest import GAIN, LOSS
from segmentation.report.picture import INK, WIDTH_IN, say_instead, tidy
from segmentation.report.words import words


def pairs_figure(comparison: Comparison, rule: str = "positive") -> Figure:
    """Draw every patient (mean over seeds) under one rule; bars are means.

    Raises:
        InputError: No patient was scored in both arms under that rule.
    """
    pairs = comparison.pairs[comparison.pairs["rule"] == rule].dropna()
    if pairs.empty:
        raise InputError(f"there is no pair of patients under rule {rule!r} to draw; score both training sets first")
    networks, tissues = list(pairs["network"].unique()), list(pairs["tissue"].unique())
    figure = Figure(figsize=(WIDTH_IN, 2.5 * len(networks) + 0.2), layout="constrained")
    panels = figure.subplots(len(networks), len(tissues), squeeze=False, sharey=True)
    for row, network in enumerate(networks):
        for column, tissue in enumerate(tissues):
            axes = panels[row, column]
            chosen = pairs[(pairs["network"] == network) & (pairs["tissue"] == tissue)]
            _draw_pairs(axes, chosen)
            axes.set_title(f"{words(tissue)} (n = {len(chosen)})")
        panels[row, 0].set_ylabel(f"{words(network)}\nDice, {words(rule)} rule")
    return figure


def _draw_pairs(axes: Axes, pairs: pd.DataFrame) -> None:
    axes.set_xticks([0, 1], ["real only", "real + GAN"])
    axes.set(xlim=(-0.35, 1.35), ylim=(-0.03, 1.03))
    tidy(axes, "y")
    if pairs.empty:
        say_instead(axes, "no patient")
        return
    for before, after in pairs[[REAL_ONLY, REAL_PLUS_GAN]].to_numpy(float):
        colour = GAIN if after > before else LOSS if after < before else INK
        axes.plot([0, 1], [before, after], color=colour, marker="o", markersize=3, linewidth=1, alpha=0.6)
    means = pairs[[REAL_ONLY, REAL_PLUS_GAN]].mean().to_numpy(float)
    axes.hlines(means, [-0.2, 0.8], [0.2, 1.2], colors=INK, linewidth=2.5)
