"""Whose a file is: patient, frame and slice, as its name tells or as the configuration says.

A name is a file's path below the folder of images, without its ending, its parts joined by `/`. What lives here is the
rule alone, the same for pictures, NIfTI and the folders of published sets; which files there are, each reader tells.

The rule. A folder is a patient. `slice03`, `frame01`, `phase2` and `ED` at a name's end are slice and frame. Of files
that hold one slice each, a number at the end is the slice where several patients have one and some patient has two.
Whatever could be read in two ways is refused: a patient on both sides of a split would spoil every score unseen.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, NoReturn, Protocol, TypeVar

from common.errors import InputError, some_of
from imaging.sources.config import SourceConfig
from imaging.studies.study import ED, ES, PHASES, RejectedStudy

_SEPARATOR = "[-_. ]"
_AFTER = rf"(?:{_SEPARATOR}+|(?<=[0-9]))"  # what stands before a word
_FLAGS = re.ASCII | re.IGNORECASE
_SLICE_WORD = rf"(?:{_AFTER}slice|{_SEPARATOR}+(?:slc|sl|z)){_SEPARATOR}?(?P<number>[0-9]+)"
_FRAME_WORD = (
    rf"(?:{_AFTER}(?:frame|phase|time){_SEPARATOR}?(?P<number>[0-9]+)"
    rf"|{_SEPARATOR}+(?:(?P<ed>ED|(?:end{_SEPARATOR}?)?diastol(?:e|ic))|(?P<es>ES|(?:end{_SEPARATOR}?)?systol(?:e|ic))))"
)
_SLICE = re.compile(rf"(?P<rest>.+?){_SLICE_WORD}", _FLAGS)
_FRAME = re.compile(rf"(?P<rest>.+?){_FRAME_WORD}", _FLAGS)
_NUMBER = re.compile(
    rf"(?P<rest>.+?){_SEPARATOR}+(?:(?:image|img|im){_SEPARATOR}?)?(?P<number>[0-9]+){_SEPARATOR}*", _FLAGS
)
_LAST_NUMBER = re.compile(r".*?(?P<number>[0-9]+)[^0-9]*", re.DOTALL)
_NAMELESS = re.compile(rf"(?:frame|phase|time|slice|slc|sl|z){_SEPARATOR}?[0-9]+|ED|ES", _FLAGS)
# Between the words of a name; `P01a` and `P01scan2` are two words each, `3f9ab2` is one.
_BREAK = re.compile(
    rf"{_SEPARATOR}+|(?<=[0-9])(?=[a-z]{{1,2}}$)|(?<=[0-9])(?=[a-z]{{3}})(?=[a-z]*[g-z])", re.IGNORECASE
)
# Folders that are no patient.
_PARTS_OF_A_SET = frozenset({"train", "training", "test", "testing", "val", "validation"})


@dataclass(frozen=True)
class FileName:
    """The name of one image and mask.

    Attributes:
        name: See this module.
        is_volume: Whether the file holds several slices.
        has_image: Whether there is an image: a mask alone, perhaps called after what was drawn, makes no patient.
    """

    name: str
    is_volume: bool
    has_image: bool = True


@dataclass(frozen=True)
class Place:
    """Where a file belongs.

    Attributes:
        patient: The patient.
        frame: `ED`, `ES`, a number of two digits or more, or what the pattern finds; empty where there is none.
        number: Of the slice; None where the name tells none.
    """

    patient: str
    frame: str = ""
    number: int | None = None

    def frame_of(self, phase: str) -> str:
        """Return the frame of a study whose folder holds several phases."""
        return "_".join(filter(None, (self.frame, phase)))


def tell_patients(files: Sequence[FileName], config: SourceConfig, where: str) -> dict[str, Place]:
    """Return where each file belongs, by its name; names that `source.patient_pattern` does not match are left out.

    Args:
        files: All files of a source.
        config: Its pattern, or that each file is a patient.
        where: The source's kind and folder, for messages.

    Raises:
        InputError: The names can be read in two ways, or the pattern matches none of them; one line with some of the
            names, what they were taken for, and the settings that decide.
    """
    if config.patient_pattern:
        return _by_pattern(files, config.patient_pattern, where)
    told = {file.name: _told(file, config.one_slice_per_patient) for file in files}
    if not config.one_slice_per_patient:
        with_image = {file.name: told[file.name] for file in files if file.has_image}
        _check_folders(with_image, where)
        _check_slices(with_image, where)
        _check_stems(with_image, where)
    return {name: one.place for name, one in told.items()}


def last_number(name: str) -> int | None:
    """Return the last number of a name's last part; None where it has none."""
    match = _LAST_NUMBER.fullmatch(name.rpartition("/")[2])
    return int(match["number"]) if match else None


