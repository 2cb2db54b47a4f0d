"""The answer in words: one sentence a tissue, with its figures."""

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from common.pages.words import ABSENT, count, interval, number, upper_first, words
from imaging.labels import LabelSet
from segmentation.comparison.arms import Comparison
from segmentation.comparison.statistics import (
    BETTER,
    BETTER_IN_THIS_FOLD,
    BETTER_WITH_THIS_SEED,
    MINIMUM_PAIRS,
    NO_EVIDENCE,
    TOO_FEW,
    WORSE,
    WORSE_IN_THIS_FOLD,
    WORSE_WITH_THIS_SEED,
)
from segmentation.model_kind import ARMS, REAL_ONLY, REAL_PLUS_GAN
from segmentation.report.material import ReportMaterial

Row = Mapping[Hashable, Any]

_RULE = "positive"
_VERDICTS = {
    BETTER: "synthetic slices helped",
    WORSE: "synthetic slices did harm",
    BETTER_WITH_THIS_SEED: "synthetic slices helped with this one seed",
    WORSE_WITH_THIS_SEED: "synthetic slices did harm with this one seed",
    BETTER_IN_THIS_FOLD: "synthetic slices helped with this one fold's training set",
    WORSE_IN_THIS_FOLD: "synthetic slices did harm with this one fold's training set",
    NO_EVIDENCE: "no evidence of a difference",
    TOO_FEW: f"too few patients for a verdict (fewer than {MINIMUM_PAIRS})",
}
KINDS = {
    BETTER: "better",
    WORSE: "worse",
    BETTER_WITH_THIS_SEED: "better",
    WORSE_WITH_THIS_SEED: "worse",
    BETTER_IN_THIS_FOLD: "better",
    WORSE_IN_THIS_FOLD: "worse",
    NO_EVIDENCE: "none",
    TOO_FEW: "few",
}


class Answer(NamedTuple):
    """One tissue's sentence; `kind` is that of its verdicts, `mixed` where networks differ, `absent` without any."""

    tissue: str
    sentence: str
    kind: str


def answers(material: ReportMaterial) -> list[Answer]:
    """Return the sentence of each tissue, the rarest tissue first: it is what the question is about."""
    return answers_of(material.comparison, material.labels)


def answers_of(comparison: Comparison, labels: LabelSet) -> list[Answer]:
    """Return the sentence of each tissue of a comparison, the rarest tissue first."""
    return [_answer(comparison, tissue) for _, tissue in reversed(labels.foreground)]


def _answer(comparison: Comparison, tissue: str) -> Answer:
    found = comparison.differences
    rows = found[(found["tissue"] == tissue) & (found["rule"] == _RULE)].to_dict("records")
    name = upper_first(words(tissue))
    if not rows:
        return Answer(name, _without_pairs(comparison, tissue), "absent")
    verdicts = {row["verdict"] for row in rows}
    if len(verdicts) == 1:
        (verdict,) = verdicts
        either = " with either network" if len(rows) > 1 else ""
        figures = "; ".join(f"{words(row['network'])} {_figures(row)}" for row in rows)
        return Answer(name, f"{_VERDICTS[verdict]}{either}: {figures}.", KINDS[verdict])
    parts = [f"{_VERDICTS[row['verdict']]} with {words(row['network'])}: {_figures(row)}" for row in rows]
    return Answer(name, "; ".join(parts) + ".", "mixed")


def _figures(row: Row) -> str:
    change = f"Dice {number(row[REAL_ONLY])} → {number(row[REAL_PLUS_GAN])}"
    between = interval(row["low"], row["high"], "+.3f")
    span = "no interval" if between == ABSENT else f"95 % interval {between}"
    counted = count(int(row["pairs"]), "patient")
    return f"{change} ({number(row['difference'], '+.3f')}, {span}; {counted}{_doubt(row)})"


def _doubt(row: Row) -> str:
    """Return why there is no evidence although the interval leaves out zero; empty where it does not."""
    if row["verdict"] != NO_EVIDENCE or row["low"] <= 0 <= row["high"] or not np.isfinite(row["low"]):
        return ""
    return f"; the interval leaves out zero, but p is {number(row['p_holm'])} once corrected for all comparisons"


def _without_pairs(comparison: Comparison, tissue: str) -> str:
    summary = comparison.summary
    scored = summary[(summary["tissue"] == tissue) & (summary["rule"] == _RULE) & summary["training_set"].isin(ARMS)]
    if scored.empty:
        return "no test patient has it, so nothing can be said."
    missing = " and ".join(words(arm) for arm in ARMS if arm not in set(scored["training_set"]))
    reason = (
        f"no answer yet, as {missing} has not been scored" if missing else "no answer, as the arms share no network"
    )
    return f"{reason}: {'; '.join(_alone(row) for _, row in scored.iterrows())}."


def _alone(row: "pd.Series[Any]") -> str:
    between = interval(row["low"], row["high"])
    span = "" if between == ABSENT else f" (95 % interval {between})"
    return f"{words(row['network'])}, {words(row['training_set'])}, Dice {number(row['mean'])}{span}"
