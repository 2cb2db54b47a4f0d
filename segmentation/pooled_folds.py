"""Scores of all finished folds together: every patient tested once, by the fold that had not seen them.

What does not live here: the comparison of two arms on the same patients (`segmentation.comparison`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from imaging.labels import LabelSet
from segmentation.comparison import ScoredTable, interval_notes, refuse_differing, summarise
from segmentation.comparison_text import markdown_table, render_summary
from segmentation.contributions import complete_seeds
from segmentation.yardsticks import absent_yardsticks

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
                row["tissue"],
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
