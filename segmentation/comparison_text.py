"""The comparison as text: Markdown tables whose columns also line up on a console."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from imaging.labels import LabelSet
from segmentation.comparison import REAL_ONLY, REAL_PLUS_GAN, Comparison

Row = Mapping[Hashable, Any]

_ABSENT = "–"
_RULES_SHOWN = ("positive", "pooled", "official", "per_slice")
SUMMARY_HEADINGS = (
    "network",
    "training set",
    "tissue",
    "positive",
    "95 % interval",
    "patients",
    "pooled",
    "official",
    "per slice",
)


def render_comparison(comparison: Comparison, labels: LabelSet) -> str:
    """Return the main table, the differences and the notes as Markdown."""
    parts = [render_summary(comparison.summary, labels)]
    if len(comparison.differences):
        parts.append(f"{REAL_PLUS_GAN} minus {REAL_ONLY}, paired by patient and seed, positive rule:")
        parts.append(render_differences(comparison.differences))
    parts += comparison.notes
    return "\n\n".join(parts) + "\n"


def render_summary(summary: pd.DataFrame, labels: LabelSet) -> str:
    """Return `summary_lines` as Markdown."""
    return markdown_table(SUMMARY_HEADINGS, summary_lines(summary, labels))


def summary_lines(summary: pd.DataFrame, labels: LabelSet) -> list[list[str]]:
    """Return Dice by network, training set and tissue under the four rules, yardsticks beneath.

    The official rule's groups stand on the row of the tissue they start with, named in brackets if the name
    differs. Columns are `SUMMARY_HEADINGS`.
    """
    values = {
        (row["network"], row["training_set"], row["tissue"], row["rule"]): row for row in summary.to_dict("records")
    }
    arms = list(dict.fromkeys((network, training_set) for network, training_set, _, _ in values))
    arms.sort(key=lambda arm: arm[1] == "")  # stable: yardsticks last
    groups = _group_of_tissue(labels)
    lines = []
    for network, training_set in arms:
        for _, tissue in labels.foreground:
            found = {rule: values.get((network, training_set, tissue, rule)) for rule in _RULES_SHOWN}
            group = groups.get(tissue, "")
            found["official"] = values.get((network, training_set, group, "official"))
            lines.append([network, training_set or "(yardstick)", tissue, *_cells(found, group, tissue)])
    return lines


def render_differences(differences: pd.DataFrame, rule: str = "positive") -> str:
    """Return the differences between the arms under one rule, with interval, test and verdict."""
    chosen = differences[differences["rule"] == rule]
    headings = (
        "network",
        "tissue",
        "difference",
        "95 % interval",
        "P(better)",
        "p (Holm)",
        "pairs",
        "verdict",
    )
    lines = [
        [
            row["network"],
            row["tissue"],
            f"{row['difference']:+.3f}",
            _range(row["low"], row["high"], "+.3f"),
            _number(row["probability_better"], ".2f"),
            _number(row["p_holm"], ".3f"),
            str(row["pairs"]),
            row["verdict"],
        ]
        for row in chosen.to_dict("records")
    ]
    return markdown_table(headings, lines)


def _group_of_tissue(labels: LabelSet) -> Mapping[str, str]:
    return {labels.tissues[min(values)]: group for group, values in labels.official_groups.items()}


def _cells(found: Mapping[str, Row | None], group: str, tissue: str) -> list[str]:
    positive, official = found["positive"], _mean(found["official"])
    if official != _ABSENT and group != tissue:
        official += f" ({group})"
    interval, patients = _ABSENT, "0"
    if positive is not None:
        interval = _range(positive["low"], positive["high"], ".3f")
        patients = str(positive["patients"])
    return [_mean(positive), interval, patients, _mean(found["pooled"]), official, _mean(found["per_slice"])]


def _mean(row: Row | None) -> str:
    return _ABSENT if row is None else _number(row["mean"], ".3f")


def _number(value: float, form: str) -> str:
    return format(value, form) if np.isfinite(value) else _ABSENT


def _range(low: float, high: float, form: str) -> str:
    return f"{low:{form}} to {high:{form}}" if np.isfinite(low) and np.isfinite(high) else _ABSENT


def markdown_table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose columns line up."""
    widths = [max(map(len, column)) for column in zip(headings, *lines, strict=True)]
    rows = [headings, ["-" * width for width in widths], *lines]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    )
