"""A trained model on another source's labelled studies: label maps in, the tables of an evaluation out.

The studies come one by one; what could not be read or segmented is in no score and is named, as in `evaluation`.
What does not live here: how scores are formed and summarised (`segmentation.scoring`, `evaluation`) and compared
(`segmentation.comparison`).

The label set that several label sets have in common, and label maps brought into it.

A tissue of the common set is what the other set calls so, be it a tissue or one of its evaluation groups: the
myocardium of a cine study is EMIDEC's group of normal myocardium, infarct and no-reflow.

Whether a model has seen the patients it is to be tested on, told by their names and by their images. Names tell only
within one source: `patient001` of two hospitals are two people. The image tells anywhere, if it was prepared alike.
Patients that chose a checkpoint (validation) were seen, too.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.errors import InputError, some_of
from common.pages.words import words
from imaging.labels import LABEL_SETS, LabelSet
from imaging.studies.preparation import Box, reference_box, resample_image, resample_mask
from imaging.studies.study import RejectedStudy, Study, digest_of
from runtime.pack import stands_as
from segmentation.comparison.arms import FIRST_AND_SECOND, compare_two
from segmentation.evaluation.cautions import Numbering, cautions, volume_facts
from segmentation.evaluation.evaluation import Evaluation, patient_table, summarise_evaluation
from segmentation.scoring.scores import ScoredVolume, ScoreIdentity, score_table
from segmentation.scoring.yardsticks import ALL_BACKGROUND


def common_labels(label_sets: Iterable[LabelSet]) -> LabelSet:
    """Return the finest of the label sets in which label maps of all of them can be written.

    Raises:
        InputError: There is none.
    """
    sets = {labels.name: labels for labels in label_sets}
    for onto in sorted(sets.values(), key=lambda labels: -labels.num_classes):
        if all(_values(labels, name) for labels in sets.values() for _, name in onto.foreground):
            return onto
    told = "; ".join(f"{labels.name}: {', '.join(map(words, labels.tissues[1:]))}" for labels in sets.values())
    raise InputError(f"label sets {', '.join(sets)} have no set of tissues in common ({told}); test models of one kind")


def merge_labels(mask: NDArray[np.uint8], labels: LabelSet, onto: LabelSet) -> NDArray[np.uint8]:
    """Return a label map of any shape with the values of a coarser label set; tissues that it lacks are background.

    Args:
        mask: Values of `labels`.
        labels: Its label set.
        onto: From `common_labels`.
    """
    table = np.zeros(labels.num_classes, np.uint8)
    for value, tissue in onto.foreground:
        table[list(_values(labels, tissue))] = value
    return table[mask]


def _values(labels: LabelSet, name: str) -> tuple[int, ...]:
    """Return the label values that a set calls so, group or tissue; none where it knows no such name."""
    tissues = {tissue: (value,) for value, tissue in labels.foreground}
    return tuple(labels.official_groups.get(name, tissues.get(name, ())))


Mask = NDArray[np.uint8]


class ReferenceBox:
    """A localiser that knows a study's reference: what is left of the errors is the segmenter's."""

    def __init__(self, study: Study) -> None:
        classes = LABEL_SETS[study.label_set].num_classes
        self._box = reference_box(resample_mask(study.mask, study.spacing_mm, classes))

    def predict_image_box(self, image: NDArray[np.float32]) -> Box:
        """Return the box of all labels, whatever the image (S, H1, W1) shows."""
        del image
        return self._box


@dataclass
class References:
    """The studies of the source as they are read, in the label set that is scored.

    Attributes:
        labels: That label set.
        known: (case_id, frame, mask (S, H, W), spacing in mm) of every usable study.
        rejected: Why, by patient, where a study of the source cannot be used.
        problems: One line for each of these.
        notes: What the files of usable studies say differently in two places, by patient.
    """

    labels: LabelSet
    known: list[tuple[str, str, Mask, tuple[float, float, float]]] = field(default_factory=list)
    rejected: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def add(self, item: Study | RejectedStudy) -> bool:
        """Take in what a source yields, and tell whether it can be scored; a study that comes twice counts once."""
        if isinstance(item, Study) and (item.case_id, item.frame) in {known[:2] for known in self.known}:
            reason = f"{item.path}: patient {item.case_id!r}, frame {item.frame!r} is there already; remove one of them"
            item = RejectedStudy(item.case_id, item.path, reason)
        if isinstance(item, RejectedStudy):
            _note(self.rejected, item.case_id, item.reason)
            self.problems.append(f"left out {item.case_id}: {item.reason}")
            return False
        mask = merge_labels(item.mask, LABEL_SETS[item.label_set], self.labels)
        self.known.append((item.case_id, item.frame, mask, item.spacing_mm))
        if item.notes:
            self.notes[item.case_id] = (*self.notes.get(item.case_id, ()), *item.notes)
        return True


@dataclass
class ModelUnderTest:
    """One model's label maps of the studies of a source, and what was wrong or odd about them.

    Attributes:
        identity: The columns that say whose scores these are.
        label_set: Of its label maps.
        predicted: Label map (S, H, W) by (case_id, frame), as the model draws it.
        unscored: Why, by patient, where it could not segment a study.
        problems: One line for each of these.
        flags: What is odd, by patient; such a study is scored all the same.
        flagged: How many studies are flagged.
    """

    identity: ScoreIdentity
    label_set: LabelSet
    predicted: dict[tuple[str, str], Mask] = field(default_factory=dict)
    unscored: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    flags: dict[str, str] = field(default_factory=dict)
    flagged: int = 0

    @property
    def name(self) -> str:
        """What it is called in messages and tables."""
        return f"{self.identity.network} {self.identity.training_set}"

    def rows_of(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return its rows of a table of several models."""
        own = (table["network"] == self.identity.network) & (table["training_set"] == self.identity.training_set)
        return table[own]

    def add(self, study: Study, mask: Mask, flags: Sequence[str]) -> None:
        """Take in a study's label map (S, H, W) on the study's own grid."""
        self.predicted[study.case_id, study.frame] = mask
        self.flagged += bool(flags)
        for flag in flags:
            _note(self.flags, study.case_id, f"{study.frame}: {flag}" if study.frame else flag)

    def fail(self, study: Study, reason: str) -> None:
        """Remember a study that could not be segmented."""
        _note(self.unscored, study.case_id, reason)
        self.problems.append(reason)


