"""Two or more folders of label maps against one reference: who is paired with whom, and what may be concluded.

A folder holds the label maps of one training, or of several: in `seed_0`, `seed_1` ... the same patients, in `fold_0`,
`fold_1` ... each fold's own; either may lie in the other. Whatever a folder does not name counts as one.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from common.errors import InputError, some_of
from imaging.sources.nifti_studies import nifti_files
from segmentation.comparison.arms import (
    FIRST_AND_SECOND,
    ONE_FOLD,
    Comparison,
    differences_and_pairs,
    interval_notes,
    summarise,
)
from segmentation.comparison.statistics import (
    BETTER_IN_THIS_FOLD,
    BETTER_OF_THESE,
    BETTER_WITH_THIS_SEED,
    BETTER_WITH_THIS_SET,
    MINIMUM_PAIRS,
    WORSE_IN_THIS_FOLD,
    WORSE_OF_THESE,
    WORSE_WITH_THIS_SEED,
    WORSE_WITH_THIS_SET,
    collect_contributions,
    patients_in_two_folds,
)
from segmentation.evaluation.cautions import (
    Numbering,
    StudyFacts,
    equal_in_all,
    prediction_cautions,
    reference_cautions,
)
from segmentation.evaluation.evaluation import evaluate_folders
from segmentation.evaluation.label_maps import REFERENCE, LabelFormat, find_label_maps
from segmentation.scoring.scores import patient_rows

_PART = re.compile(r"(fold|seed)_([0-9]+)")
_NEARLY_PART = re.compile(r"(fold|seed)s?[ _.-]?([0-9]+)", re.IGNORECASE)
_FEWEST = 2  # models
_PREDICTIONS = "predictions"  # stands for the network that somebody else trained
_ONE_EACH = (
    "The folders name neither seeds nor folds: each is taken for one trained network. Intervals are over patients "
    "alone, and a verdict is on these networks, not on how they were trained; give sub-folders seed_0, seed_1 ... "
    "(and fold_0 ...) to have the variation between trainings counted."
)
_ONE_SET = (
    "The folders name no folds: each is taken for one training set. The intervals leave out the variation between "
    "training sets, and a verdict holds for these alone."
)


class Part(NamedTuple):
    """The label maps of one training."""

    folder: Path
    fold: int | None = None
    seed: int | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """What its path names."""
        return tuple(kind for kind in ("fold", "seed") if getattr(self, kind) is not None)

    def within(self, name: str) -> str:
        """Return the part's name, its model's being `name`."""
        return "/".join([name, *(f"{kind}_{getattr(self, kind)}" for kind in self.kinds)])


@dataclass(frozen=True)
class FolderComparison:
    """What came of it.

    Attributes:
        comparison: Of the patients that all folders have.
        scores: Of every folder as it is, its name in `training_set`.
        problems: One line for each thing that is wrong, and whose it is.
        notes: What the files say differently in two places, and what makes them suspect.
        patients: How many were paired.
        of_patients: How many the reference has.
    """

    comparison: Comparison
    scores: pd.DataFrame
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    patients: int
    of_patients: int


def compare_folders(reference: Path, predictions: Mapping[str, Path], form: LabelFormat) -> FolderComparison:
    """Score every folder and compare each with the first, on the patients that all of them have.

    Args:
        reference: Folder of reference label maps.
        predictions: Folder by the name that it goes by, two or more.
        form: Layout and numbering of all.

    Raises:
        InputError: A folder cannot be read, folders name folds or seeds that do not fit, or no patient is in all.
    """
    if len(predictions) < _FEWEST:
        raise InputError("one folder of predictions has nothing to be compared with; give two, or use `evaluate`")
    parts = shared_parts({name: find_parts(folder) for name, folder in predictions.items()})
    everyone = set(find_label_maps(reference, form, REFERENCE).files)
    models = [_score(name, of_model, reference, form, everyone) for name, of_model in parts.items()]
    common = set.intersection(*(model.complete for model in models))
    if not common:
        problem = next((problem for model in models for problem in model.problems), "they are of different patients")
        raise InputError(f"no patient has a usable label map in all of {', '.join(predictions)}: {problem}")
    paired = {model.name: _of(model.scores, common) for model in models}
    _refuse_other_folds(pd.concat(paired.values(), ignore_index=True))
    found = compare_with_first(paired, _of(models[0].yardstick, common))
    kinds = next(iter(parts.values()))[0].kinds
    missing = [line for model in models if (line := model.left_out(everyone))]
    worded = replace(found, differences=_worded(found.differences, kinds))
    suspect = _cautions(models, Numbering.of_format(form))
    return FolderComparison(
        comparison=replace(worded, notes=(*missing, *suspect, *_notes(worded.differences, kinds))),
        scores=pd.concat([model.scores for model in models], ignore_index=True),
        problems=tuple(line for model in models for line in model.problems),
        notes=tuple(dict.fromkeys([*(note for model in models for note in model.notes), *suspect])),
        patients=len(common),
        of_patients=len(everyone),
    )


def find_parts(folder: Path) -> list[Part]:
    """Return the trainings whose label maps a folder holds.

    Raises:
        InputError: It is none, mixes folds with seeds or label maps, or nests the same twice.
    """
    if not folder.is_dir():
        raise InputError(f"prediction folder {folder}: does not exist; give a folder of label maps")
    parts = list(_below(Part(folder)))
    if len({part.kinds for part in parts}) > 1:
        raise InputError(f"{folder}: some of its folds name seeds and others do not; name them in all or in none")
    return parts


def _below(part: Part) -> Iterator[Part]:
    inner = sorted(
        (match[1], int(match[2]), path)
        for path in part.folder.iterdir()
        if path.is_dir() and (match := _PART.fullmatch(path.name))
    )
    loose = [path.name for _, path in nifti_files(part.folder, own=True)]
    if inner or not loose:
        _refuse_other_names(part.folder)
    if not inner:
        yield part
        return
    kinds = {kind for kind, _, _ in inner}
    if loose or len(kinds) > 1 or kinds & set(part.kinds):
        others = some_of([*loose, *(path.name for _, _, path in inner)])
        raise InputError(
            f"{part.folder}: holds {others}; give label maps alone, or sub-folders of one kind (fold_0 or seed_0 ...)"
        )
    numbers = [number for _, number, _ in inner]
    if len(set(numbers)) < len(numbers):
        raise InputError(f"{part.folder}: names a number twice ({inner[0][2].name} ...); remove one of them")
    for kind, number, path in inner:
        yield from _below(part._replace(folder=path, **{kind: number}))


def _refuse_other_names(folder: Path) -> None:
    """Raise `InputError` where sub-folders that mean folds or seeds are called otherwise."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not _PART.fullmatch(path.name))
    if nearly := [name for name in names if _NEARLY_PART.fullmatch(name)]:
        kind = nearly[0][:4].lower()
        raise InputError(f"{folder}: sub-folders are called {some_of(nearly)}; call them {kind}_0, {kind}_1 ...")


