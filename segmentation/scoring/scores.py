"""Scores of segmented patients under the four rules, as one tidy table.

Which metric exists under which rule is in `score_rules`, how a study is measured in `study_scores`. Empty cases are
fixed there: under `official` an empty reference with an empty prediction scores 1; the other rules leave out what has
neither; what is empty on one side only scores 0, and has no distance (NaN under `official`, no row under `positive`).
"""

from collections.abc import Callable, Iterable
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
from segmentation.scoring.joint_scores import ALL_PATIENTS, joint_rows
from segmentation.scoring.rules import COUNT_METRICS, RULES
from segmentation.scoring.study_scores import score_patient

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
