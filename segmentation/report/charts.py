"""The differences between the arms with their intervals, one line a network and tissue, drawn without `pyplot`.

Each patient's Dice in both arms as a line: one panel a network (row) and tissue (column).

The course of the trainings: loss, and Dice of the validation patients, both arms in one chart.
"""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common.errors import InputError
from common.pages import svg_style
from segmentation.comparison.arms import Comparison
from segmentation.report.material import Training
from segmentation.report.words import (
    ARM_COLOURS,
    ARMS,
    INK,
    WIDTH_IN,
    Picture,
    number,
    say_instead,
    svg_picture,
    tidy,
    words,
)

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
    first, second = map(words, comparison.names)
    axes.set_xlabel(f"Dice difference, {second} minus {first} ({words(rule)} rule)")
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
            _draw_pairs(axes, chosen[list(comparison.arms)], list(map(words, comparison.names)))
            axes.set_title(f"{words(tissue)} (n = {len(chosen)})")
        panels[row, 0].set_ylabel(f"{words(network)}\nDice, {words(rule)} rule")
    return figure


def _draw_pairs(axes: Axes, pairs: pd.DataFrame, names: Sequence[str]) -> None:
    axes.set_xticks([0, 1], names)
    axes.set(xlim=(-0.35, 1.35), ylim=(-0.03, 1.03))
    tidy(axes, "y")
    if pairs.empty:
        say_instead(axes, "no patient")
        return
    for before, after in pairs.to_numpy(float):
        colour = GAIN if after > before else LOSS if after < before else INK
        axes.plot([0, 1], [before, after], color=colour, marker="o", markersize=3, linewidth=1, alpha=0.6)
    means = pairs.mean().to_numpy(float)
    axes.hlines(means, [-0.2, 0.8], [0.2, 1.2], colors=INK, linewidth=2.5)


_LOSS, _MEAN = "loss", "dice/mean"


def curves_picture(trainings: Sequence[Training]) -> Picture | None:
    """Draw a row for each network: training loss, then validation Dice, mean and by tissue; None without a course."""
    known = [training for training in trainings if len(training.history)]
    if not known:
        return None
    networks = list(dict.fromkeys(training.arm.network for training in known))
    columns = _columns(known)
    with mpl.rc_context(svg_style()):
        figure = Figure(figsize=(WIDTH_IN, 2.2 * len(networks) + 0.3), layout="constrained")
        panels = figure.subplots(len(networks), len(columns), squeeze=False)
        for row, network in zip(panels, networks, strict=True):
            for axes, column in zip(row, columns, strict=True):
                own = [training for training in known if training.arm.network == network]
                _draw(axes, own, column)
            row[0].set_ylabel(f"{words(network)}\ntraining loss")
            row[1].set_ylabel("validation Dice")
        for axes, column in zip(panels[0], columns, strict=True):
            axes.set_title(words(column.removeprefix("dice/")), fontsize=9)
        for axes in panels[-1]:
            axes.set_xlabel("optimiser steps")
        lines = [Line2D([], [], color=ARM_COLOURS[arm], marker=".", label=words(arm)) for arm in ARMS]
        figure.legend(handles=lines, loc="outside upper right", ncols=len(ARMS))
        return svg_picture(figure, "Training loss and validation Dice over the optimiser steps, by network and arm")


def _columns(trainings: Sequence[Training]) -> list[str]:
    """Return loss, mean Dice and the Dice of every tissue that any training was validated on."""
    names = dict.fromkeys(name for training in trainings for name in training.history.columns)
    return [_LOSS, _MEAN, *(name for name in names if name.startswith("dice/") and name != _MEAN)]


def _draw(axes: Axes, trainings: Sequence[Training], column: str) -> None:
    for training in trainings:
        if column in training.history.columns:
            history = training.history
            colour = ARM_COLOURS[training.arm.training_set]
            axes.plot(
                history["step"], history[column], color=colour, linewidth=1.2, marker=".", markersize=4, alpha=0.8
            )
    if column == _LOSS:
        axes.set_ylim(bottom=0)
    else:
        axes.set_ylim(0, 1)
    axes.set_xlim(left=0)
    tidy(axes)
