"""What makes label maps suspect though every score of them can be formed: told, and scored all the same.

The references' numbering, the same map under two names, predictions that are empty, numbered otherwise, turned or
another patient's, and frames that are exchanged. Each is judged study by study and told in one line of all of them.

What does not live here: what keeps a study out of the scores (`label_maps`), and a clean permutation of the numbers of
all patients (`evaluation.NumberConfusion`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from common.errors import some_of
from imaging.dice import dice
from imaging.labels import CineTissue, LabelSet, distinct_values, odd_cavity
from imaging.studies.study import PHASES, digest_of
from segmentation.evaluation.label_maps import (
    ENOUGH,
    FITS,
    BetterFit,
    Coordinates,
    LabelFormat,
    LabelMap,
    Mask,
    agreement,
    agreement_moved_back,
    better_turned,
)
from segmentation.scoring.scores import ScoredVolume

_OWN_DICE = 0.1  # of a number with itself, where it means something else, at most
_OTHER_DICE = 0.5  # of two numbers that mean the same, at least
_NEARLY_ALL = 0.9  # of the predictions
_EXCHANGED = 0.2  # in agreement, than with its own reference: patients differ less than turned maps do
_POOR = 0.8  # agreement with the own reference beyond which nobody else's is looked for


class Numbering(NamedTuple):
    """What numbers stand for.

    Attributes:
        cavity: The number of the cavity.
        wall: The number of the (normal) myocardium.
        told: All of them, for messages.
    """

    cavity: int
    wall: int
    told: str

    @classmethod
    def of(cls, labels: LabelSet) -> "Numbering":
        """Return the label values of a set."""
        told = ", ".join(f"{value} {tissue.replace('_', ' ')}" for value, tissue in labels.foreground)
        return cls(CineTissue.CAVITY, CineTissue.MYOCARDIUM, told)

    @classmethod
    def of_format(cls, form: LabelFormat) -> "Numbering":
        """Return the numbers in the files of a format."""
        own = {label: number for number, label in (form.values or {}).items()}
        cavity, wall = (own.get(value, int(value)) for value in (CineTissue.CAVITY, CineTissue.MYOCARDIUM))
        return cls(cavity, wall, f"format {form.name}: {form.numbering}")


class Caution(NamedTuple):
    """One line, the patients whom it concerns, and whether it is the predictions' alone."""

    line: str
    patients: tuple[str, ...]
    of_predictions: bool = False


class MapFacts(NamedTuple):
    """One label map: a digest (empty where nothing is drawn), the numbers that it holds, and its cavity's volume."""

    digest: str
    numbers: tuple[int, ...]
    cavity_ml: float

    @classmethod
    def of(cls, mask: Mask, numbers: Mask, spacing_mm: tuple[float, float, float]) -> "MapFacts":
        """Return the facts of label values and of the numbers in the file, both (S, H, W)."""
        cavity_ml = np.count_nonzero(mask == CineTissue.CAVITY) * np.prod(spacing_mm) / 1000
        return cls(digest_of(numbers) if numbers.any() else "", tuple(distinct_values(numbers)), float(cavity_ml))


@dataclass(frozen=True)
class StudyFacts:
    """What is told of one study and its prediction.

    Attributes:
        case_id: The patient.
        frame: The frame.
        reference: Of the reference.
        odd: What is odd about the reference's cavity.
        prediction: Of the prediction; None where there is none.
        lies_on: The reference's number by the prediction's that surely means the same and is another.
        turned: How the prediction would fit far better.
        belongs_to: Whose reference it fits far better.
        part: Training that predicted it, as `seed_0`; empty where there is one.
    """

    case_id: str
    frame: str
    reference: MapFacts
    odd: str = ""
    prediction: MapFacts | None = None
    lies_on: Mapping[int, int] = field(default_factory=dict)
    turned: BetterFit | None = None
    belongs_to: BetterFit | None = None
    part: str = ""

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.part}/{self.study}".lstrip("/")

    @property
    def study(self) -> str:
        """What messages call its reference."""
        return f"{self.case_id} {self.frame}".strip()

    def with_prediction(self, found: MapFacts, reference: Mask, prediction: Mask, numbering: Numbering) -> "StudyFacts":
        """Return the facts with those of the prediction.

        Args:
            found: Of the prediction.
            reference: The numbers (S, H, W) of the reference.
            prediction: The numbers (S, H, W) of the prediction.
            numbering: Of both.
        """
        turned = better_turned(reference, prediction)
        lies_on = {} if turned else numbers_apart(reference, prediction, numbering)
        return replace(self, prediction=found, turned=turned, lies_on=lies_on)


