"""Reads Sunnybrook's cine studies: DICOM slices with expert contours (Radau et al., MIDAS Journal 2009).

Layout: `SCD0000101/dicom/48.dcm` or `IM-0004-0048.dcm` anywhere below the case's folder, with
`IM-0001-0048-icontour-manual.txt` (endocardium) and `-ocontour-manual.txt` (epicardium) anywhere below it.

Finds what lies in the folder of a Sunnybrook case: the contours, and the DICOM file of each.

Hand-drawn contours: text files of points, and the masks that they enclose.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import skimage.draw
from numpy.typing import NDArray

from common.errors import InputError, some_of
from common.files import Mark, without_own
from imaging.labels import CINE_LABELS, CineTissue, patient_group
from imaging.sources.config import DEFAULT, SourceConfig
from imaging.sources.files import composed, inside, read_text, source_folder
from imaging.sources.patient_names import NamedPlace, Place, tell_places
from imaging.studies.study import RejectedStudy, Study, attempt, name_phases, read_or_reject
from imaging.volumes.dicom.slice_file import DicomSlice, read_dicom_slice
from imaging.volumes.dicom.volume import dicom_volume, group_by_phase, slice_places

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


_polygon2mask: Any = skimage.draw.polygon2mask  # untyped
# How far up and left a contour is moved, in pixels: of the centres that it runs through, those on one side count. Drawn
# in half pixels, it runs through many: with all of them a ventricle would be 2.5 % larger, without any 2.5 % smaller.
_TIE = np.array([1.0e-5, 0.6e-5])
# Pixel i covers i to i + 1, as everywhere in this project. Sunnybrook does not say where its coordinates start; so
# taken, its contours part bright cavity from dark myocardium better than with pixel centres at whole numbers.
_CENTRE = 0.5


def contour_mask(path: Path, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels (rows, columns) whose centres lie inside a contour; pixel (0, 0) covers 0 to 1.

    Args:
        path: A text file with `x y` a line, in pixels.
        shape: (rows, columns) of the image it was drawn on.

    Raises:
        InputError: The file is unreadable, no polygon, leaves the image or encloses no pixel.
    """
    points = read_contour(path)
    rows, columns = shape
    inside = (points >= 0) & (points <= np.array([columns, rows]))
    if not inside.all():
        x, y = points[~inside.all(axis=1)][0]
        raise InputError(
            f"{path}: point {x:g} {y:g} lies outside the image of {columns} x {rows} pixels (x, y); "
            "give the contours that were drawn on this image"
        )
    mask: NDArray[np.bool_] = _polygon2mask(shape, (points - _CENTRE - _TIE)[:, ::-1])
    if not mask.any():
        raise InputError(f"{path}: its {len(points)} points enclose no pixel; draw the contour again")
    return mask


def read_contour(path: Path) -> NDArray[np.float64]:
    """Read the points (N, 2) of a contour as x, y.

    Raises:
        InputError: The file is unreadable, or holds fewer than three points or something else.
    """
    try:
        lines = read_text(path).splitlines()
        points = np.array([line.split() for line in lines if line.strip()], dtype=np.float64)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a readable text file") from error
    except (InputError, ValueError) as error:
        raise InputError(f"{path}: not a contour with two numbers x y a line; export it again") from error
    if len(points) < 3:
        raise InputError(f"{path}: holds {len(points)} points, which enclose nothing; draw the contour again")
    if points.shape[1] != 2 or not np.isfinite(points).all():
        raise InputError(f"{path}: not a contour with two finite numbers x y a line; export it again")
    return points


_log = logging.getLogger(__name__)

_MOST_STRAY = 20  # pixels of a cavity outside its epicardium: where the wall is thin, hand-drawn contours cross

_Phase = Mapping[DicomSlice, Contours]


def read_sunnybrook(root: Path, config: SourceConfig = DEFAULT) -> Iterator[Study | RejectedStudy]:
    """Yield the studies of a Sunnybrook folder, case by case in the order of names, phases in that of numbers.

    Of a phase, the slices with both contours form the study: an inner contour alone does not tell the myocardium. Of
    two phases, the one with the larger cavity is `ED`, the other `ES`; otherwise phases carry their number.

    Args:
        root: The folder that holds the cases' folders.
        config: What names mean, see `imaging.sources.patient_names`.

    Raises:
        InputError: `root` is no folder, or none of its folders holds DICOM files and contours, or names leave open
            what is a patient.
    """
    root = source_folder(root, "Sunnybrook", "SCD0000101 and so on")
    visible = (path for path in without_own(root.glob("*")) if not path.name.startswith((".", "__")))
    folders = sorted(path for path in visible if path.is_dir())
    if not any(_is_case(folder) for folder in folders):
        raise InputError(
            f"Sunnybrook folder {root} holds no folder with .dcm files and IM-0001-0048-icontour-manual.txt and so on; "
            "give the folder that holds SCD0000101 ..."
        )
    named = [NamedPlace(composed(folder.name), folder) for folder in folders]
    places, left = tell_places(named, config, f"Sunnybrook folder {root}")
    return _studies(root, places, left)


