"""Reads Sunnybrook's cine studies: DICOM slices with expert contours (Radau et al., MIDAS Journal 2009).

Layout: `SCD0000101/dicom/48.dcm` or `IM-0004-0048.dcm` anywhere below the case's folder, with
`IM-0001-0048-icontour-manual.txt` (endocardium) and `-ocontour-manual.txt` (epicardium) anywhere below it.
"""

import logging
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imaging.contours import contour_mask
from imaging.dicom.series import group_by_phase, slice_places
from imaging.dicom.slice_file import DicomSlice
from imaging.dicom.volume import dicom_volume
from imaging.errors import InputError, some_of
from imaging.labels import CINE_LABELS, CineTissue, patient_group
from imaging.own_files import without_own
from imaging.patient_names import NamedPlace, Place, tell_places
from imaging.source_config import DEFAULT, SourceConfig
from imaging.source_files import composed, source_folder
from imaging.study import RejectedStudy, Study, attempt, read_or_reject
from imaging.sunnybrook_files import Contours, contoured_slices

_log = logging.getLogger(__name__)

_MOST_STRAY = 20  # pixels of a cavity outside its epicardium: where the wall is thin, hand-drawn contours cross

_Phase = Mapping[DicomSlice, Contours]


def read_sunnybrook(root: Path, config: SourceConfig = DEFAULT) -> Iterator[Study | RejectedStudy]:
    """Yield the studies of a Sunnybrook folder, case by case in the order of names, phases in that of numbers.

    Of a phase, the slices with both contours form the study: an inner contour alone does not tell the myocardium. Of
    two phases, the one with the larger cavity is `ED`, the other `ES`; otherwise phases carry their number.

    Args:
        root: The folder that holds the cases' folders.
        config: What names mean, see `imaging.patient_names`.

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
    return {first: "ED", second: "ES"} if areas[0] > areas[1] else {first: "ES", second: "ED"}


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
