"""Scores a folder of predictions against a folder of references, and says what could not be scored.

A study that cannot be scored is left out of every score and named in `problems`; the summary tells how many patients of
how many were scored, so that a missing prediction never passes unseen.

Which numbers of the predictions lie on which numbers of the references, and whether that is another numbering.

Summarises an evaluation: means with intervals over patients, and one wide row a patient.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.errors import InputError
from common.guard import guarded
from imaging.dice import dice, dice_terms
from imaging.labels import CineTissue
from imaging.studies.study import PHASES, name_phases
from imaging.volumes.nifti import NiftiVolume
from segmentation.comparison.statistics import Contributions, Estimate, estimate_score
from segmentation.evaluation.cautions import (
    Caution,
    Numbering,
    StudyFacts,
    cautions,
    study_facts,
    with_owners,
)
from segmentation.evaluation.label_maps import (
    PREDICTION,
    REFERENCE,
    LabelFolder,
    LabelFormat,
    LabelMap,
    find_label_maps,
    read_prediction,
    read_reference,
)
from segmentation.scoring.overlap import slice_confusions
from segmentation.scoring.rules import COUNT_METRICS, DETECTION, OVERLAP, RULES, UNITS, metric_bounds
from segmentation.scoring.scores import ScoredVolume, ScoreIdentity, patient_rows, score_table
from segmentation.scoring.yardsticks import ALL_BACKGROUND

_NUMBERS = 256  # of the type that label maps are read as
_SAME_DICE = 0.5  # of two numbers that mean the same, at least
_OTHER_DICE = 0.1  # of a number with itself, where it means something else, at most
_FEWEST = 2  # numbers that a permutation moves


@dataclass
class NumberConfusion:
    """Voxels (N, N) of all studies by the reference's and the prediction's number."""

    voxels: NDArray[np.int64] = field(default_factory=lambda: np.zeros((_NUMBERS, _NUMBERS), np.int64))

    def count(self, reference: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> None:
        """Take in one study (S, H, W)."""
        as_one = (1, 1, -1)  # a table a slice would take half a megabyte each
        self.voxels += slice_confusions(reference.reshape(as_one), prediction.reshape(as_one), _NUMBERS)[0]

    def permuted(self) -> dict[int, int]:
        """Return the reference's number by the prediction's where these surely mean the same, but are not the same.

        Sure is: each number of the references overlaps one of the predictions by a Dice of 0.5 or more, and at least
        two of them another, while their own is below 0.1. Else nothing is told.
        """
        in_reference, in_prediction = self.voxels.sum(axis=1)[:, None], self.voxels.sum(axis=0)[None, :]
        overlap = dice(self.voxels, in_reference, in_prediction, empty=0.0)[1:, 1:]  # without the background
        same = overlap >= _SAME_DICE
        if not same[self.voxels[1:].sum(axis=1) > 0].any(axis=1).all():
            return {}
        moved = {
            int(ours) + 1: int(theirs) + 1
            for ours, theirs in np.argwhere(same.T)
            if max(overlap[ours, ours], overlap[theirs, theirs]) < _OTHER_DICE
        }
        return moved if len(moved) >= _FEWEST else {}


@dataclass(frozen=True)
class Evaluation:
    """What came of it.

    Attributes:
        scores: `SCORE_COLUMNS`, the identity's columns empty.
        yardstick: The same of an all-background prediction, for every reference that could be read.
        problems: One line for each thing that is wrong.
        unscored: Why, by patient, where a study could not be scored.
        studies: Number of studies (patients and frames) in the reference folder.
        scored: How many of them were scored.
        notes: What the files say differently in two places, by patient, which is scored all the same.
        cautions: What makes the label maps suspect, which are scored all the same.
        facts: What these were told from, of every reference that could be read.
        renumbered: Whether a problem tells that the predictions are numbered otherwise.
    """

    scores: pd.DataFrame
    yardstick: pd.DataFrame
    problems: tuple[str, ...]
    unscored: Mapping[str, str]
    studies: int
    scored: int
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cautions: tuple[Caution, ...] = ()
    facts: tuple[StudyFacts, ...] = ()
    renumbered: bool = False

    @property
    def warnings(self) -> list[str]:
        """All notes and cautions, a line each."""
        return [*chain.from_iterable(self.notes.values()), *(caution.line for caution in self.cautions)]

    def warnings_of(self, case_id: str) -> list[str]:
        """The lines that concern a patient."""
        return [*self.notes.get(case_id, ()), *(one.line for one in self.cautions if case_id in one.patients)]


def evaluate_folders(reference: Path, prediction: Path, form: LabelFormat, predicted_only: bool = False) -> Evaluation:
    """Score every study of `reference` that has a usable label map in `prediction`.

    Args:
        reference: Folder of reference label maps.
        prediction: Folder of predicted ones.
        form: Their layout and numbering.
        predicted_only: `prediction` is of one fold's patients; the others are not missing there.

    Raises:
        InputError: A folder is missing or holds no label map, or not one study can be scored.
    """
    predictions = find_label_maps(prediction, form, PREDICTION)
    references = find_label_maps(reference, form, REFERENCE)
    predictions.name_as(references.files)
    if predicted_only:
        references = references.only(predictions.files)
    reader = _Reader(form, references, predictions)
    volumes = list(reader.read())
    if not volumes:
        raise InputError(
            f"none of the {reader.studies} reference studies could be scored, the first because: {reader.problems[0]}"
        )
    blank = (
        (case_id, frame, labels.mask, np.zeros_like(labels.mask), labels.spacing_mm)
        for case_id, frame, labels in reader.known
    )
    failed: list[ScoredVolume] = []

    def refuse(volume: ScoredVolume, reason: str) -> None:
        failed.append(volume)
        reader.refuse(volume.case_id, f"prediction of {reason}")

    scores = score_table(volumes, ScoreIdentity(), form.labels, refuse)
    facts, numbering = with_owners(reader.facts, volumes), Numbering.of_format(form)
    return Evaluation(
        scores=scores,
        yardstick=score_table(blank, ScoreIdentity(network=ALL_BACKGROUND), form.labels, lambda *_: None),
        problems=tuple(reader.problems),
        unscored=reader.unscored,
        studies=reader.studies,
        scored=len(volumes) - len(failed),
        notes=reader.notes,
        cautions=tuple(cautions(facts, numbering, reader.renumbered)),
        facts=tuple(facts),
        renumbered=reader.renumbered,
    )


def name_frames(maps: Mapping[str, LabelMap], named: Mapping[str, str]) -> dict[str, str]:
    """Return what each frame of a cine patient is called: `ED`, `ES` or its number.

    Args:
        maps: The patient's reference by frame, `ED`, `ES` or a number.
        named: Number by `ED` and `ES`, as `Info.cfg` tells. Where neither tells, the frames with the largest and the
            smallest cavity are these; one frame alone keeps its number.
    """
    told = {phase: number for phase, number in named.items() if number in maps}
    names = {frame: frame for frame in maps} | {number: phase for phase, number in told.items()}
    unnamed = {frame: _cavity_mm3(maps[frame]) for frame, name in names.items() if name not in PHASES}
    return names | name_phases(unnamed, told | {phase: phase for phase in PHASES if phase in maps})


@dataclass
class _Reader:
    """Reads two folders patient by patient, collecting references and problems on the way."""

    form: LabelFormat
    references: LabelFolder
    predictions: LabelFolder
    problems: list[str] = field(default_factory=list)
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unscored: dict[str, str] = field(default_factory=dict)
    known: list[tuple[str, str, LabelMap]] = field(default_factory=list)
    numbers: NumberConfusion = field(default_factory=NumberConfusion)
    facts: list[StudyFacts] = field(default_factory=list)
    renumbered: bool = False

    @property
    def studies(self) -> int:
        return sum(map(len, self.references.files.values()))

    def read(self) -> Iterator[ScoredVolume]:
        self.problems += self.references.problems + self.predictions.problems
        without_cavity = []
        for case_id, files in self.references.files.items():
            for volume in self._patient(case_id, files):
                without_cavity.append(volume.prediction.any() and not (volume.prediction == CineTissue.CAVITY).any())
                yield volume
        for case_id in sorted(self.predictions.files.keys() - self.references.files.keys()):
            for path in self.predictions.files[case_id].values():
                self.problems.append(f"{path}: the reference folder has no {case_id}; remove it, or add the reference")
        if permuted := self.numbers.permuted():
            self.renumbered = True
            told = ", ".join(f"{ours} lies on the references' {theirs}" for ours, theirs in permuted.items())
            self.problems.append(
                f"the predictions seem to be numbered otherwise: their {told}; renumber them as format "
                f"{self.form.name} does ({self.form.numbering})"
            )
        if self.form.without_cavity and without_cavity and all(without_cavity):
            self.renumbered = True
            self.problems.append(f"{self.form.without_cavity} ({self.form.numbering})")

    def _patient(self, case_id: str, files: Mapping[str, Path]) -> Iterator[ScoredVolume]:
        volumes: dict[str, NiftiVolume] = {}
        maps: dict[str, LabelMap] = {}
        for frame, path in files.items():
            with guarded(path, partial(self._refuse_reference, case_id)):
                maps[frame], volumes[frame] = read_reference(path, self.form)
        names = self._names(case_id, maps)
        predicted = self._predicted(case_id, names, files)
        for frame, labels in maps.items():
            self.known.append((case_id, names[frame], labels))
            self._note(case_id, labels.notes)
            found: list[LabelMap] = []
            with guarded(predicted.get(names[frame], case_id), partial(self.refuse, case_id)):
                if names[frame] not in predicted:
                    raise InputError(self._missing(case_id, names[frame], files[frame]))
                found.append(read_prediction(predicted[names[frame]], self.form, volumes[frame]))
            self.facts.append(study_facts(case_id, names[frame], labels, found, self.form))
            for each in found:
                self._note(case_id, each.notes)
                self.numbers.count(labels.numbers, each.numbers)
                yield ScoredVolume(case_id, names[frame], labels.mask, each.mask, labels.spacing_mm)

    def _names(self, case_id: str, maps: Mapping[str, LabelMap]) -> dict[str, str]:
        if not self.form.has_phases:
            return {frame: frame for frame in maps}
        told = self.references.phases.get(case_id) or self.predictions.phases.get(case_id, {})
        return name_frames(maps, told)

    def _predicted(self, case_id: str, names: Mapping[str, str], files: Mapping[str, Path]) -> dict[str, Path]:
        """Return the patient's predictions by the names of the reference's frames; others are problems."""
        own = {number: phase for phase, number in self.predictions.phases.get(case_id, {}).items()}
        found: dict[str, Path] = {}
        for frame, path in self.predictions.files.get(case_id, {}).items():
            name = names.get(frame) or own.get(frame, frame)
            if name in found:
                self.problems.append(
                    f"{path}: {found[name].name} is frame {name} too and was scored; remove one of them"
                )
            elif name in names.values():
                found[name] = path
            elif frame not in files:
                there = ", ".join(names.values()) or "none that can be read"
                self.problems.append(f"{path}: the reference of {case_id} has no frame {name} ({there}); rename it")
        return found

    def _missing(self, case_id: str, name: str, reference: Path) -> str:
        study = f"{case_id} {name}".strip()
        return self.predictions.missing(study, case_id, reference, self.references.files)

    def _note(self, case_id: str, notes: tuple[str, ...]) -> None:
        if notes:
            self.notes[case_id] = (*self.notes.get(case_id, ()), *notes)

    def _refuse_reference(self, case_id: str, reason: str) -> None:
        self.refuse(case_id, f"reference {reason}")

    def refuse(self, case_id: str, reason: str) -> None:
        """Note why a patient, or a frame of one, is in no score."""
        self.problems.append(reason)
        self.unscored[case_id] = "; ".join(filter(None, (self.unscored.get(case_id), reason)))


def _cavity_mm3(labels: LabelMap) -> float:
    return float(np.count_nonzero(labels.mask == CineTissue.CAVITY) * np.prod(labels.spacing_mm))


ALL_FRAMES = "all"
SUMMARY_COLUMNS = (
    "rule",
    "tissue",
    "frame",
    "metric",
    "unit",
    "mean",
    "low",
    "high",
    "patients",
    "of_patients",
    "all_background",
)

Key = tuple[str, str, str, str]  # rule, tissue, frame, metric
_KEY = ["rule", "tissue", "frame", "metric"]
_COLUMNS = [*_KEY, "case_id", "numerator", "denominator"]


def summarise_evaluation(evaluation: Evaluation) -> pd.DataFrame:
    """Return the mean of each metric over patients, its 95 % interval, and the all-background prediction's mean.

    Returns:
        `SUMMARY_COLUMNS`. A patient's slices and frames are joined first; cine has a row for each frame and one for
        `all`. `patients` have a value, `of_patients` would with a usable prediction; the yardstick's mean is over the
        patients that were scored.
    """
    own, everyone = _contributions(evaluation.scores), _contributions(evaluation.yardstick)
    beside = everyone[everyone["case_id"].isin(set(patient_rows(evaluation.scores)["case_id"]))]
    means, yardstick = _by_key(own), _by_key(beside)
    rows: list[dict[str, Any]] = []
    for key, of_patients in _eligible(pd.concat([own, everyone])).items():
        known = means.get(key, own.iloc[:0])
        found = _estimate(known, key[-1])
        values = (found.value, found.low, found.high, len(known), of_patients, _ratio(yardstick.get(key, own.iloc[:0])))
        rows.append(dict(zip(SUMMARY_COLUMNS, (*key, UNITS[key[-1]], *values), strict=True)))
    table = pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))
    return table.sort_values("rule", key=lambda names: names.map(RULES.index), kind="stable").reset_index(drop=True)


def patient_table(evaluation: Evaluation) -> pd.DataFrame:
    """Return one row a patient: `case_id`, `problem`, `warnings`, then `metric/rule/tissue` and for cine `…/frame`.

    Slices are averaged. `warnings` are what the files say differently in two places, and what makes them suspect; they
    change no score. A patient of whom nothing could be scored has empty cells and a problem.
    """
    scores = patient_rows(evaluation.scores)
    names = scores["metric"] + "/" + scores["rule"] + "/" + scores["tissue"]
    framed = names.where(scores["frame"] == "", names + "/" + scores["frame"])
    wide = scores.assign(column=framed).pivot_table(
        index="case_id", columns="column", values="value", aggfunc="mean", sort=False, dropna=False
    )
    everyone = sorted(set(patient_rows(evaluation.yardstick)["case_id"]) | set(evaluation.unscored))
    wide = wide.reindex(everyone).rename_axis(index="case_id", columns=None).reset_index()
    wide.insert(1, "problem", [evaluation.unscored.get(case_id, "") for case_id in wide["case_id"]])
    wide.insert(2, "warnings", [" | ".join(evaluation.warnings_of(case_id)) for case_id in wide["case_id"]])
    return wide


def _contributions(scores: pd.DataFrame) -> pd.DataFrame:
    """Return what each patient adds to numerator and denominator of each mean (`_COLUMNS`)."""
    rows = patient_rows(scores)
    single = rows[rows["frame"] != ""] if (rows["frame"] != "").any() else rows
    parts = [_of_frames(single)]
    if len(single["frame"].unique()) > 1:
        parts.append(_of_frames(rows.assign(frame=ALL_FRAMES)))
    return pd.concat(parts, ignore_index=True)


def _of_frames(rows: pd.DataFrame) -> pd.DataFrame:
    lesions = _lesion_rows(rows)
    means = rows[~rows["metric"].isin(COUNT_METRICS)]
    summed = means.groupby([*_KEY, "case_id"], sort=False)["value"].agg(numerator="sum", denominator="count")
    return pd.concat([summed.reset_index()[_COLUMNS], _pooled(rows), *map(_detection, lesions)], ignore_index=True)


def _lesion_rows(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Return the official volume rows of each lesion group, which alone have a share of the myocardium."""
    official = rows[rows["rule"] == "official"]
    groups = official.loc[official["metric"] == "share_of_myocardium", "tissue"].unique()
    return [official[official["tissue"] == group] for group in groups]