@dataclass(frozen=True)
class _Told:
    """What one name tells.

    Attributes:
        place: Where its file belongs.
        folders: The folders below the one that names the patient; None where no folder does.
        has_one_slice: Whether its file lies side by side with others' and holds one slice.
        said: Whether a word of the name says that it is a slice.
    """

    place: Place
    folders: tuple[str, ...] | None
    has_one_slice: bool
    said: bool


def _told(file: FileName, alone: bool) -> _Told:
    *folders, stem = file.name.split("/")
    while folders and folders[0].lower() in _PARTS_OF_A_SET:
        del folders[0]
    if folders:
        return _in_folder(folders, stem)
    place = _words(Place(stem))
    said = place.number is not None
    if place.patient == stem and not file.is_volume and not alone:
        place = _words(_ending(_NUMBER, place))
    return _Told(place, None, has_one_slice=not file.is_volume, said=said)


def _in_folder(folders: list[str], stem: str) -> _Told:
    outer, full = _words(Place(folders[0])), "_".join((*folders, stem))
    own = _words(Place(full))
    if own.patient == full:
        own = _words(_ending(_NUMBER, own))
    frame = own.frame or _words(Place("_".join(folders))).frame
    place = Place(outer.patient, frame or outer.frame, last_number(stem) if own.number is None else own.number)
    return _Told(place, tuple(folders[1:]), has_one_slice=False, said=True)


def _words(place: Place) -> Place:
    """Take the words for slice and frame off the end of the patient's name, in any order."""
    while True:
        found = _frame_word(place) if not place.frame else place
        found = _ending(_SLICE, found) if found.number is None else found
        if found == place:
            return place
        place = found


def _ending(ending: re.Pattern[str], place: Place) -> Place:
    match = ending.fullmatch(place.patient)
    return replace(place, patient=match["rest"], number=int(match["number"])) if match else place


def _frame_word(place: Place) -> Place:
    match = _FRAME.fullmatch(place.patient)
    if not match:
        return place
    frame = ED if match["ed"] else ES if match["es"] else _frame_number(match["number"])
    return replace(place, patient=match["rest"], frame=frame)


def _frame_number(text: str) -> str:
    """Return a frame as contracts have it: numbers with two digits."""
    return f"{int(text):02d}" if text.isascii() and text.isdecimal() else text


def _by_pattern(files: Sequence[FileName], pattern: str, where: str) -> dict[str, Place]:
    compiled = re.compile(pattern)
    matches = {file.name: match for file in files if (match := compiled.fullmatch(file.name)) and match["patient"]}
    if files and not matches:
        raise InputError(
            f"{where}: source.patient_pattern {pattern!r} matches no name as a whole, such as "
            f"{some_of(file.name for file in files)}; correct it"
        )
    return {name: _matched(match.groupdict(), name) for name, match in matches.items()}


def _matched(groups: Mapping[str, str | None], name: str) -> Place:
    """Return what the groups of a pattern say; a pattern that says nothing of slices leaves them to the last number."""
    patient, frame, number = (groups.get(group) or "" for group in ("patient", "frame", "slice"))
    if number and not (number.isascii() and number.isdecimal()):
        raise InputError(
            f"source.patient_pattern takes {number!r} in {name!r} for a slice; let it match a number there"
        )
    told = int(number) if number else None if "slice" in groups else last_number(name)
    frame = frame.upper() if frame.upper() in PHASES else frame.replace("/", "_")
    return Place(patient.replace("/", "_"), _frame_number(frame), told)