def shared_parts(parts: Mapping[str, Sequence[Part]]) -> dict[str, list[Part]]:
    """Return each model's parts of the seeds that all have.

    Raises:
        InputError: One names folds or seeds where another does not, or they share no seed.
    """
    kinds = {name: " and ".join(of[0].kinds) or "neither folds nor seeds" for name, of in parts.items()}
    if len(set(kinds.values())) > 1:
        told = "; ".join(f"{name}: {kind}" for name, kind in kinds.items())
        raise InputError(f"the folders are not arranged alike, their sub-folders name {told}; arrange them alike")
    shared = set.intersection(*({part.seed for part in of} for of in parts.values()))
    if not shared:
        told = "; ".join(f"{name}: {some_of(dict.fromkeys(part.seed for part in of))}" for name, of in parts.items())
        raise InputError(f"the folders share no seed ({told}); call trainings that belong together by the same seed")
    return {name: [part for part in of if part.seed in shared] for name, of in parts.items()}


def compare_with_first(tables: Mapping[str, pd.DataFrame], yardstick: pd.DataFrame) -> Comparison:
    """Compare models of any kind with the first of them, paired by patient, fold and seed; Holm corrects over all.

    Args:
        tables: Table of scores by what its model is called, two or more, all of the same patients.
        yardstick: Scores of a yardstick on these patients.

    Returns:
        Without notes; in `summary` the models stand as training sets, in the other tables the further ones as networks.

    Raises:
        InputError: Two models share no seed, or a patient was tested in two folds.
    """
    first, *others = tables.values()
    single = [table.assign(network=_PREDICTIONS, training_set=name) for name, table in tables.items()]
    paired = [
        table.assign(network=name, training_set=arm)
        for name, other in zip(list(tables)[1:], others, strict=True)
        for arm, table in zip(FIRST_AND_SECOND, (first, other), strict=True)
    ]
    contributions = collect_contributions(pd.concat(paired, ignore_index=True))
    differences, pairs = differences_and_pairs(contributions, FIRST_AND_SECOND)
    names = tuple(tables)
    return Comparison(
        summary=summarise(pd.concat([*single, yardstick], ignore_index=True)),
        differences=differences,
        pairs=pairs,
        folds=tuple(sorted(int(fold) for fold in first["fold"].dropna().unique())),
        arms=FIRST_AND_SECOND,
        names=(names[0], names[1] if len(names) == len(FIRST_AND_SECOND) else "each other"),
    )


