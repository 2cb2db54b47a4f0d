"""Overlap scores of segmented patients under the four rules, as one tidy table.

Empty cases are fixed here: under `official` an empty reference with an empty prediction scores 1; the other
rules leave out what has neither; what is empty on one side only scores 0.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from imaging.errors import InputError
from imaging.labels import LabelSet
from training.files import write_atomically

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
RULES = ("official", "positive", "pooled", "per_slice")
ALL_PATIENTS = "all"
COUNT_METRICS = ("tp_voxels", "fp_voxels", "fn_voxels")

_WHOLE_NUMBERS = ("fold", "seed", "slice_index")
_MM3_PER_ML = 1000.0


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


class Counts(NamedTuple):
    """Voxels of one class: hit, predicted in error, and missed."""

    tp: int
    fp: int
    fn: int

    @property
    def empty(self) -> bool:
        """Whether neither reference nor prediction holds the class."""
        return self.tp + self.fp + self.fn == 0

    @property
    def in_reference(self) -> bool:
        """Whether the reference holds the class."""
        return self.tp + self.fn > 0

    def dice(self) -> float:
        """Return 2 TP / (2 TP + FP + FN), and 1 where both sides are empty."""
        return 1.0 if self.empty else 2 * self.tp / (2 * self.tp + self.fp + self.fn)


def slice_confusions(
    reference: NDArray[np.integer], prediction: NDArray[np.integer], num_classes: int
) -> NDArray[np.int64]:
    """Return for each slice how often each reference label met each predicted one, (S, C, C)."""
    pairs = reference.astype(np.int64) * num_classes + prediction
    size = num_classes * num_classes
    counted = [np.bincount(pairs_of_slice.ravel(), minlength=size) for pairs_of_slice in pairs]
    return np.reshape(counted, (-1, num_classes, num_classes)).astype(np.int64)


def count_voxels(confusion: NDArray[np.int64], values: Iterable[int]) -> Counts:
    """Return the counts of the class that joins the label `values`, from a confusion matrix (C, C)."""
    joined = list(values)
    tp = int(confusion[np.ix_(joined, joined)].sum())
    return Counts(tp, int(confusion[:, joined].sum()) - tp, int(confusion[joined].sum()) - tp)


def score_patient(
    reference: NDArray[np.integer],
    prediction: NDArray[np.integer],
    spacing_mm: tuple[float, float, float],
    labels: LabelSet,
) -> list[dict[str, Any]]:
    """Score one study (S, H, W): rows with slice_index, rule, tissue, metric, value and unit.

    Every patient has `tp_voxels`, `fp_voxels` and `fn_voxels` under `pooled`, which form the pooled Dice.

    Raises:
        InputError: Shapes differ, or a label lies outside the label set.
    """
    if reference.shape != prediction.shape or reference.ndim != 3:
        raise InputError(
            f"reference has shape {reference.shape}, prediction {prediction.shape}; both must be the same "
            "(S, H, W): put the prediction back into the study's own grid first"
        )
    labels.check(reference, "reference")
    labels.check(prediction, "prediction")
    confusions = slice_confusions(reference, prediction, labels.num_classes)
    whole = confusions.sum(axis=0)
    return [
        *_official_rows(whole, float(np.prod(spacing_mm)), labels),
        *_tissue_rows(whole, labels),
        *_slice_rows(confusions, labels),
    ]


def score_table(
    volumes: Iterable[ScoredVolume | tuple[Any, ...]], identity: ScoreIdentity, labels: LabelSet
) -> pd.DataFrame:
    """Score all test patients of one model: a table with `SCORE_COLUMNS`.

    Args:
        volumes: (case_id, frame, reference, prediction, spacing_mm) for each study.
        identity: The columns that say whose scores these are.
        labels: Tissue names and official groups.

    Raises:
        InputError: A study cannot be scored (named), occurs twice, or there is none.
    """
    rows: list[dict[str, Any]] = []
    seen: set[tuple[str, str]] = set()
    for volume in (ScoredVolume(*item) for item in volumes):
        key = (volume.case_id, volume.frame)
        if key in seen:
            raise InputError(f"patient {' '.join(key).strip()} was given twice; score each study once")
        seen.add(key)
        rows += [{"case_id": key[0], "frame": key[1], **row} for row in _score_named(volume, labels)]
    if not rows:
        raise InputError("there is no study to score; check that the split has test patients")
    rows += _pooled_rows(rows)
    table = pd.DataFrame(rows).assign(**vars(identity))
    return _typed(table)


def write_scores(path: Path, table: pd.DataFrame) -> None:
    """Write a table of scores as CSV, whole or not at all."""
    write_atomically(path, lambda part: table.to_csv(part, index=False))


def read_scores(path: Path) -> pd.DataFrame:
    """Read a table that `write_scores` wrote.

    Raises:
        InputError: The file is absent or is not a table of scores.
    """
    remedy = "rematerialise the scores asset that wrote it"
    try:
        table = pd.read_csv(path, dtype="str", keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {remedy}") from error
    if tuple(table.columns) != SCORE_COLUMNS:
        raise InputError(f"{path}: has columns {list(table.columns)}, not {list(SCORE_COLUMNS)}; {remedy}")
    return _typed(table)


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    table = table.reindex(columns=list(SCORE_COLUMNS))
    numbers = {
        name: pd.to_numeric(table[name].replace("", None), errors="raise").astype("Int64") for name in _WHOLE_NUMBERS
    }
    texts = {name: table[name].astype("str") for name in SCORE_COLUMNS if name not in (*_WHOLE_NUMBERS, "value")}
    return table.assign(**numbers, **texts, value=table["value"].astype(float))


def _score_named(volume: ScoredVolume, labels: LabelSet) -> list[dict[str, Any]]:
    try:
        return score_patient(volume.reference, volume.prediction, volume.spacing_mm, labels)
    except InputError as error:
        raise InputError(f"patient {volume.case_id} {volume.frame}".strip() + f": {error}") from error


def _row(
    rule: str, tissue: str, metric: str, value: float, unit: str = "", slice_index: int | None = None
) -> dict[str, Any]:
    return {
        "slice_index": slice_index,
        "rule": rule,
        "tissue": tissue,
        "metric": metric,
        "value": float(value),
        "unit": unit,
    }


def _official_rows(confusion: NDArray[np.int64], voxel_mm3: float, labels: LabelSet) -> Iterator[dict[str, Any]]:
    """Dice and volumes of the challenge's groups; without reference myocardium there is no volume ratio."""
    myocardium = count_voxels(confusion, labels.official_groups["myocardium"])
    myocardium_mm3 = (myocardium.tp + myocardium.fn) * voxel_mm3
    for group, values in labels.official_groups.items():
        counts = count_voxels(confusion, values)
        difference_mm3 = abs(counts.fp - counts.fn) * voxel_mm3
        yield _row("official", group, "dice", counts.dice())
        yield _row("official", group, "volume_difference", difference_mm3, "mm3")
        if myocardium_mm3 > 0:
            yield _row("official", group, "volume_difference_ratio", difference_mm3 / myocardium_mm3)
        predicted, reference = counts.tp + counts.fp, counts.tp + counts.fn
        yield _row("official", group, "volume", predicted * voxel_mm3 / _MM3_PER_ML, "mL")
        yield _row("official", group, "reference_volume", reference * voxel_mm3 / _MM3_PER_ML, "mL")


