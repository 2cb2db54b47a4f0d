"""Figures: a prediction beside its reference, and two tables of scores beside each other."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.errors import InputError
from imaging.labels import LABEL_SETS
from imaging.studies.study import Study
from scarforge.models import Prediction, checked_spacing
from segmentation.comparison.arms import compare_two
from segmentation.evaluation.cautions import Numbering, cautions, volume_facts
from segmentation.evaluation.evaluation import evaluate_folders
from segmentation.evaluation.label_maps import LABEL_FORMATS
from segmentation.scoring.scores import ScoredVolume, ScoreIdentity, score_table

Reference = Study | NDArray[np.integer]
Segmented = Prediction | NDArray[np.integer]


def evaluate(
    reference: Reference | Sequence[Reference] | str | os.PathLike[str],
    prediction: Segmented | Sequence[Segmented] | str | os.PathLike[str],
    spacing_mm: tuple[float, float, float] | None = None,
    labels: str = "emidec",
) -> pd.DataFrame:
    """Score label maps against their references under every rule (official, positive, pooled, per_slice).

    Args:
        reference: A study of `read_source` or an array (S, H, W), one or several, or a folder of label maps as NIfTI.
        prediction: The same of the prediction, on the same grids and in the same order.
        spacing_mm: Of arrays: (slice, row, column) in mm. Studies have their own.
        labels: The label set of arrays (`emidec`, `cine`), or the format of folders (`emidec`, `acdc`).

    Returns:
        A tidy table, a row a patient, rule, tissue and metric: the columns of `scores.csv`. Arrays are called
        `study_1` and so on.

    Raises:
        InputError: Numbers, shapes or label values do not fit each other, or a file cannot be read.

    Warns:
        UserWarning: What makes label maps suspect, as another numbering; they are scored all the same.
    """
    if isinstance(reference, str | os.PathLike) or isinstance(prediction, str | os.PathLike):
        return _score_folders(reference, prediction, labels)
    references, predictions = _several(reference), _several(prediction)
    if len(references) != len(predictions):
        raise InputError(f"{len(references)} references and {len(predictions)} predictions: give one for each")
    studies = [one for one in references if isinstance(one, Study)]
    if studies and len(studies) < len(references):
        raise InputError("references are studies and arrays; give the ones or the others")
    if not studies and spacing_mm is None:
        raise InputError("the spacing of arrays is unknown; give spacing_mm=(slice, row, column) in mm")
    names = {study.label_set for study in studies} or {labels}
    if len(names) > 1 or not names <= set(LABEL_SETS):
        raise InputError(f"label sets {sorted(names)}: give one of {', '.join(LABEL_SETS)}")
    volumes = [
        _volume(number, one, found, spacing_mm)
        for number, (one, found) in enumerate(zip(references, predictions, strict=True), 1)
    ]
    label_set = LABEL_SETS[names.pop()]
    scores = score_table(volumes, ScoreIdentity(), label_set)
    judged = [volume for volume in volumes if volume.prediction is not volume.reference]  # one array is meant so
    for caution in cautions(volume_facts(judged, label_set), Numbering.of(label_set)):
        warnings.warn(caution.line, stacklevel=2)
    return scores


def compare(first: pd.DataFrame, second: pd.DataFrame, names: tuple[str, str] = ("first", "second")) -> pd.DataFrame:
    """Compare two tables of scores in pairs of patients: the second minus the first.

    Args:
        first: A table of `evaluate`, or read from a `scores.csv`; several folds and seeds may stand in one.
        second: The other, of the same patients.
        names: What the two are called in the result.

    Returns:
        One row a rule and tissue: means, difference, 95 % interval, p, its value after Holm's correction, and a
        verdict in words.

    Raises:
        InputError: They share no patient or no seed.
    """
    return compare_two(first, second, names)


def _several(given: Any) -> Sequence[Any]:
    return [given] if isinstance(given, Study | Prediction | np.ndarray) else list(given)


def _volume(
    number: int, reference: Reference, prediction: Segmented, spacing_mm: tuple[float, float, float] | None
) -> ScoredVolume:
    found = prediction.mask if isinstance(prediction, Prediction) else prediction
    if isinstance(reference, Study):
        return ScoredVolume(reference.case_id, reference.frame, reference.mask, found, reference.spacing_mm)
    return ScoredVolume(f"study_{number}", "", reference, found, checked_spacing(spacing_mm))


def _score_folders(reference: Any, prediction: Any, form: str) -> pd.DataFrame:
    if not (isinstance(reference, str | os.PathLike) and isinstance(prediction, str | os.PathLike)):
        raise InputError("reference and prediction must be two folders, or neither of them")
    if form not in LABEL_FORMATS:
        raise InputError(f"labels={form!r}: folders are in the format {' or '.join(LABEL_FORMATS)}")
    found = evaluate_folders(Path(reference), Path(prediction), LABEL_FORMATS[form])
    if found.problems:
        raise InputError(found.problems[0])
    for line in found.warnings:
        warnings.warn(line, stacklevel=3)
    return found.scores
