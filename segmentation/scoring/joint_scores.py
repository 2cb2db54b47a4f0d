"""Scores that need more than one study: pooled overlap, detection over patients, ejection fraction over two frames.

All are formed from the rows of the single studies. Ejection fractions stand in rows of their patient with an empty
frame; they exist where a patient has both `ED` and `ES`.

Pixel accuracy and F1, the figures of source B (Fakhfakh et al. 2025: "up to 98 % accuracy and F1-score").

Both count background, which fills most of a slice, and so lie far above a tissue's Dice; they serve to compare with
that paper and judge nothing here. It does not say over which pixels: here all of the regions that the network sees.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from imaging.labels import LabelSet
from imaging.studies.study import ED, ES, PHASES
from segmentation.scoring.overlap import Counts, count_voxels, ejection_fraction, slice_confusions
from segmentation.scoring.rules import COUNT_METRICS, Level, Structures, entries, structures
from segmentation.scoring.study_scores import score_row

ALL_PATIENTS = "all"  # in the column of patients; a patient may be called so, see `patient_rows`

Row = dict[str, Any]

_OF_ALL = [(entry.rule, metric) for entry in entries(Level.ALL) for metric in entry.metrics]


def joint_rows(rows: list[Row], labels: LabelSet) -> list[Row]:
    """Return the rows that join the studies in `rows`; a class that nobody has gives none."""
    return [*_pooled_rows(rows), *_ejection_rows(rows), *_detection_rows(rows, labels)]


def patient_rows(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a table of scores that stand for a patient, whatever the patient is called."""
    keys = pd.MultiIndex.from_frame(scores[["rule", "metric"]])
    return scores[~keys.isin(_OF_ALL)]


def _pooled_rows(rows: Iterable[Row]) -> Iterator[Row]:
    totals: dict[str, dict[str, int]] = {}
    for row in rows:
        if row["metric"] in COUNT_METRICS:
            of_tissue = totals.setdefault(row["tissue"], dict.fromkeys(COUNT_METRICS, 0))
            of_tissue[row["metric"]] += int(row["value"])
    for tissue, of_tissue in totals.items():
        counts = Counts(*(of_tissue[metric] for metric in COUNT_METRICS))
        if not counts.empty:
            for metric, value in counts.overlap().items():
                yield _of(ALL_PATIENTS, score_row("pooled", tissue, metric, value))


def _ejection_rows(rows: Iterable[Row]) -> Iterator[Row]:
    (entry,) = entries(Level.PATIENT)
    for case_id, volumes in _volumes(rows, "cavity").items():
        if volumes.keys() >= set(PHASES):
            (predicted_ed, reference_ed), (predicted_es, reference_es) = volumes[ED], volumes[ES]
            predicted = ejection_fraction(predicted_ed, predicted_es)
            reference = ejection_fraction(reference_ed, reference_es)
            values = (predicted, reference, abs(predicted - reference))
            for metric, value in zip(entry.metrics, values, strict=True):
                yield _of(case_id, score_row(entry.rule, "cavity", metric, value))


def _detection_rows(rows: list[Row], labels: LabelSet) -> Iterator[Row]:
    """Yield sensitivity and specificity; without patients who have (or lack) a lesion there is none."""
    for group in structures(Structures.LESIONS, labels):
        of_patients = [
            (any(volume > 0 for volume, _ in frames.values()), any(reference > 0 for _, reference in frames.values()))
            for frames in _volumes(rows, group).values()
        ]
        for metric, present in (("sensitivity", True), ("specificity", False)):
            right = [found == has for found, has in of_patients if has == present]
            if right:
                yield _of(ALL_PATIENTS, score_row("official", group, metric, sum(right) / len(right)))


def _volumes(rows: Iterable[Row], tissue: str) -> dict[str, dict[str, tuple[float, float]]]:
    """Return predicted and reference volume in mL by patient and frame, from the official rows of a group."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        if row["rule"] == "official" and row["tissue"] == tissue and row["metric"] in ("volume", "reference_volume"):
            found.setdefault(row["case_id"], {}).setdefault(row["frame"], {})[row["metric"]] = row["value"]
    return {
        case_id: {frame: (pair["volume"], pair["reference_volume"]) for frame, pair in frames.items()}
        for case_id, frames in found.items()
    }


def _of(case_id: str, row: Row) -> Row:
    return {"case_id": case_id, "frame": "", **row}


def pixel_scores(reference: NDArray[np.integer], prediction: NDArray[np.integer], labels: LabelSet) -> dict[str, float]:
    """Return the share of pixels labelled rightly and the F1-score of every label, over all slices together.

    Args:
        reference: (N, H, W) label values.
        prediction: (N, H, W) label values.
        labels: Names of the label values.

    Returns:
        `accuracy`; `f1/LABEL`, background included, without labels that neither side holds; `f1/mean` over these.
    """
    confusion = slice_confusions(reference, prediction, labels.num_classes).sum(axis=0)  # (C, C), rows: reference
    counts = {name: count_voxels(confusion, [value]) for value, name in enumerate(labels.tissues)}
    f1 = {f"f1/{name}": of_label.dice() for name, of_label in counts.items() if not of_label.empty}
    return {
        "accuracy": float(np.trace(confusion) / confusion.sum()),
        **f1,
        "f1/mean": float(np.mean(list(f1.values()))),
    }