def _tissue_rows(confusion: NDArray[np.int64], labels: LabelSet) -> Iterator[dict[str, Any]]:
    for value, tissue in labels.foreground:
        counts = count_voxels(confusion, (value,))
        if counts.in_reference:
            yield _row("positive", tissue, "dice", counts.dice())
        for metric, voxels in zip(COUNT_METRICS, counts, strict=True):
            yield _row("pooled", tissue, metric, voxels, "voxels")


def _slice_rows(confusions: NDArray[np.int64], labels: LabelSet) -> Iterator[dict[str, Any]]:
    for index, confusion in enumerate(confusions):
        for value, tissue in labels.foreground:
            counts = count_voxels(confusion, (value,))
            if not counts.empty:
                yield _row("per_slice", tissue, "dice", counts.dice(), slice_index=index)


def _pooled_rows(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    totals: dict[str, dict[str, int]] = {}
    for row in rows:
        if row["metric"] in COUNT_METRICS:
            of_tissue = totals.setdefault(row["tissue"], dict.fromkeys(COUNT_METRICS, 0))
            of_tissue[row["metric"]] += int(row["value"])
    for tissue, of_tissue in totals.items():
        yield from _pooled_row(tissue, of_tissue)


def _pooled_row(tissue: str, totals: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    counts = Counts(*(totals[metric] for metric in COUNT_METRICS))
    if not counts.empty:
        yield {"case_id": ALL_PATIENTS, "frame": "", **_row("pooled", tissue, "dice", counts.dice())}