def _studies(root: Path, places: Mapping[Path, Place], left: RejectedStudy | None) -> Iterator[Study | RejectedStudy]:
    for folder, place in places.items():
        yield from _read_case(root, folder, place)
    if left:
        yield left


def _is_case(folder: Path) -> bool:
    return all(any(folder.rglob(pattern)) for pattern in ("*contour-manual.txt", "*.[dD][cC][mM]"))


def _read_case(root: Path, folder: Path, place: Place) -> Iterator[Study | RejectedStudy]:
    listed = attempt(place.patient, folder, partial(_list_case, root, folder))
    if isinstance(listed, RejectedStudy):
        yield listed
        return
    phases, frames = listed
    for number, phase in phases.items():
        path = next(iter(phase)).path
        yield read_or_reject(place.patient, path, partial(_read_phase, folder, place, frames[number], phase))


def _list_case(root: Path, folder: Path) -> tuple[dict[int, _Phase], dict[int, str]]:
    """Return the contoured slices of each phase and what each phase is called, by its number."""
    phases = _phases(root, folder)
    return phases, _frames(phases)


def _read_phase(folder: Path, place: Place, frame: str, phase: _Phase) -> Study:
    drawn = _both_contours(folder, frame, phase)
    volume = dicom_volume(list(drawn))
    mask = volume.arrange([_mask(one.shape, *drawn[one]) for one in volume.slices])
    return Study(
        case_id=place.patient,
        frame=place.frame_of(frame),
        group=patient_group(mask, CINE_LABELS),
        image=volume.image,
        mask=np.ascontiguousarray(mask),
        spacing_mm=volume.spacing_mm,
        affine=volume.affine,
        label_set=CINE_LABELS.name,
        path=str(volume.slices[0].path),
        notes=volume.notes,
    )


def _both_contours(folder: Path, frame: str, phase: _Phase) -> dict[DicomSlice, tuple[Path, Path]]:
    both = {one: (of.inner, of.outer) for one, of in phase.items() if of.inner and of.outer}
    inner = sorted(of.number for of in phase.values() if not of.outer)
    outer = sorted(of.number for of in phase.values() if not of.inner)
    counts = [
        f"{len(numbers)} slices carry only {wall} contours: {some_of(numbers)}"
        for wall, numbers in (("inner", inner), ("outer", outer))
        if numbers
    ]
    said = f"{folder}: phase {frame}: {', '.join(counts)}"
    if not both:
        raise InputError(f"{said}; add the other contours, or do without this phase")
    if counts:
        _log.info("%s; they are left out", said)
    return both


def _mask(shape: tuple[int, int], inner: Path, outer: Path) -> NDArray[np.uint8]:
    cavity, heart = contour_mask(inner, shape), contour_mask(outer, shape)
    stray = int(np.count_nonzero(cavity & ~heart))
    if stray > _MOST_STRAY:
        raise InputError(
            f"{inner}: {stray} of {np.count_nonzero(cavity)} pixels of the cavity lie outside the outer contour "
            f"{outer.name}; draw one inside the other"
        )
    mask = np.where(heart, np.uint8(CineTissue.MYOCARDIUM), np.uint8(CineTissue.BACKGROUND))
    mask[cavity] = CineTissue.CAVITY
    return mask


def _phases(root: Path, folder: Path) -> dict[int, _Phase]:
    """Return the contoured slices of each phase by its number, from 0."""
    contours = contoured_slices(root, folder)
    grouped = group_by_phase(list(contours))
    return {number: {one: contours[one] for one in slices} for number, slices in grouped.items()}


def _frames(phases: Mapping[int, _Phase]) -> dict[int, str]:
    """Return what each phase is called: `ED` and `ES` where there are two with cavities to compare."""
    numbers = {number: f"{number + 1:02d}" for number in phases}
    if len(phases) != 2:
        return numbers
    first, second = phases
    areas = _cavities(phases[first], phases[second])
    if areas[0] == areas[1]:
        return numbers
    return name_phases(dict(zip(phases, areas, strict=True)), {})


def _cavities(*phases: _Phase) -> tuple[int, ...]:
    """Return the cavity of each phase in pixels, over the places where all phases have a usable inner contour."""
    slices = [one for phase in phases for one in phase]
    places = dict(zip(slices, slice_places(slices).tolist(), strict=True))
    areas = [{places[one]: area for one in phase if (area := _cavity(one.shape, phase[one].inner))} for phase in phases]
    common = set.intersection(*(set(of) for of in areas))
    return tuple(sum(of[place] for place in common) for of in areas)


def _cavity(shape: tuple[int, int], inner: Path | None) -> int:
    try:
        return int(np.count_nonzero(contour_mask(inner, shape))) if inner else 0
    except InputError:  # named when the phase is read
        return 0