def _pooled(rows: pd.DataFrame) -> pd.DataFrame:
    counts = rows[rows["metric"].isin(COUNT_METRICS)]
    index = ["rule", "tissue", "frame", "case_id"]
    sums = counts.pivot_table(index=index, columns="metric", values="value", aggfunc="sum", sort=False)
    tp, fp, fn = (sums[name] for name in COUNT_METRICS)
    parts = {
        "dice": dice_terms(tp, tp + fn, tp + fp),
        "jaccard": (tp, tp + fp + fn),
        "precision": (tp, tp + fp),
        "recall": (tp, tp + fn),
    }
    assert tuple(parts) == OVERLAP
    framed = [
        sums.assign(metric=metric, numerator=numerator, denominator=denominator).reset_index()[_COLUMNS]
        for metric, (numerator, denominator) in parts.items()
    ]
    return pd.concat(framed, ignore_index=True)


def _detection(rows: pd.DataFrame) -> pd.DataFrame:
    """Return whether each patient with (or without) the lesion was recognised as such."""
    volumes = rows.pivot_table(index=["rule", "tissue", "frame", "case_id"], columns="metric", values="value")
    found, has = volumes["volume"] > 0, volumes["reference_volume"] > 0
    parts = [
        volumes.assign(metric=metric, numerator=(of & (found == has)) * 1.0, denominator=of * 1.0)
        for metric, of in zip(DETECTION, (has, ~has), strict=True)
    ]
    return pd.concat([part.reset_index()[_COLUMNS] for part in parts], ignore_index=True)