def _check_folders(told: Mapping[str, _Told], where: str) -> None:
    """Refuse folders in folders where a patient would have several: they may be patients of a site."""
    inner: dict[str, set[str]] = {}
    for one in told.values():
        if one.folders:
            inner.setdefault(one.place.patient, set()).add(_words(Place("_".join(("x", *one.folders)))).patient)
    several = [patient for patient, folders in inner.items() if len(folders) > 1]
    if several:
        names = [name for name, one in told.items() if one.place.patient in several]
        taken = f"{_patients(several)} with several folders each"
        _refuse(where, names, taken, "(?P<patient>[^/]+)/(?:(?P<frame>.+)/)?[^/]*")


def _check_slices(told: Mapping[str, _Told], where: str) -> None:
    """Refuse files of one slice where nothing says which number is the patient's and which the slice's."""
    unsaid = {name: one.place for name, one in told.items() if one.has_one_slice and not one.said}
    single = {name: place for name, place in unsaid.items() if place.number is None and not place.frame}
    files = Counter(place.patient for place in unsaid.values())
    refused = single if len(single) > 1 else unsaid if len(unsaid) > 1 and max(files.values()) == 1 else {}
    if refused:
        patients = _patients(place.patient for place in refused.values())
        _refuse(where, refused, f"{patients} of one slice, as no name has a second one", _slice_pattern(refused))
    numbered = {name: place.patient for name, place in unsaid.items() if place.number is not None}
    if len(numbered) > 1 and len(set(numbered.values())) == 1:
        (patient,) = set(numbered.values())
        if len(numbered) == len(told) or not re.search("[0-9]", patient):
            taken = f"slices of one patient ({patient}), as they differ in a last number only"
            _refuse(where, numbered, taken, _slice_pattern(numbered))


def _check_stems(told: Mapping[str, _Told], where: str) -> None:
    """Refuse patients whose names begin alike, up to and with their first number: they may be one."""
    nameless = [name for name, one in told.items() if one.folders is None and _NAMELESS.fullmatch(one.place.patient)]
    if len(nameless) > 1:
        taken = f"{_patients(told[name].place.patient for name in nameless)}, and name no patient"
        _refuse(where, nameless, taken, "(?P<patient>[^/]+)/(?P<frame>.+)")
    patients = sorted({one.place.patient for one in told.values()})
    shared = _shared_words(patients)
    stems: dict[str, list[str]] = {}
    for patient in patients:
        stem = re.sub("(?<![0-9])0+(?=[0-9])", "", _stem(patient, shared).casefold())  # P01 and p1 may be one, too
        stems.setdefault(stem, []).append(patient)
    twins = [patient for same in stems.values() if len(same) > 1 for patient in same]
    if twins:
        names = [name for name, one in told.items() if one.place.patient in twins]
        has_slices = any(told[name].has_one_slice for name in names)
        pattern = _stem_pattern(twins, shared) + (r"[-_. ]+(?P<slice>\d+)" if has_slices else "")
        _refuse(where, names, f"{_patients(twins)}, whose names begin alike", pattern)


def _shared_words(patients: Sequence[str]) -> int:
    """Return with how many words without a number all names begin."""
    shared = 0
    for same in zip(*(_BREAK.split(patient) for patient in patients), strict=False):
        if len(set(same)) > 1 or re.search("[0-9]", same[0]):
            break
        shared += 1
    return shared


def _stem(patient: str, shared: int) -> str:
    """Return a name up to and with its first word with a number; without one, its first word that is not shared."""
    ends = [match.start() for match in _BREAK.finditer(patient) if match.start()]
    has_number = re.search("[0-9]", patient)
    enough = (re.search("[0-9]", patient[:end]) if has_number else word >= shared for word, end in enumerate(ends))
    return next((patient[:end] for end, is_enough in zip(ends, enough, strict=True) if is_enough), patient)


def _slice_pattern(names: Iterable[str]) -> str:
    """Return a pattern that takes the last number of such names for the slice."""
    ends = [re.search("([^0-9]?)[0-9]+([^0-9]*)$", name) for name in names]
    if None in ends:
        return r"(?P<patient>[^-_. ]+).*"
    around = {(match[1], bool(match[2])) for match in ends if match}
    if around in ({("-", False)}, {("_", False)}):
        return rf"(?P<patient>.+){around.pop()[0]}(?P<slice>\d+)"
    return r"(?P<patient>.+?)[-_. ]*(?P<slice>\d+)" + (r"\D*" if any(rest for _, rest in around) else "")