def study_facts(
    case_id: str, frame: str, reference: LabelMap, found: Sequence[LabelMap], form: LabelFormat
) -> StudyFacts:
    """Return the facts of a study in files.

    Args:
        case_id: The patient.
        frame: The frame.
        reference: The reference.
        found: The prediction, if there is one.
        form: Layout and numbering of both.
    """
    own, *theirs = (MapFacts.of(one.mask, one.numbers, one.spacing_mm) for one in (reference, *found[:1]))
    facts = StudyFacts(case_id, frame, own, odd_cavity(reference.mask))
    for one, of_prediction in zip(found, theirs, strict=False):
        facts = facts.with_prediction(of_prediction, reference.numbers, one.numbers, Numbering.of_format(form))
    return facts


def volume_facts(volumes: Iterable[ScoredVolume], labels: LabelSet) -> list[StudyFacts]:
    """Return the facts of studies whose maps hold the values of a label set, but not whether their cavity is odd."""
    volumes, found = list(volumes), []
    for one in volumes:
        own, theirs = (MapFacts.of(mask, mask, one.spacing_mm) for mask in (one.reference, one.prediction))
        facts = StudyFacts(one.case_id, one.frame, own)
        found.append(facts.with_prediction(theirs, one.reference, one.prediction, Numbering.of(labels)))
    return with_owners(found, volumes)


def numbers_apart(reference: Mask, prediction: Mask, numbering: Numbering) -> dict[int, int]:
    """Return the reference's number by the prediction's where these surely mean the same, but are not the same.

    Sure is: the cavity's or the myocardium's own number overlaps it by a Dice below 0.1, and another by 0.5 or more,
    and so it is for a second number; else nothing is told. One tissue drawn as another is a mistake like others.
    """
    size = int(max(reference.max(initial=0), prediction.max(initial=0))) + 1
    pairs = reference.ravel().astype(np.intp) * size + prediction.ravel()
    voxels = np.bincount(pairs, minlength=size * size).reshape(size, size)
    overlap = dice(voxels, voxels.sum(axis=1)[:, None], voxels.sum(axis=0)[None, :], empty=0.0)
    overlap[:, 0] = 0
    theirs = [
        number
        for number in range(1, size)
        if voxels[number].sum() >= ENOUGH and overlap[number, number] < _OWN_DICE
        if overlap[number].max() >= _OTHER_DICE
    ]
    if not {numbering.cavity, numbering.wall} & set(theirs):
        return {}
    found = {int(overlap[number].argmax()): number for number in theirs}
    return found if len(found) > 1 else {}


def with_owners(facts: Sequence[StudyFacts], volumes: Iterable[ScoredVolume]) -> list[StudyFacts]:
    """Return the facts with whose reference a poor prediction fits far better than its own, if anybody's.

    Args:
        facts: Of the studies.
        volumes: Their label maps.
    """
    maps = {(volume.case_id, volume.frame): volume for volume in volumes}
    at = {key: np.nonzero(volume.reference) for key, volume in maps.items()}
    return [
        one
        if one.turned or (key := (one.case_id, one.frame)) not in maps
        else replace(one, belongs_to=_owner(key, maps, at))
        for one in facts
    ]


def _owner(
    key: tuple[str, str], maps: Mapping[tuple[str, str], ScoredVolume], at: Mapping[tuple[str, str], Coordinates]
) -> BetterFit | None:
    prediction = maps[key].prediction
    if np.count_nonzero(prediction) < ENOUGH or (own := agreement(maps[key].reference, prediction, at[key])) > _POOR:
        return None
    fits = {
        other: agreement(volume.reference, prediction, at[other])
        for other, volume in maps.items()
        if other[0] != key[0] and volume.reference.shape == prediction.shape
    }
    best = max(fits, key=fits.__getitem__, default=key)
    if fits.get(best, 0.0) < max(FITS, own + _EXCHANGED):
        return None
    moved_back = agreement_moved_back(maps[key].reference, prediction, at[key])
    return BetterFit(" ".join(best).strip(), fits[best], own) if fits[best] >= moved_back + _EXCHANGED else None


def cautions(facts: Sequence[StudyFacts], numbering: Numbering, renumbered: bool = False) -> list[Caution]:
    """Return what `reference_cautions` and `prediction_cautions` find suspect."""
    return [*reference_cautions(facts, numbering), *prediction_cautions(facts, numbering, renumbered)]


