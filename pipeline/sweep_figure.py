"""The curve of a sweep as SVG text: Dice against the share of synthetic slices, one panel a tissue."""

import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imaging.dataset_card.page import words
from imaging.labels import LabelSet
from segmentation.sweep_curve import CURVE_RULES

_COLOURS = ("#1f5f99", "#c0504d", "#2a7f62", "#8064a2", "#b8860b", "#303030")
_STYLES = {"positive": ("-", "o"), "pooled": (":", "s")}
_APART = 0.012  # between the lines of one share, so that their intervals can be told apart


def curve_svg(table: pd.DataFrame, labels: LabelSet) -> str:
    """Return the plot of a table of `write_sweep`: solid with 95 % intervals the positive rule, dotted the pooled."""
    tissues = [tissue for _, tissue in labels.foreground if tissue in set(table["tissue"])]
    figure = Figure(figsize=(3.0 * max(len(tissues), 2), 3.6), layout="constrained")
    panels = figure.subplots(1, len(tissues), squeeze=False)[0]
    for axes, tissue in zip(panels, tissues, strict=True):
        _draw(axes, table[table["tissue"] == tissue])
        axes.set_title(words(tissue), fontsize=10)
        axes.set_xlabel("share of synthetic slices", fontsize=9)
    panels[0].set_ylabel("Dice, test patients", fontsize=9)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return _as_text(figure)


def _draw(axes: Axes, table: pd.DataFrame) -> None:
    counts: Sequence[int] = list(dict.fromkeys(table["real_patients"]))
    for place, count in enumerate(counts):
        for rule in CURVE_RULES:
            rows = table[(table["real_patients"] == count) & (table["rule"] == rule)].sort_values("synthetic_share")
            shift = _APART * (2 * place + (rule == "pooled") - len(counts) + 0.5)
            _line(axes, rows, shift, _COLOURS[place % len(_COLOURS)], f"{count} real patients, {rule}", rule)
    shares = sorted(set(table["synthetic_share"]))
    axes.set_xticks(shares, [f"{share:g}" for share in shares], fontsize=8)
    axes.set_xlim(min(shares) - 0.08, max(shares) + 0.08)
    axes.set_ylim(-0.02, 1.02)
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, axis="y", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)


def _line(axes: Axes, rows: pd.DataFrame, shift: float, colour: str, name: str, rule: str) -> None:
    x, y = rows["synthetic_share"].to_numpy(float) + shift, rows["mean"].to_numpy(float)
    dashes, marker = _STYLES[rule]
    axes.plot(x, y, color=colour, label=name, linestyle=dashes, marker=marker, linewidth=1.6, markersize=4)
    if rule == CURVE_RULES[0]:
        known = np.isfinite(rows["low"].to_numpy(float))
        low, high = (rows[name].to_numpy(float)[known] for name in ("low", "high"))
        axes.vlines(x[known], low, high, color=colour, linewidth=1.0, alpha=0.7)


def _as_text(figure: Figure) -> str:
    """Return SVG whose bytes depend on the drawing alone."""
    target = io.StringIO()
    with rc_context({"svg.hashsalt": "sweep", "svg.fonttype": "none"}):
        figure.savefig(target, format="svg", metadata={"Date": None})
    return target.getvalue()