def _stem_pattern(twins: Sequence[str], shared: int) -> str:
    """Return a pattern that takes the beginning which such names share for the patient, and the rest for the frame."""
    stems = [_stem(patient, shared) for patient in twins]
    rests = [patient.removeprefix(stem) for patient, stem in zip(twins, stems, strict=True)]
    if any(rest and not re.match(_SEPARATOR, rest) for rest in rests):
        return r"(?P<patient>\D*\d+)[-_. ]*(?P<frame>.*?)"
    if all(re.search("[0-9]", stem) for stem in stems):
        return r"(?P<patient>\D*\d[^-_. ]*)(?:[-_. ]+(?P<frame>.+?))?"
    words = rf"(?:[^-_. ]+[-_. ]+){{{shared}}}" if shared else ""
    return rf"(?P<patient>{words}[^-_. ]+)(?:[-_. ]+(?P<frame>.+?))?"


def _patients(patients: Iterable[str]) -> str:
    found = list(dict.fromkeys(patients))
    return f"{len(found)} patient{'s' * (len(found) != 1)} ({some_of(found)})"


def _refuse(where: str, names: Iterable[str], taken: str, pattern: str) -> NoReturn:
    raise InputError(
        f"{where}: names do not tell which files are of one patient: {some_of(names)} would be taken for {taken}; if "
        "each file is a patient, give --set source.one_slice_per_patient=true, else give each patient a folder, or say "
        f"what in a name is the patient, as in --set 'source.patient_pattern={pattern}'"
    )


Pair = TypeVar("Pair", bound="NamedPair")


class NamedPair(Protocol):
    """The files of one name."""

    @property
    def name(self) -> str:
        """See `FileName`."""

    @property
    def path(self) -> Path:
        """One of the files, for messages."""


def by_study(pairs: Iterable[Pair], places: Mapping[str, Place]) -> dict[Place, list[Pair]]:
    """Return the files of each study, patient and frame (`number` is None), in the order of their names."""
    studies: dict[Place, list[Pair]] = {}
    for pair in pairs:
        if pair.name in places:
            studies.setdefault(replace(places[pair.name], number=None), []).append(pair)
    return dict(sorted(studies.items(), key=lambda item: (item[0].patient, item[0].frame)))


class NamedPlace(NamedTuple):
    """A patient's folder, or file, in the layout of a published set."""

    name: str
    path: Path


def tell_places(
    found: Sequence[NamedPlace], config: SourceConfig, where: str
) -> tuple[dict[Path, Place], RejectedStudy | None]:
    """Return the patient of each folder, by its path, and one line for those that the pattern does not match.

    Raises:
        InputError: As `tell_patients`.
    """
    places = tell_patients([FileName(one.name, is_volume=True) for one in found], config, where)
    return {one.path: places[one.name] for one in found if one.name in places}, unmatched(found, places)


def unmatched(pairs: Sequence[Pair], places: Mapping[str, Place]) -> RejectedStudy | None:
    """Return one line for all files whose names `source.patient_pattern` does not match; None where it matches all."""
    left = [pair for pair in pairs if pair.name not in places]
    if not left:
        return None
    names = some_of(pair.name for pair in left)
    reason = f"{left[0].path}: source.patient_pattern does not match {names}; widen it, or move these files away"
    return RejectedStudy(left[0].name, str(left[0].path), reason)


def in_order(pairs: Sequence[Pair], places: Mapping[str, Place]) -> Sequence[Pair]:
    """Return a study's slices by their numbers.

    Raises:
        InputError: There are several, and one has no number, or the number of another.
    """
    if len(pairs) == 1:
        return pairs
    patient = places[pairs[0].name].patient
    if len({pair.name.rpartition("/")[0] for pair in pairs}) > 1:
        raise InputError(f"{pairs[0].path}: patient {patient!r} has a folder too ({pairs[-1].path.parent}); keep one")
    numbered: dict[int, Pair] = {}
    for pair in pairs:
        number = places[pair.name].number
        if number is None:
            raise InputError(
                f"{pair.path}: patient {patient!r} has {len(pairs)} files and this name has no slice number; "
                "call the slices NAME_000, NAME_001"
            )
        first = numbered.setdefault(number, pair)
        if first is not pair:
            raise InputError(f"{first.path} and {pair.path.name} are both slice {number}; remove one of them")
    return [numbered[number] for number in sorted(numbered)]
