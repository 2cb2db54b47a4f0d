"""Parts the DICOM files of one folder into the series that each are one volume, or one cine.

The frames of an enhanced object are slices as files are.

What stands for a volume of its own: a study, a series in it (SeriesInstanceUID, SeriesNumber, SeriesDescription), and
an ImageType in that, so that magnitude and phase never mix. Series of one place each (a breath-hold a slice) are one
stack where description, kind and grid agree.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import InputError
from imaging.volumes.dicom.header import NotASliceError
from imaging.volumes.dicom.slice_file import DicomSlice, read_scanned_slices
from imaging.volumes.dicom.volume import differences, slice_places

_MOST_KINDS = 5  # in a message
_LONGEST_TYPE = 16  # characters of a value of ImageType in a name, as DICOM allows


@dataclass(frozen=True)
class DicomSeries:
    """The slices of one series.

    Attributes:
        name: What tells it from the others of its folder, such as `series10` or `series10_P`; empty where it is alone.
        slices: Those of all phases, in the order of file names.
        notes: What the user should know, a phrase each.
    """

    name: str
    slices: tuple[DicomSlice, ...]
    notes: tuple[str, ...]


def read_folder(folder: Path, files: Iterable[Path]) -> list[DicomSeries]:
    """Read the headers of a folder's files and part them into series.

    Localisers, screenshots and the like are left out, which the notes tell.

    Args:
        folder: For messages.
        files: Its DICOM files.

    Raises:
        InputError: A file is unreadable, the folder holds slices of several patients, or none at all.
    """
    read, others = _read(files)
    if not read:
        raise _no_slices(folder, others)
    _check_patient(folder, read)
    slices = _without_copies(read)
    stacks = _stacks(slices)
    general = (*_left_out(others), *_copies(len(read) - len(slices)))
    names = _names(stacks)
    return [
        DicomSeries(name, tuple(stack), (*_one_of(stack, stacks), *_joined(stack), *general))
        for name, stack in zip(names, stacks, strict=True)
    ]


def _read(files: Iterable[Path]) -> tuple[list[DicomSlice], list[NotASliceError]]:
    slices: list[DicomSlice] = []
    others: list[NotASliceError] = []
    for path in files:
        for one in read_scanned_slices(path):
            if isinstance(one, DicomSlice):
                slices.append(one)
            else:
                others.append(one)
    return slices, others


def _no_slices(folder: Path, others: Sequence[NotASliceError]) -> InputError:
    if not others:
        return InputError(f"{folder}: no DICOM files; give at least one slice")
    if len({error.what for error in others}) == 1:
        return others[0]
    return InputError(
        f"{folder}: none of its {len(others)} DICOM files is an MR slice: {_kinds(others)}; "
        "give the files of a cardiac MR series"
    )


def _kinds(others: Sequence[NotASliceError]) -> str:
    counts = Counter(error.what for error in others).most_common()
    more = f", {len(counts) - _MOST_KINDS} kinds more" if len(counts) > _MOST_KINDS else ""
    return ", ".join(f"{count} {what}" for what, count in counts[:_MOST_KINDS]) + more


def _check_patient(folder: Path, slices: Sequence[DicomSlice]) -> None:
    """Refuse slices of several patients, without telling their ids."""
    first = {one.patient: one for one in reversed(slices)}
    if len(first) > 1:
        names = " and ".join(sorted(one.path.name for one in first.values())[:2])
        raise InputError(
            f"{folder}: holds slices of {len(first)} patients (PatientID), such as {names}; "
            "give each patient a folder of their own"
        )


def _without_copies(slices: Sequence[DicomSlice]) -> list[DicomSlice]:
    """Return slices without those that are there before under the same SOPInstanceUID, header and pixels alike."""
    kept: dict[str, list[DicomSlice]] = {}
    unique = []
    for one in slices:
        same = kept.setdefault(one.instance_uid, [])
        if not one.instance_uid or not any(_is_copy(one, other) for other in same):
            same.append(one)
            unique.append(one)
    return unique


def _is_copy(one: DicomSlice, other: DicomSlice) -> bool:
    """Whether two slices of one SOPInstanceUID are the same: careless exports give one UID to different slices."""
    same_header = (
        _volume_of(one) == _volume_of(other)
        and (one.instance, one.trigger_ms, one.shape) == (other.instance, other.trigger_ms, other.shape)
        and np.array_equal(one.position_mm, other.position_mm)
        and np.array_equal(one.directions, other.directions)
    )
    return same_header and np.array_equal(one.read_pixels(), other.read_pixels())


def _copies(number: int) -> list[str]:
    said = "file is a copy" if number == 1 else "files are copies"
    return [f"{number} {said} of others (SOPInstanceUID) and left out"] if number else []


def _left_out(others: Sequence[NotASliceError]) -> list[str]:
    verb = "files are" if len(others) > 1 else "file is"
    return [f"{len(others)} DICOM {verb} left out: {_kinds(others)}"] if others else []


def _series_of(one: DicomSlice) -> tuple[str, str, int]:
    """Return what a series is known by; careless exports give one UID, or none, to several."""
    return (one.study, one.series, -1 if one.series_number is None else one.series_number)


def _volume_of(one: DicomSlice) -> tuple[tuple[str, str, int], str, tuple[str, ...]]:
    """Return what parts slices into volumes."""
    return (_series_of(one), one.description, one.image_type)


def _number(stack: Sequence[DicomSlice]) -> int:
    return min((one.series_number for one in stack if one.series_number is not None), default=-1)


def _stacks(slices: Sequence[DicomSlice]) -> list[list[DicomSlice]]:
    """Return the slices of each volume or cine, in the order of series numbers."""
    series: dict[object, list[DicomSlice]] = {}
    for one in slices:
        series.setdefault(_volume_of(one), []).append(one)
    whole = [stack for stack in series.values() if not _may_join(stack)]
    stacks = [*whole, *_join([stack for stack in series.values() if _may_join(stack)])]
    return sorted(stacks, key=lambda stack: (_number(stack), _volume_of(stack[0])))


def _may_join(stack: Sequence[DicomSlice]) -> bool:
    """Whether a series is of one place, so that it may be a part of a stack."""
    return all(not differences(stack[0], one) for one in stack) and not slice_places(stack).any()


def _join(series: Sequence[list[DicomSlice]]) -> list[list[DicomSlice]]:
    """Return series of one place each joined to stacks; not joined where two of them lie at the same place."""
    groups: list[list[list[DicomSlice]]] = []
    for stack in series:
        home = next((group for group in groups if _belong(group[0], stack)), None)
        if home is None:
            groups.append([stack])
        else:
            home.append(stack)
    return [stack for group in groups for stack in _joined_if_apart(group)]


def _belong(one: Sequence[DicomSlice], other: Sequence[DicomSlice]) -> bool:
    """Whether two series of one place each were one protocol: by description, or by number where there is none."""
    first, second = one[0], other[0]
    numbered = first.series_number is not None and first.series_number == second.series_number
    alike = first.description == second.description and (bool(first.description) or numbered)
    return alike and len(one) == len(other) and not differences(first, second)


def _joined_if_apart(group: Sequence[list[DicomSlice]]) -> list[list[DicomSlice]]:
    places = slice_places([stack[0] for stack in group])
    apart = len(set(places.tolist())) == len(group)
    return [[one for stack in group for one in stack]] if apart else list(group)


def _names(stacks: Sequence[Sequence[DicomSlice]]) -> list[str]:
    """Return what tells stacks apart: SeriesNumber where each series has its own, else a running number."""
    if len(stacks) == 1:
        return [""]
    series = list(dict.fromkeys(_series_of(stack[0]) for stack in stacks))
    numbers = [number for _, _, number in series]
    distinct = -1 not in numbers and len(set(numbers)) == len(numbers)
    own = dict(zip(series, numbers if distinct else range(1, len(series) + 1), strict=True))
    names = [f"series{own[_series_of(stack[0])]}{_type_suffix(stack, stacks)}" for stack in stacks]
    return [name if names.count(name) == 1 else f"{name}_{position}" for position, name in enumerate(names, start=1)]


def _type_suffix(stack: Sequence[DicomSlice], stacks: Sequence[Sequence[DicomSlice]]) -> str:
    """Return the values of ImageType that the other stacks of the same series lack; empty where there are no others."""
    others = [one[0] for one in stacks if one is not stack and _series_of(one[0]) == _series_of(stack[0])]
    own = [value for value in stack[0].image_type if any(value not in other.image_type for other in others)]
    return "".join(f"_{re.sub('[^A-Z0-9]+', '-', value)[:_LONGEST_TYPE]}" for value in own if value)


def _one_of(stack: Sequence[DicomSlice], stacks: Sequence[Sequence[DicomSlice]]) -> list[str]:
    if len(stacks) == 1:
        return []
    return [f"{stack[0].title}, {len(stack)} slices, is one of {len(stacks)} series in its folder"]


def _joined(stack: Sequence[DicomSlice]) -> list[str]:
    count = len({one.series for one in stack})
    return [f"{count} series of one place each, {stack[0].title} and on, are taken as one stack"] if count > 1 else []