def evaluate_tested(references: References, tested: ModelUnderTest) -> Evaluation:
    """Score a model on every study that it has segmented.

    Raises:
        InputError: There is none.
    """
    problems, unscored = [*references.problems, *tested.problems], dict(references.rejected)
    for case_id, reason in tested.unscored.items():
        _note(unscored, case_id, reason)

    def refuse(volume: ScoredVolume, reason: str) -> None:
        problems.append(reason)
        _note(unscored, volume.case_id, reason)

    volumes = [
        ScoredVolume(case_id, frame, mask, merge_labels(drawn, tested.label_set, references.labels), spacing_mm)
        for case_id, frame, mask, spacing_mm in references.known
        if (drawn := tested.predicted.get((case_id, frame))) is not None
    ]
    studies = len(references.known) + len(references.problems)
    if not volumes:
        raise InputError(f"none of the {studies} studies could be scored, the first because: {problems[0]}")
    blank = [(name, frame, mask, np.zeros_like(mask), mm) for name, frame, mask, mm in references.known]
    before = len(problems)
    scores = score_table(volumes, tested.identity, references.labels, refuse)
    return Evaluation(
        scores=scores,
        yardstick=score_table(blank, ScoreIdentity(network=ALL_BACKGROUND), references.labels, lambda *_: None),
        problems=tuple(problems),
        unscored=unscored,
        studies=studies,
        scored=len(volumes) - (len(problems) - before),
        notes=references.notes,
        cautions=tuple(cautions(volume_facts(volumes, references.labels), Numbering.of(references.labels))),
    )


@dataclass(frozen=True)
class ExternalTables:
    """What is written: one set of tables, in which `network` and `training_set` name the model.

    Attributes:
        scores: `SCORE_COLUMNS`.
        patients: One row a patient and model, with its `flags`.
        summary: `SUMMARY_COLUMNS` of `evaluation`.
        differences: Of the second model from the first, see `comparison.compare_two`; None unless there are two.
    """

    scores: pd.DataFrame
    patients: pd.DataFrame
    summary: pd.DataFrame
    differences: pd.DataFrame | None

    def by_name(self) -> dict[str, pd.DataFrame | None]:
        """Return the tables by their names."""
        return dict(vars(self))