def reference_cautions(facts: Sequence[StudyFacts], numbering: Numbering) -> list[Caution]:
    """Return what is suspect about the references, a line a kind."""
    return [*_odd(facts, numbering), *_same_references(facts), *_phases(facts, "reference", lambda one: one.reference)]


def prediction_cautions(facts: Sequence[StudyFacts], numbering: Numbering, renumbered: bool = False) -> list[Caution]:
    """Return what is suspect about the predictions, a line a kind.

    Args:
        facts: Of all studies; those without a prediction do not count.
        numbering: Of both sides.
        renumbered: Whether another numbering is told elsewhere.
    """
    known = [one for one in facts if one.prediction is not None]
    found = [*_copies(known), *_empty(known)]
    if not renumbered:
        found += _other_numbers(known, numbering) or _few_numbers(known, numbering)
    found += [*_turned(known), *_exchanged(known), *_same_predictions(known)]
    found += _phases(known, "prediction", lambda one: one.prediction)
    return [caution._replace(of_predictions=True) for caution in found]


def equal_in_all(models: Mapping[str, Sequence[StudyFacts]]) -> list[str]:
    """Return a line for the trainings whose predictions are equal in every voxel.

    Args:
        models: Facts by what the training is called.
    """
    alike: dict[frozenset[tuple[str, str]], list[str]] = {}
    for name, facts in models.items():
        drawn = {(one.study, one.prediction.digest) for one in facts if one.prediction and one.prediction.digest}
        if drawn:
            alike.setdefault(frozenset(drawn), []).append(name)
    told = [f"{_and(names)} ({_counted(len(drawn))})" for drawn, names in alike.items() if len(names) > 1]
    if not told:
        return []
    alike_in = some_of(told, between="; ")
    return [f"the predictions of {alike_in} are equal in every voxel and count as several trainings; give each its own"]


def _odd(facts: Sequence[StudyFacts], numbering: Numbering) -> Iterator[Caution]:
    if odd := [one for one in facts if one.odd]:
        yield _caution(
            odd,
            f"{_share(odd, facts)} references ({_names(odd)}) look numbered otherwise: in {odd[0].study} {odd[0].odd}; "
            f"look whether the numbers mean what is scored ({numbering.told}), which no score would tell",
        )


def _same_references(facts: Sequence[StudyFacts]) -> Iterator[Caution]:
    if groups := _alike(facts, lambda one: one.reference.digest):
        told = some_of([_and([one.study for one in group]) for group in groups], between="; ")
        yield _caution(
            [one for group in groups for one in group],
            f"the references of {told} are equal in every voxel and count as several; keep one of them",
        )


def _same_predictions(facts: Sequence[StudyFacts]) -> Iterator[Caution]:
    groups = _alike(
        facts, lambda one: one.prediction and one.prediction.digest and f"{one.part} {one.prediction.digest}"
    )
    own = [group for group in groups if len({one.reference.digest for one in group}) > 1]
    if own:
        told = some_of([_and([one.name for one in group]) for group in own], between="; ")
        yield _caution(
            [one for group in own for one in group],
            f"the predictions of {told} are equal in every voxel, their references are not; give each patient's own",
        )


def _copies(facts: Sequence[StudyFacts]) -> Iterator[Caution]:
    drawn = [one for one in facts if one.reference.digest]
    if drawn and all(one.prediction and one.prediction.digest == one.reference.digest for one in drawn):
        yield _caution(
            drawn,
            f"the predictions are the references, {_counted(len(drawn))} equal in every voxel; give what a model drew",
        )


def _empty(facts: Sequence[StudyFacts]) -> Iterator[Caution]:
    empty = [one for one in facts if one.reference.digest and one.prediction and not one.prediction.digest]
    if empty:
        yield _caution(
            empty,
            f"{_share(empty, facts)} predictions ({_names(empty)}) are empty, their references are not; look whether "
            "they were saved whole",
        )


def _few_numbers(facts: Sequence[StudyFacts], numbering: Numbering) -> list[Caution]:
    """Return whether nearly all predictions lack the number of the cavity or the myocardium."""
    main = {numbering.cavity, numbering.wall}
    drawn = [one for one in facts if one.prediction and one.prediction.digest and main <= set(one.reference.numbers)]
    for number in sorted(main):
        lacking = [one for one in drawn if one.prediction and number not in one.prediction.numbers]
        if lacking and len(lacking) >= _NEARLY_ALL * len(drawn):
            held = sorted({value for one in lacking if one.prediction for value in one.prediction.numbers})
            theirs = sorted({value for one in lacking for value in one.reference.numbers})
            line = (
                f"{_share(lacking, facts)} predictions hold only {_and(held)}, their references {_and(theirs)} "
                f"({numbering.told}); give label maps of all tissues, numbered so"
            )
            return [_caution(lacking, line)]
    return []


