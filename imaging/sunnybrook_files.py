"""Finds what lies in the folder of a Sunnybrook case: the contours, and the DICOM file of each."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imaging.dicom.slice_file import DicomSlice, read_dicom_slice
from imaging.errors import InputError, some_of
from imaging.own_files import Mark
from imaging.source_files import inside

_CONTOUR = re.compile(r"(?:.*\D)?(?P<number>\d+)-(?P<wall>[io])contour-manual\.txt", re.IGNORECASE)
_NUMBERED = re.compile(r"(?:.*\D)?(?P<number>\d+)\.dcm", re.IGNORECASE)


@dataclass(frozen=True)
class Contours:
    """The contour files of one slice: `inner` along the endocardium, `outer` along the epicardium."""

    number: int
    inner: Path | None
    outer: Path | None

    @property
    def path(self) -> Path:
        """One of the files, for messages."""
        path = self.inner or self.outer
        assert path is not None
        return path


def contoured_slices(root: Path, folder: Path) -> dict[DicomSlice, Contours]:
    """Return the slices of a case that have contours, with these.

    A contour belongs to the DICOM file whose name carries its number; where that leaves contours over, to the one
    whose InstanceNumber it is. Where the files of several series carry a number, the series that has them all counts.

    Raises:
        InputError: A file is unreadable, or leads out of `root`, or a contour has no DICOM file, or several.
    """
    files = list(_files(root, folder))
    contours = _contours(folder, files)
    dicoms = [path for path in files if path.suffix.lower() == ".dcm"]
    if not dicoms:
        raise InputError(f"{folder}: holds no .dcm file; add the DICOM files, or remove this folder")
    slices = _by_name(dicoms, contours)
    if slices.keys() != contours.keys():
        slices = max(_by_instance(dicoms, contours), slices, key=len)
    missing = [of for number, of in contours.items() if number not in slices]
    if missing:
        numbers = some_of(of.number for of in missing)
        raise InputError(
            f"{missing[0].path}: no DICOM file carries number {numbers} in its name or as InstanceNumber; "
            f"add the file to {folder}, or remove the contour"
        )
    return {one: contours[number] for number, one in _one_each(slices).items()}


def _files(root: Path, folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be listed ({error.strerror}); correct its permissions")

    for place, folders, names in os.walk(inside(root, folder), onerror=refuse):
        mark = Mark.of(Path(place))
        folders[:] = sorted(name for name in folders if not mark.covers(name))
        for name in sorted(folders + names):
            if not name.startswith(".") and not mark.covers(name):  # macOS leaves a hidden file beside each file
                yield inside(root, Path(place, name))


def _contours(folder: Path, files: Sequence[Path]) -> dict[int, Contours]:
    """Return the contours by the number of their slice; those of papillary muscles have other names."""
    found: dict[tuple[int, str], Path] = {}
    for path in files:
        if match := _CONTOUR.fullmatch(path.name):
            key = int(match["number"]), match["wall"].lower()
            if key in found:
                raise InputError(f"{path}: is for the same slice and wall as {found[key]}; keep one of the two")
            found[key] = path
    if not found:
        raise InputError(f"{folder}: holds no *-icontour-manual.txt; add the contours, or remove this folder")
    numbers = sorted({number for number, _ in found})
    return {number: Contours(number, found.get((number, "i")), found.get((number, "o"))) for number in numbers}


def _by_name(dicoms: Sequence[Path], contours: Mapping[int, Contours]) -> dict[int, list[DicomSlice]]:
    """Return the slices whose file names end in the number of a contour, by that number."""
    matches = [(match, path) for path in dicoms if (match := _NUMBERED.fullmatch(path.name))]
    numbers = [(int(match["number"]), path) for match, path in matches]
    return _grouped((number, read_dicom_slice(path)) for number, path in numbers if number in contours)


def _by_instance(dicoms: Sequence[Path], contours: Mapping[int, Contours]) -> dict[int, list[DicomSlice]]:
    slices = [read_dicom_slice(path) for path in dicoms]
    return _grouped((one.instance, one) for one in slices if one.instance is not None and one.instance in contours)


def _grouped(numbered: Iterator[tuple[int, DicomSlice]]) -> dict[int, list[DicomSlice]]:
    groups: dict[int, list[DicomSlice]] = {}
    for number, one in numbered:
        groups.setdefault(number, []).append(one)
    return dict(sorted(groups.items()))


def _one_each(slices: Mapping[int, Sequence[DicomSlice]]) -> dict[int, DicomSlice]:
    series = [[one.series for one in found] for found in slices.values()]
    complete = {each for each in series[0] if all(found.count(each) == 1 for found in series)}
    several = [found for found in slices.values() if len(found) > 1]
    if several and len(complete) != 1:
        one, other = several[0][:2]
        raise InputError(
            f"{other.path}: carries the number of {one.path}, and their series do not tell which was contoured; "
            "keep the files of the contoured series only"
        )
    return {number: one for number, found in slices.items() for one in found if not several or one.series in complete}