def tabulate(models: Sequence[ModelUnderTest], evaluations: Sequence[Evaluation]) -> ExternalTables:
    """Return the tables of one model or several, tested on the same studies."""
    named = [
        (_named(summarise_evaluation(evaluation), model.identity), _patients(model, evaluation))
        for model, evaluation in zip(models, evaluations, strict=True)
    ]
    summaries, patients = zip(*named, strict=True)
    scores = [evaluation.scores for evaluation in evaluations]
    return ExternalTables(
        scores=pd.concat(scores, ignore_index=True),
        patients=pd.concat(patients, ignore_index=True),
        summary=pd.concat(summaries, ignore_index=True),
        differences=_differences(models, *scores) if len(scores) == 2 else None,
    )


def _differences(models: Sequence[ModelUnderTest], first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    columns = {f"{arm}_model": model.name for arm, model in zip(FIRST_AND_SECOND, models, strict=True)}
    table = compare_two(first, second, FIRST_AND_SECOND)
    return table.assign(**columns)[[*columns, *table.columns]]


def _patients(model: ModelUnderTest, evaluation: Evaluation) -> pd.DataFrame:
    table = patient_table(evaluation)
    table.insert(2, "flags", [model.flags.get(case_id, "") for case_id in table["case_id"]])
    return _named(table, model.identity)


def _named(table: pd.DataFrame, identity: ScoreIdentity) -> pd.DataFrame:
    columns: Mapping[str, str] = {"network": identity.network, "training_set": identity.training_set}
    return table.assign(**columns)[[*columns, *table.columns]]


def _note(notes: dict[str, str], case_id: str, text: str) -> None:
    notes[case_id] = "; ".join(filter(None, (notes.get(case_id), text)))


@dataclass(frozen=True)
class SeenPatients:
    """Whom one trained thing has seen.

    Attributes:
        what: It, for messages.
        source: Where its patients are from.
        names: Of its training and validation patients.
        images: Digests of their images (S, H1, W1) on the 1 mm grid; None where the workspace keeps no images of them.
        unseen: Patients that one fold alone has not seen, by fold.
        identified: Whether names of the source stand for patients; drawn ones are called alike whatever is drawn.
        salt: Of a pack, where names and images are salted hashes; None where they are themselves.
    """

    what: str
    source: str
    names: frozenset[str]
    images: frozenset[str] | None
    unseen: Mapping[int, frozenset[str]] = field(default_factory=dict)
    identified: bool = True
    salt: str | None = None

    def told_by(self, source: str) -> str:
        """Return how the patients of a source are told from these, for people."""
        ways = (("name", self.identified and source == self.source), ("image", self.images is not None))
        return " and ".join(name for name, used in ways if used) or "source alone"


@dataclass(frozen=True)
class Candidate:
    """A study that is to be tested, by patient and image."""

    case_id: str
    image: str

    @classmethod
    def of(cls, study: Study) -> "Candidate":
        """Return what tells a study from others."""
        return cls(study.case_id, digest_of(resample_image(study.image, study.spacing_mm)))


def refuse_seen(candidates: Sequence[Candidate], source: str, seen: Iterable[SeenPatients]) -> None:
    """Refuse a test on patients that a model or its localiser was trained on.

    Args:
        candidates: The studies to be tested.
        source: Where they are from.
        seen: Whom each trained thing has seen.

    Raises:
        InputError: Some were; the message names them and what to do instead.
    """
    for one in seen:
        known = sorted({study.case_id for study in candidates if _was_seen(study, source, one)})
        if known:
            raise InputError(
                f"{one.what} was trained on {some_of(known)} ({len(known)} of "
                f"{len({study.case_id for study in candidates})} patients): its scores would flatter it; "
                + _remedy(candidates, source, one)
            )


def _was_seen(study: Candidate, source: str, one: SeenPatients) -> bool:
    named = one.identified and source == one.source and stands_as(study.case_id, one.salt) in one.names
    return named or (one.images is not None and stands_as(study.image, one.salt) in one.images)


def _remedy(candidates: Sequence[Candidate], source: str, one: SeenPatients) -> str:
    asked = {stands_as(study.case_id, one.salt) for study in candidates}
    folds = [str(fold) for fold, patients in one.unseen.items() if source == one.source and asked <= patients]
    if folds:
        return f"fold {' or '.join(folds)} has not seen any of them: name it with --fold"
    return "give a folder without them; how the model does on its own source is in the graph's scores"
