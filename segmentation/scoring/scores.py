"""Scores of segmented patients under the four rules, as one tidy table.

Which metric exists under which rule is in `rules`, how a study is measured in `study_scores`. Empty cases are
fixed there: under `official` an empty reference with an empty prediction scores 1; the other rules leave out what has
neither; what is empty on one side only scores 0, and has no distance (NaN under `official`, no row under `positive`).

Scores that need more than one study: pooled overlap, detection over patients, ejection fraction over two frames. All
are formed from the rows of the single studies. Ejection fractions stand in rows of their patient with an empty
frame; they exist where a patient has both `ED` and `ES`.

Pixel accuracy and F1, the figures of source B (Fakhfakh et al. 2025: "up to 98 % accuracy and F1-score"). Both count
background, which fills most of a slice, and so lie far above a tissue's Dice; they serve to compare with that paper and
judge nothing here. It does not say over which pixels: here all of the regions that the network sees.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.errors import InputError, one_line, some_of
from common.files import of_the_disk, write_atomically
from common.guard import guarded
from common.tables import read_csv, write_csv
from imaging.labels import LabelSet
from imaging.studies.study import ED, ES, PHASES
from segmentation.scoring.overlap import Counts, count_voxels, ejection_fraction, slice_confusions
from segmentation.scoring.rules import COUNT_METRICS, RULES, Level, Structures, entries, structures
from segmentation.scoring.study_scores import score_patient, score_row

__all__ = [
    "ALL_PATIENTS",
    "COUNT_METRICS",
    "RULES",
    "SCORE_COLUMNS",
    "ScoreIdentity",
    "ScoredVolume",
    "read_scores",
    "score_patient",
    "score_table",
    "write_scores",
]

RULES_VERSION = "3"  # raised when the same label maps get other scores: such scores cannot be set beside each other

SCORE_COLUMNS = (
    "fold",
    "network",
    "training_set",
    "seed",
    "case_id",
    "frame",
    "slice_index",
    "rule",
    "tissue",
    "metric",
    "value",
    "unit",
)

_WHOLE_NUMBERS = ("fold", "seed", "slice_index")


class ScoredVolume(NamedTuple):
    """A study's reference and prediction (S, H, W) on its own grid; spacing is (slice, row, column)."""

    case_id: str
    frame: str
    reference: NDArray[np.integer]
    prediction: NDArray[np.integer]
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True)
class ScoreIdentity:
    """Whose scores these are; a yardstick has no training set and no seed, a folder of label maps nothing."""

    fold: int | None = None
    network: str = ""
    training_set: str = ""
    seed: int | None = None


def score_table(
    volumes: Iterable[ScoredVolume | tuple[Any, ...]],
    identity: ScoreIdentity,
    labels: LabelSet,
    refuse: Callable[[ScoredVolume, str], None] | None = None,
) -> pd.DataFrame:
    """Score all test patients of one model: a table with `SCORE_COLUMNS`.

    Args:
        volumes: (case_id, frame, reference, prediction, spacing_mm) for each study.
        identity: The columns that say whose scores these are.
        labels: Tissue names and official groups.
        refuse: Takes a study that cannot be scored, and why; it is in no score. None lets the error stop everything.

    Raises:
        InputError: A study cannot be scored (named) and there is no `refuse`, or one occurs twice, or there is none.
    """
    rows: list[dict[str, Any]] = []
    seen: set[tuple[str, str]] = set()
    for volume in (ScoredVolume(*item) for item in volumes):
        key = (volume.case_id, volume.frame)
        if key in seen:
            raise InputError(f"patient {' '.join(key).strip()} was given twice; score each study once")
        seen.add(key)
        with guarded(" ".join(key).strip(), partial(refuse, volume)) if refuse else nullcontext():
            rows += [{"case_id": key[0], "frame": key[1], **row} for row in _score_named(volume, labels)]
    if not rows:
        raise InputError("there is no study to score; check that the split has test patients")
    rows += joint_rows(rows, labels)
    table = pd.DataFrame(rows).assign(**vars(identity))
    return _typed(table)


def write_scores(path: Path, table: pd.DataFrame) -> None:
    """Write a table of scores as CSV, whole or not at all."""
    write_atomically(path, lambda part: write_csv(table, part))


def read_scores(path: Path) -> pd.DataFrame:
    """Read a table that `write_scores` wrote.

    Raises:
        InputError: The file is absent or is not a table of scores.
    """
    remedy = "rematerialise the scores asset that wrote it"
    try:
        table = read_csv(path, dtype="str", keep_default_na=False)
        typed = _typed(table) if tuple(table.columns) == SCORE_COLUMNS else None
    except (OSError, ValueError, TypeError) as error:
        raise of_the_disk(path, error) or InputError(f"{path}: cannot be read ({one_line(error)}); {remedy}") from error
    if typed is None:
        raise InputError(
            f"{path}: has columns [{some_of(map(repr, table.columns))}], not {list(SCORE_COLUMNS)}; {remedy}"
        )
    return typed


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    table = table.reindex(columns=list(SCORE_COLUMNS))
    numbers = {
        name: pd.to_numeric(table[name].replace("", None), errors="raise").astype("Int64") for name in _WHOLE_NUMBERS
    }
    texts = {name: table[name].astype("str") for name in SCORE_COLUMNS if name not in (*_WHOLE_NUMBERS, "value")}
    return table.assign(**numbers, **texts, value=pd.to_numeric(table["value"].replace("", None)).astype(float))


def _score_named(volume: ScoredVolume, labels: LabelSet) -> list[dict[str, Any]]:
    try:
        return score_patient(volume.reference, volume.prediction, volume.spacing_mm, labels)
    except InputError as error:
        raise InputError(f"patient {volume.case_id} {volume.frame}".strip() + f": {error}") from error


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