def _other_numbers(facts: Sequence[StudyFacts], numbering: Numbering) -> list[Caution]:
    """Return which numbers lie on others; one alone in all predictions is told by the numbers that these lack."""
    apart = [one for one in facts if one.lies_on]
    pairs = dict.fromkeys(pair for one in apart for pair in one.lies_on.items())
    if not pairs or (len(pairs) == 1 and _few_numbers(facts, numbering)):
        return []
    (ours, theirs), *more = sorted(pairs)
    lie = ", ".join([f"{ours} lies on the references' {theirs}", *(f"{ours} on {theirs}" for ours, theirs in more)])
    line = f"in {_share(apart, facts)} ({_names(apart)}) the predictions' {lie}; number both alike ({numbering.told})"
    return [_caution(apart, line)]


def _turned(facts: Sequence[StudyFacts]) -> Iterator[Caution]:
    by_way: dict[str, list[StudyFacts]] = {}
    for one in facts:
        if one.turned:
            by_way.setdefault(one.turned.where, []).append(one)
    if by_way:
        ways = sorted(by_way.items(), key=lambda item: -len(item[1]))
        told = [f"{way} in {_share(those, facts)} ({_names(those)}; {_first_fit(those)})" for way, those in ways]
        yield _caution(
            [one for those in by_way.values() for one in those],
            f"predictions fit their references far better {some_of(told, 3, '; ')}: check the order of the axes",
        )


def _first_fit(facts: Sequence[StudyFacts]) -> str:
    fit = facts[0].turned or facts[0].belongs_to
    assert fit is not None, "only such are told"
    return f"Dice of all labels {fit.agreement:.2f} for {fit.own:.2f}"


def _exchanged(facts: Sequence[StudyFacts]) -> Iterator[Caution]:
    if others := [one for one in facts if one.belongs_to]:
        told = some_of([f"{one.name} that of {one.belongs_to.where}" for one in others if one.belongs_to])
        yield _caution(
            others,
            f"{_share(others, facts)} predictions fit another patient's reference far better than their own: {told} "
            f"({_first_fit(others)} in the first); look whether files were exchanged",
        )


def _phases(facts: Sequence[StudyFacts], what: str, of: Callable[[StudyFacts], MapFacts | None]) -> Iterator[Caution]:
    """Yield whose cavity is smaller in end-diastole than in end-systole."""
    by_patient: dict[tuple[str, str], dict[str, StudyFacts]] = {}
    for one in facts:
        if of(one) is not None:
            by_patient.setdefault((one.part, one.case_id), {})[one.frame] = one
    told, smaller = [], []
    pairs = [frames for frames in by_patient.values() if set(PHASES) <= set(frames)]
    for frames in pairs:
        large, small = (found.cavity_ml for phase in PHASES if (found := of(frames[phase])) is not None)
        if large < small:
            first = replace(frames[PHASES[0]], frame="")
            told.append(f"{first.name}: ED {large:.0f} mL is smaller than ES {small:.0f} mL")
            smaller.append(first)
    if told:
        line = (
            f"{what}s of {len(told)} of {len(pairs)} patients: {some_of(told, between='; ')}: are the frames exchanged?"
        )
        yield _caution(smaller, line)


def _alike(facts: Sequence[StudyFacts], digest: Callable[[StudyFacts], str | None]) -> list[list[StudyFacts]]:
    by_digest: dict[str, list[StudyFacts]] = {}
    for one in facts:
        if key := digest(one):
            by_digest.setdefault(key, []).append(one)
    return [group for group in by_digest.values() if len(group) > 1]


def _caution(facts: Sequence[StudyFacts], line: str) -> Caution:
    return Caution(line, tuple(dict.fromkeys(one.case_id for one in facts)))


def _share(some: Sequence[StudyFacts], of: Sequence[StudyFacts]) -> str:
    return f"{len(some)} of {len(of)}"


def _names(facts: Sequence[StudyFacts]) -> str:
    return some_of(one.name for one in facts)


def _counted(number: int) -> str:
    return "1 label map" if number == 1 else f"all {number} label maps"


def _and(values: Sequence[object]) -> str:
    *first, last = map(str, values)
    return f"{', '.join(first)} and {last}" if first else last