def _by_key(contributions: pd.DataFrame) -> dict[Key, pd.DataFrame]:
    """Return the patients with a value by rule, tissue, frame and metric."""
    counting = contributions[contributions["denominator"] > 0]
    return {(str(r), str(t), str(f), str(m)): rows for (r, t, f, m), rows in counting.groupby(_KEY, sort=False)}


def _eligible(contributions: pd.DataFrame) -> dict[Key, int]:
    """Return how many patients count for each metric: for a tissue under a rule, those who have any metric of it."""
    by_key = _by_key(contributions)
    patients: dict[Key, set[str]] = {}
    for key, rows in by_key.items():
        patients.setdefault(_shared(key), set()).update(rows["case_id"])
    return {key: len(patients[_shared(key)]) for key in by_key}


def _shared(key: Key) -> Key:
    """Return a key without its metric, but for those of patients who have, or lack, a lesion."""
    return key if key[-1] in DETECTION else (*key[:-1], "")


def _estimate(known: pd.DataFrame, metric: str) -> Estimate:
    """Return the mean and its interval, which does not leave what the metric can be."""
    if known.empty:
        return Estimate(float("nan"), float("nan"), float("nan"))
    numerator, denominator = (known[name].to_numpy(float)[:, None] for name in ("numerator", "denominator"))
    return estimate_score(Contributions(numerator, denominator), metric_bounds(metric))


def _ratio(rows: pd.DataFrame) -> float:
    denominator = float(rows["denominator"].sum())
    return float(rows["numerator"].sum()) / denominator if denominator else float("nan")
