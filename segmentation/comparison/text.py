"""The comparison as text: Markdown tables whose columns also line up on a console.

Scores of all finished folds together: every patient tested once, by the fold that had not seen them.

What does not live here: the comparison of two arms on the same patients (`segmentation.comparison.arms`).
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from common.pages.words import words
from imaging.labels import LabelSet
from segmentation.comparison.arms import (
    Comparison,
    ScoredTable,
    interval_notes,
    refuse_differing,
    summarise,
)
from segmentation.comparison.statistics import complete_seeds
from segmentation.scoring.yardsticks import absent_yardsticks

Row = Mapping[Hashable, Any]

_HOLM = (
    "Interval and P(better), the confidence that a difference is above zero, look at each difference alone; p (Holm) "
    "is corrected for all of them together. Better and worse need an interval without zero and such a p below 0.05."
)

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
DIFFERENCE_HEADINGS = (
    "network",
    "tissue",
    "difference",
    "95 % interval",
    "P(better)",
    "p (Holm)",
    "pairs",
    "verdict",
)


def render_comparison(comparison: Comparison, labels: LabelSet) -> str:
    """Return the main table, the differences and the notes as Markdown."""
    parts = [render_summary(comparison.summary, labels)]
    if len(comparison.differences):
        parts.append(f"{comparison.names[1]} minus {comparison.names[0]}, paired by patient and seed, positive rule:")
        parts.append(render_differences(comparison.differences))
        parts.append(_HOLM)
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
            lines.append([network, training_set or "(yardstick)", words(tissue), *_cells(found, group, tissue)])
    return lines


def render_differences(differences: pd.DataFrame, rule: str = "positive") -> str:
    """Return `difference_lines` as Markdown."""
    return markdown_table(DIFFERENCE_HEADINGS, difference_lines(differences, rule))


def difference_lines(differences: pd.DataFrame, rule: str) -> list[list[str]]:
    """Return the differences between the arms under one rule; columns are `DIFFERENCE_HEADINGS`."""
    chosen = differences[differences["rule"] == rule]
    return [
        [
            row["network"],
            words(row["tissue"]),
            f"{row['difference']:+.3f}",
            _range(row["low"], row["high"], "+.3f"),
            _number(row["probability_better"], ".2f"),
            _number(row["p_holm"], ".3f"),
            str(row["pairs"]),
            row["verdict"],
        ]
        for row in chosen.to_dict("records")
    ]


def _group_of_tissue(labels: LabelSet) -> Mapping[str, str]:
    return {labels.tissues[min(values)]: group for group, values in labels.official_groups.items()}


def _cells(found: Mapping[str, Row | None], group: str, tissue: str) -> list[str]:
    positive, official = found["positive"], _mean(found["official"])
    if official != _ABSENT and group != tissue:
        official += f" ({words(group)})"
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


_LESIONS = ("infarction", "no_reflow")  # of the official groups
DETECTION_COLUMNS = ("network", "training_set", "tissue", "sensitivity", "ill", "specificity", "healthy")


@dataclass(frozen=True)
class PooledScores:
    """Tables over all folds.

    Attributes:
        summary: `comparison.SUMMARY_COLUMNS`; yardsticks have an empty training set.
        detection: `DETECTION_COLUMNS`: of patients with the lesion, the share in whom any is drawn; of those without,
            the share in whom none is.
        notes: What a reader must know.
    """

    summary: pd.DataFrame
    detection: pd.DataFrame
    notes: tuple[str, ...] = ()


def pool_folds(tables: Sequence[ScoredTable]) -> PooledScores:
    """Return the tables of scores of several folds, seeds and models as one.

    Raises:
        InputError: They differ in source, profile, settings, data or ScarForge's version, a patient was tested in two
            folds, or folds lack seeds.
    """
    refuse_differing(tables)
    scores = pd.concat([table.scores for table in tables], ignore_index=True)
    detection = pd.DataFrame(_detections(scores), columns=list(DETECTION_COLUMNS))
    summary = summarise(scores)
    trained = summary[summary["training_set"] != ""]
    return PooledScores(summary, detection, (*interval_notes(trained), *absent_yardsticks(scores)))


def render_pooled(pooled: PooledScores, labels: LabelSet) -> str:
    """Return both tables as Markdown."""
    parts = [render_summary(pooled.summary, labels)]
    if len(pooled.detection):
        lines = [
            [
                row["network"],
                row["training_set"] or "(yardstick)",
                words(row["tissue"]),
                *(_share(row[what], row[of]) for what, of in (("sensitivity", "ill"), ("specificity", "healthy"))),
            ]
            for row in pooled.detection.to_dict("records")
        ]
        headings = ("network", "training set", "lesion", "found in patients with it", "none drawn in those without")
        parts.append(markdown_table(headings, lines))
    parts += pooled.notes
    return "\n\n".join(parts) + "\n"


def _share(value: float, of: int) -> str:
    return f"{value:.3f} of {of}" if of else "–"


def _detections(scores: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield a row for each model and lesion: its patients' volumes under the official rule tell who has it.

    A patient who was given a lesion by some of the seeds counts by their share.
    """
    volumes = scores[(scores["rule"] == "official") & scores["metric"].isin(["volume", "reference_volume"])]
    volumes = volumes[volumes["tissue"].isin(_LESIONS)].fillna({"seed": -1, "frame": ""})
    if volumes.empty:
        return
    volumes = complete_seeds(volumes).sort_values("training_set", key=lambda names: names == "", kind="stable")
    keys = ["case_id", "seed", "frame"]
    for (network, training_set, tissue), part in volumes.groupby(["network", "training_set", "tissue"], sort=False):
        each = part.drop_duplicates([*keys, "metric"]).pivot_table(index=keys, columns="metric", values="value") > 0
        of_patients = each.astype(float).groupby("case_id").mean()
        has, drawn = of_patients["reference_volume"] > 0, of_patients["volume"]
        yield {
            "network": network,
            "training_set": training_set,
            "tissue": tissue,
            "sensitivity": float(drawn[has].mean()),
            "ill": int(has.sum()),
            "specificity": float(1 - drawn[~has].mean()),
            "healthy": int((~has).sum()),
        }