@dataclass(frozen=True)
class _Model:
    """One folder's scores, and which patients have a usable label map of every training that tested them."""

    name: str
    scores: pd.DataFrame
    yardstick: pd.DataFrame
    complete: set[str]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    facts: Mapping[str, tuple[StudyFacts, ...]]
    renumbered: bool

    def left_out(self, everyone: set[str]) -> str:
        """Say whom this folder lacks, nothing where it lacks nobody."""
        lacking = sorted(everyone - self.complete)
        if not lacking:
            return ""
        who = f"{len(lacking)} patient{'s' * (len(lacking) > 1)} ({some_of(lacking)})"
        return f"{self.name} lacks {who}: no table compares them, so that all folders are scored on the same patients."


def _score(name: str, parts: Sequence[Part], reference: Path, form: LabelFormat, everyone: set[str]) -> _Model:
    folded = parts[0].fold is not None
    found = {part: evaluate_folders(reference, part.folder, form, predicted_only=folded) for part in parts}
    of_seeds: dict[int | None, set[str]] = {part.seed: set() for part in parts}
    for part, evaluation in found.items():
        of_seeds[part.seed] |= set(patient_rows(evaluation.scores)["case_id"]) - evaluation.unscored.keys()
    tables = {part: _identified(evaluation.scores, name, part) for part, evaluation in found.items()}
    first_seed = [part for part in parts if part.seed == parts[0].seed]
    problems = [f"{part.within(name)}: {line}" for part, one in found.items() for line in one.problems]
    if folded:
        tested = set().union(
            *(set(patient_rows(one.yardstick)["case_id"]) | one.unscored.keys() for one in found.values())
        )
        problems += [f"{name}: {case_id} is in none of its folds; add it" for case_id in sorted(everyone - tested)]
    return _Model(
        name=name,
        scores=pd.concat(tables.values(), ignore_index=True),
        yardstick=pd.concat([_yardstick(found[part].yardstick, part) for part in first_seed], ignore_index=True),
        complete=set.intersection(*of_seeds.values()),
        problems=tuple(dict.fromkeys(problems)),
        notes=tuple(note for one in found.values() for notes in one.notes.values() for note in notes),
        facts={part.within(""): one.facts for part, one in found.items()},
        renumbered=any(one.renumbered for one in found.values()),
    )


def _cautions(models: Sequence[_Model], numbering: Numbering) -> list[str]:
    """Return what is suspect: the references once, each model's predictions, and trainings that are one and the same.

    A patient's name tells the training, as `seed_0/Case_P001`.
    """
    references = {one.study: one for model in models for facts in model.facts.values() for one in facts}
    found = [caution.line for caution in reference_cautions(list(references.values()), numbering)]
    for model in models:
        facts = [replace(one, part=part) for part, of_part in model.facts.items() for one in of_part]
        own = prediction_cautions(facts, numbering, model.renumbered)
        found += [f"{model.name}: {caution.line}" for caution in own]
    return [
        *found,
        *equal_in_all({model.name + part: facts for model in models for part, facts in model.facts.items()}),
    ]


def _identified(scores: pd.DataFrame, name: str, part: Part) -> pd.DataFrame:
    numbers = {kind: pd.array([getattr(part, kind)] * len(scores), "Int64") for kind in ("fold", "seed")}
    return scores.assign(network=_PREDICTIONS, training_set=name, **numbers)


def _yardstick(scores: pd.DataFrame, part: Part) -> pd.DataFrame:
    return scores.assign(fold=pd.array([part.fold] * len(scores), "Int64"))


def _of(scores: pd.DataFrame, patients: set[str]) -> pd.DataFrame:
    rows = patient_rows(scores)
    return rows[rows["case_id"].isin(patients)]


def _refuse_other_folds(scores: pd.DataFrame) -> None:
    if twice := patients_in_two_folds(scores):
        raise InputError(
            f"patients {some_of(twice)} lie in more than one fold; each belongs to the fold that tested it, in every "
            "folder to the same"
        )


def _worded(differences: pd.DataFrame, kinds: Sequence[str]) -> pd.DataFrame:
    """Return the table with verdicts that claim no more than the folders tell of how they were made."""
    if "fold" in kinds:
        return differences
    changed = {BETTER_IN_THIS_FOLD: BETTER_WITH_THIS_SET, WORSE_IN_THIS_FOLD: WORSE_WITH_THIS_SET}
    if not kinds:
        changed = {BETTER_WITH_THIS_SEED: BETTER_OF_THESE, WORSE_WITH_THIS_SEED: WORSE_OF_THESE}
    return differences.assign(verdict=[changed.get(verdict, verdict) for verdict in differences["verdict"]])


def _notes(differences: pd.DataFrame, kinds: Sequence[str]) -> list[str]:
    notes = [_ONE_EACH] if not kinds else interval_notes(differences, _ONE_SET if "fold" not in kinds else ONE_FOLD)
    if len(differences) and differences["pairs"].min() < MINIMUM_PAIRS:
        notes.append(f"Fewer than {MINIMUM_PAIRS} pairs of patients give no verdict.")
    return notes
