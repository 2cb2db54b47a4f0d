"""Scores a folder of predictions against a folder of references, and says what could not be scored.

A study that cannot be scored is left out of every score and named in `problems`; the summary tells how many patients of
how many were scored, so that a missing prediction never passes unseen.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from imaging.errors import InputError
from imaging.guard import guarded
from imaging.labels import CineTissue
from imaging.nifti import NiftiVolume
from segmentation.label_folders import (
    ACDC,
    PHASES,
    PREDICTION,
    REFERENCE,
    LabelFolder,
    LabelFormat,
    find_label_maps,
)
from segmentation.label_maps import LabelMap, read_prediction, read_reference
from segmentation.number_confusion import NumberConfusion
from segmentation.scores import ScoredVolume, ScoreIdentity, score_table
from segmentation.yardsticks import ALL_BACKGROUND


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
        notes: What the files say differently in two places, which is scored all the same.
    """

    scores: pd.DataFrame
    yardstick: pd.DataFrame
    problems: tuple[str, ...]
    unscored: Mapping[str, str]
    studies: int
    scored: int
    notes: tuple[str, ...] = ()


def evaluate_folders(reference: Path, prediction: Path, form: LabelFormat) -> Evaluation:
    """Score every study of `reference` that has a usable label map in `prediction`.

    Raises:
        InputError: A folder is missing or holds no label map, or not one study can be scored.
    """
    predictions = find_label_maps(prediction, form, PREDICTION)
    reader = _Reader(form, find_label_maps(reference, form, REFERENCE), predictions)
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
    return Evaluation(
        scores=scores,
        yardstick=score_table(blank, ScoreIdentity(network=ALL_BACKGROUND), form.labels, lambda *_: None),
        problems=tuple(reader.problems),
        unscored=reader.unscored,
        studies=reader.studies,
        scored=len(volumes) - len(failed),
        notes=tuple(reader.notes),
    )


def name_frames(maps: Mapping[str, LabelMap], named: Mapping[str, str]) -> dict[str, str]:
    """Return what each frame of a cine patient is called: `ED`, `ES` or its number.

    Args:
        maps: The patient's reference by frame, `ED`, `ES` or a number.
        named: Number by `ED` and `ES`, as `Info.cfg` tells. Where neither tells, the frames with the largest and the
            smallest cavity are these; one frame alone keeps its number.
    """
    names = {frame: frame for frame in maps}
    names |= {number: phase for phase, number in named.items() if number in maps}
    open_phases = [phase for phase in PHASES if phase not in names.values()]
    rest = sorted((frame for frame in maps if names[frame] not in PHASES), key=lambda frame: -_cavity_mm3(maps[frame]))
    if len(maps) > 1 and len(rest) >= len(open_phases):
        for phase in open_phases:
            names[rest.pop(0 if phase == "ED" else -1)] = phase
    return names


@dataclass
class _Reader:
    """Reads two folders patient by patient, collecting references and problems on the way."""

    form: LabelFormat
    references: LabelFolder
    predictions: LabelFolder
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unscored: dict[str, str] = field(default_factory=dict)
    known: list[tuple[str, str, LabelMap]] = field(default_factory=list)
    numbers: NumberConfusion = field(default_factory=NumberConfusion)

    @property
    def studies(self) -> int:
        return sum(map(len, self.references.files.values()))

    def read(self) -> Iterator[ScoredVolume]:
        self.predictions.name_as(self.references.files)
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
            told = ", ".join(f"{ours} lies on the references' {theirs}" for ours, theirs in permuted.items())
            self.problems.append(
                f"the predictions seem to be numbered otherwise: their {told}; renumber them as format "
                f"{self.form.name} does ({self.form.numbering})"
            )
        if self.form is ACDC and without_cavity and all(without_cavity):
            self.problems.append(
                "no prediction holds a 3, ACDC's number of the cavity; if they number it 1, renumber them "
                "(1 right ventricle, 2 myocardium, 3 cavity)"
            )

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
            self.notes += labels.notes
            found: list[LabelMap] = []
            with guarded(predicted.get(names[frame], case_id), partial(self.refuse, case_id)):
                found.append(self._prediction(case_id, names[frame], predicted, volumes[frame]))
            for each in found:
                self.notes += each.notes
                self.numbers.count(labels.numbers, each.numbers)
                yield ScoredVolume(case_id, names[frame], labels.mask, each.mask, labels.spacing_mm)

    def _names(self, case_id: str, maps: Mapping[str, LabelMap]) -> dict[str, str]:
        if self.form is not ACDC:
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

    def _prediction(self, case_id: str, name: str, predicted: Mapping[str, Path], reference: NiftiVolume) -> LabelMap:
        if name not in predicted:
            raise InputError(f"{f'{case_id} {name}'.strip()}: its prediction is missing; add it")
        return read_prediction(predicted[name], self.form, reference)

    def _refuse_reference(self, case_id: str, reason: str) -> None:
        self.refuse(case_id, f"reference {reason}")

    def refuse(self, case_id: str, reason: str) -> None:
        """Note why a patient, or a frame of one, is in no score."""
        self.problems.append(reason)
        self.unscored[case_id] = "; ".join(filter(None, (self.unscored.get(case_id), reason)))


def _cavity_mm3(labels: LabelMap) -> float:
    return float(np.count_nonzero(labels.mask == CineTissue.CAVITY) * np.prod(labels.spacing_mm))
