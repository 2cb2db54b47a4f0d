"""The differences between the arms with their intervals, one line a network and tissue, drawn without `pyplot`.

Each patient's Dice in both arms as a line: one panel a network (row) and tissue (column).

Several arms, each against the one that it is measured by; Dice against the share of synthetic slices.

The course of the trainings: loss, and Dice of the validation patients, both arms in one chart.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common.errors import InputError
from common.pages.kit import (
    ARM_COLOURS,
    ARM_MARKERS,
    BLUE,
    INK,
    LINE,
    SERIES,
    VERMILION,
    WIDTH_IN,
    Picture,
    say_instead,
    svg_picture,
    svg_style,
    tidy,
)
from common.pages.words import number, words
from segmentation.comparison.arms import Comparison
from segmentation.model_kind import ARMS, REAL_ONLY, REAL_PLUS_GAN
from segmentation.report.material import Training

GAIN, LOSS = BLUE, VERMILION


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
            axes.axhline(place - 0.5, color=LINE, linewidth=0.7)


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
        dashes = "--" if after < before else "-"
        axes.plot([0, 1], [before, after], dashes, color=colour, marker="o", markersize=3, linewidth=1, alpha=0.7)
    means = pairs.mean().to_numpy(float)
    axes.hlines(means, [-0.2, 0.8], [0.2, 1.2], colors=INK, linewidth=2.5)


def gains_figure(differences: pd.DataFrame, by_fold: pd.DataFrame, rule: str = "positive") -> Figure:
    """Draw what each of several arms gains over the one that it is measured by: a panel a tissue, a dot a fold.

    Args:
        differences: `EACH_COLUMNS`.
        by_fold: `FOLD_COLUMNS`.
        rule: Under which rule.
    """
    rows, dots = (table[table["rule"] == rule] for table in (differences, by_fold))
    tissues = list(rows["tissue"].unique())
    arms = list(dict.fromkeys(zip(rows["network"], rows["arm"], strict=True)))
    figure = Figure(figsize=(WIDTH_IN, 0.4 * len(arms) + 1.1), layout="constrained")
    panels = figure.subplots(1, len(tissues), squeeze=False, sharey=True)[0]
    for axes, tissue in zip(panels, tissues, strict=True):
        axes.axvline(0.0, color=INK, linewidth=0.8)
        for place, arm in enumerate(arms):
            _draw_gain(axes, place, *(table[_is_of(table, tissue, *arm)] for table in (rows, dots)))
        axes.set(title=words(tissue), xlabel=f"Dice difference ({words(rule)} rule)")
        tidy(axes, "x")
    several = len({network for network, _ in arms}) > 1
    panels[0].set_yticks(range(len(arms)), [f"{arm}, {words(name)}" if several else arm for name, arm in arms])
    panels[0].set_ylim(len(arms) - 0.5, -0.5)
    return figure


def _is_of(table: pd.DataFrame, tissue: str, network: str, arm: str) -> pd.Series:
    return (table["tissue"] == tissue) & (table["network"] == network) & (table["arm"] == arm)


def _draw_gain(axes: Axes, place: int, rows: pd.DataFrame, dots: pd.DataFrame) -> None:
    axes.plot(dots["difference"], [place] * len(dots), "o", color=LINE, markersize=4)
    for _, row in rows.iterrows():
        _draw_difference(axes, place, row)


_LINE_STYLES = {"positive": ("-", "o"), "pooled": (":", "s")}
_APART = 0.012  # between the lines of one share, so that their intervals can be told apart


def curve_figure(summary: pd.DataFrame, what: str) -> Figure:
    """Draw Dice against the share of synthetic slices: solid with intervals the positive rule, dotted the pooled.

    Args:
        summary: `SUMMARY_COLUMNS`, and `share` and `line`: what each point is drawn at, and the line it is on.
        what: Is drawn, for the axis.
    """
    table = summary[summary["rule"].isin(_LINE_STYLES)]
    tissues = list(table["tissue"].unique())
    figure = Figure(figsize=(WIDTH_IN, 3.6), layout="constrained")
    panels = figure.subplots(1, len(tissues), squeeze=False)[0]
    for axes, tissue in zip(panels, tissues, strict=True):
        _draw_curves(axes, table[table["tissue"] == tissue])
        axes.set(title=words(tissue), xlabel="share of synthetic slices", ylim=(-0.02, 1.02))
        tidy(axes, "y")
    panels[0].set_ylabel(what)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4)
    return figure


def _draw_curves(axes: Axes, table: pd.DataFrame) -> None:
    lines = list(dict.fromkeys(table["line"]))
    for (line, rule), rows in table.groupby(["line", "rule"], sort=False):
        colour, (dashes, marker) = SERIES[lines.index(line) % len(SERIES)], _LINE_STYLES[str(rule)]
        shift = _APART * (2 * lines.index(line) + (rule == "pooled") - len(lines) + 0.5)
        ordered = rows.sort_values("share")
        x, y, low, high = (ordered[name].to_numpy(float) for name in ("share", "mean", "low", "high"))
        axes.plot(x + shift, y, color=colour, label=f"{line}, {rule}", linestyle=dashes, marker=marker, markersize=4)
        if rule == "positive":
            known = np.isfinite(low)
            axes.vlines(x[known] + shift, low[known], high[known], color=colour, linewidth=1.0, alpha=0.7)
    shares = sorted(set(table["share"]))
    axes.set_xticks(shares, [f"{share:g}" for share in shares])


_LOSS, _MEAN = "loss", "dice/mean"
_DASHES: Mapping[str, Literal["-", "--"]] = {REAL_ONLY: "--", REAL_PLUS_GAN: "-"}


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
        lines = [
            Line2D([], [], color=ARM_COLOURS[arm], marker=ARM_MARKERS[arm], linestyle=_DASHES[arm], label=words(arm))
            for arm in ARMS
        ]
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
            arm = training.arm.training_set
            look: dict[str, Any] = {"color": ARM_COLOURS[arm], "marker": ARM_MARKERS[arm], "linestyle": _DASHES[arm]}
            axes.plot(history["step"], history[column], linewidth=1.2, markersize=3.5, alpha=0.8, **look)
    if column == _LOSS:
        axes.set_ylim(bottom=0)
    else:
        axes.set_ylim(0, 1)
    axes.set_xlim(left=0)
    tidy(axes)
