"""Agreement of predicted with reference volumes in mL (Bland and Altman, Lancet 1986; 327: 307)."""

from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.pages.kit import (
    ARM_COLOURS,
    ARM_MARKERS,
    INK,
    LINE,
    WIDTH_IN,
    Picture,
    say_instead,
    svg_picture,
    svg_style,
    tidy,
)
from common.pages.words import words
from segmentation.model_kind import ARMS

GROUPS = ("infarction", "no_reflow")
LIMIT_DEVIATIONS = 1.96  # of the differences, between which 95 % of a normal distribution lies
_KEY = ["network", "training_set", "tissue", "case_id", "frame"]
_COLUMNS = {"volume": "predicted_ml", "reference_volume": "reference_ml"}


class Agreement(NamedTuple):
    """Bias (prediction minus reference) and limits of agreement in mL; NaN where there are too few patients.

    `plotted` have the tissue on either side; of these, `missed` have it in the reference alone and `invented` in the
    prediction alone. `neither` have it on no side and take no part.
    """

    network: str
    training_set: str
    tissue: str
    plotted: int
    bias_ml: float
    low_ml: float
    high_ml: float
    missed: int
    invented: int
    neither: int


def volumes(scores: pd.DataFrame) -> pd.DataFrame:
    """Return each test study's volumes, mean over seeds: the key, `predicted_ml`, `reference_ml`."""
    rows = scores[
        (scores["rule"] == "official")
        & scores["tissue"].isin(GROUPS)
        & scores["metric"].isin(list(_COLUMNS))
        & scores["training_set"].isin(ARMS)
    ]
    wide = rows.pivot_table(index=_KEY, columns="metric", values="value", aggfunc="mean", sort=False)
    return wide.reindex(columns=list(_COLUMNS)).rename(columns=_COLUMNS).rename_axis(columns=None).reset_index()


def agreements(table: pd.DataFrame) -> list[Agreement]:
    """Return the agreement of every tissue, network and arm in a table from `volumes`."""
    return [
        _agreement(str(network), str(arm), tissue, rows)
        for tissue in GROUPS
        for (network, arm), rows in table[table["tissue"] == tissue].groupby(["network", "training_set"], sort=False)
    ]


def limits(differences: "pd.Series[float]") -> tuple[float, float, float]:
    """Return bias and limits of agreement; limits need two differences."""
    if differences.empty:
        return float("nan"), float("nan"), float("nan")
    bias, spread = float(differences.mean()), float(LIMIT_DEVIATIONS * differences.std(ddof=1))
    return bias, bias - spread, bias + spread


def bland_altman_picture(table: pd.DataFrame, tissue: str) -> Picture:
    """Draw difference against mean, one panel a network and arm, all with the same axes."""
    chosen = table[table["tissue"] == tissue]
    arms = [(str(n), str(arm)) for n in chosen["network"].unique() for arm in ARMS]
    with mpl.rc_context(svg_style()):
        figure = Figure(figsize=(WIDTH_IN, 2.5), layout="constrained")
        panels = figure.subplots(1, len(arms), squeeze=False, sharex=True, sharey=True)[0]
        for axes, (network, arm) in zip(panels, arms, strict=True):
            own = chosen[(chosen["network"] == network) & (chosen["training_set"] == arm)]
            _draw(axes, _present(own), arm)
            axes.set_title(f"{words(network)}, {words(arm)}", fontsize=9)
            axes.set_xlabel("mean of both (mL)")
        panels[0].set_ylabel("prediction − reference (mL)")
        return svg_picture(figure, f"Bland-Altman plots of {words(tissue)} volume; the table gives bias and limits")


def _agreement(network: str, arm: str, tissue: str, rows: pd.DataFrame) -> Agreement:
    present = _present(rows)
    bias, low, high = limits(present["predicted_ml"] - present["reference_ml"])
    missed = int((present["predicted_ml"] == 0).sum())
    invented = int((present["reference_ml"] == 0).sum())
    neither = len(rows) - len(present)
    return Agreement(network, arm, tissue, len(present), bias, low, high, missed, invented, neither)


def _present(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[(rows["predicted_ml"] > 0) | (rows["reference_ml"] > 0)]


def _draw(axes: Axes, rows: pd.DataFrame, arm: str) -> None:
    tidy(axes)
    axes.axhline(0, color=LINE, linewidth=0.8)
    if rows.empty:
        say_instead(axes, "no patient\nhas it")
        return
    difference = rows["predicted_ml"] - rows["reference_ml"]
    mean = (rows["predicted_ml"] + rows["reference_ml"]) / 2
    axes.plot(mean, difference, ARM_MARKERS[arm], color=ARM_COLOURS[arm], markersize=4, alpha=0.8)
    bias, low, high = limits(difference)
    axes.axhline(bias, color=INK, linewidth=1.4)
    for level in (low, high):
        if np.isfinite(level):
            axes.axhline(level, color=INK, linewidth=1, linestyle="--")
