"""Reads the DICOM slices of one patient, and tells which are one cardiac phase and in what order they lie.

How one file is read is in `imaging.volumes.dicom.slice_file`, which series lie in a folder in
`imaging.volumes.dicom.folder`, how slices become a volume in `imaging.volumes.dicom.volume`.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from imaging.volumes.dicom.slice_file import DicomSlice, read_dicom_slice
from imaging.volumes.nifti import MOST_VOXELS

SAME_PLACE_MM = 0.1
_SAME_DIRECTION = 0.01  # of direction cosines, half a degree
_SAME_SPACING = 0.001
_MOST_TIMES = 6  # in a message


def read_dicom_slices(files: Iterable[Path]) -> list[DicomSlice]:
    """Read the headers of one patient's slices, in the order given; their pixels are read with the volume.

    Raises:
        InputError: A file is unusable (see `read_dicom_slice`), or the slices do not belong together.
    """
    slices = [read_dicom_slice(path) for path in files]
    check_together(slices)
    return slices


def group_by_phase(slices: Sequence[DicomSlice]) -> dict[int, list[DicomSlice]]:
    """Return the slices of each cardiac phase, counted from 0, in their order along the normal.

    With CardiacNumberOfImages, instance numbers count phases fastest, unless trigger times contradict; without, the
    phase is the rank of the trigger time among the slices of one place: the times themselves differ between places.

    Raises:
        InputError: The slices do not belong together, or neither tells the phases.
    """
    check_together(slices)
    places = slice_places(slices)
    phases = _phases_by_number(slices)
    if phases is None or _contradicted(phases, slices, places):
        phases = _phases_by_trigger(slices, places)
    elif _shared(phases, places):
        by_trigger = _phases_by_trigger(slices, places)
        phases = phases if by_trigger is None else by_trigger  # the volume names slices at one place
    if phases is None:
        raise InputError(
            f"{slices[0].path.parent}: the phases of {len(slices)} slices at {places.max() + 1} places cannot be told; "
            "export them with InstanceNumber and CardiacNumberOfImages, or with all trigger times of each place, "
            f"or keep one image a place: {_at_one_place(slices, places)}"
        )
    ordered = sorted(zip(phases.tolist(), places.tolist(), range(len(slices)), strict=True))
    return {phase: [slices[index] for each, _, index in ordered if each == phase] for phase, _, _ in ordered}


def slice_places(slices: Sequence[DicomSlice]) -> NDArray[np.int64]:
    """Return for each slice the number of its place along the normal, from 0; phases of a place share its number."""
    heights = heights_mm(slices)
    order = np.argsort(heights, kind="stable")
    places = np.empty(len(slices), dtype=np.int64)
    places[order] = np.cumsum(np.diff(heights[order], prepend=heights[order[0]]) > SAME_PLACE_MM)
    return places


def check_together(slices: Sequence[DicomSlice]) -> None:
    """Raise `InputError` unless slices are of one patient, parallel, of one matrix and pixel size, and not too many."""
    if not slices:
        raise InputError("no DICOM files; give at least one slice")
    first = slices[0]
    for other in slices[1:]:
        _check_alike(first, other)
    voxels = len(slices) * first.shape[0] * first.shape[1]
    if voxels > MOST_VOXELS:
        raise InputError(
            f"{first.path.parent}: {len(slices)} slices of {first.shape[0]} x {first.shape[1]} pixels are more than "
            f"{MOST_VOXELS} voxels; give the slices of one short-axis series"
        )


def heights_mm(slices: Sequence[DicomSlice]) -> NDArray[np.float64]:
    """Return (N,) positions along the normal of the first slice."""
    return np.stack([one.position_mm for one in slices]) @ slices[0].normal


def differences(one: DicomSlice, other: DicomSlice) -> list[str]:
    """Return what keeps two slices from being of one volume, in words."""
    alike = {
        "patient (PatientID)": one.patient == other.patient,
        "study (StudyInstanceUID)": one.study == other.study,
        "kind (ImageType)": one.image_type == other.image_type,
        "matrix": one.shape == other.shape,
        "pixel spacing": np.allclose(one.pixel_mm, other.pixel_mm, rtol=_SAME_SPACING),
        "orientation": np.allclose(one.directions, other.directions, atol=_SAME_DIRECTION),
    }
    return [name for name, same in alike.items() if not same]


def _check_alike(one: DicomSlice, other: DicomSlice) -> None:
    if different := " and ".join(differences(one, other)):
        raise InputError(
            f"{other.path}: differs in {different} from {one.path.name}; "
            "give the slices of one short-axis series of one patient"
        )


def _phases_by_number(slices: Sequence[DicomSlice]) -> NDArray[np.int64] | None:
    instances = [one.instance for one in slices if one.instance is not None]
    numbers = {one.phases for one in slices}
    phases = numbers.pop()
    if numbers or not phases or phases < 1 or len(instances) < len(slices):
        return None
    return (np.asarray(instances) - 1) % phases


def _phases_by_trigger(slices: Sequence[DicomSlice], places: NDArray[np.int64]) -> NDArray[np.int64] | None:
    counts = np.bincount(places)
    if (counts == 1).all():
        return np.zeros(len(slices), dtype=np.int64)
    times = _trigger_ms(slices)
    if (counts != counts[0]).any() or times is None:
        return None
    order = np.lexsort((times, places)).reshape(-1, counts[0])  # (place, rank)
    if (np.diff(times[order], axis=1) == 0).any():
        return None
    phases = np.empty(len(slices), dtype=np.int64)
    phases[order] = np.arange(counts[0])
    return phases


def _contradicted(phases: NDArray[np.int64], slices: Sequence[DicomSlice], places: NDArray[np.int64]) -> bool:
    """Whether at some place a later trigger time belongs to an earlier phase."""
    times = _trigger_ms(slices)
    if times is None:
        return False
    order = np.lexsort((times, places))
    later = (np.diff(places[order]) == 0) & (np.diff(times[order]) > 0)
    return bool((np.diff(phases[order])[later] < 0).any())


def _shared(phases: NDArray[np.int64], places: NDArray[np.int64]) -> bool:
    """Whether two slices are the same phase of the same place."""
    return len(set(zip(phases.tolist(), places.tolist(), strict=True))) < len(phases)


def _at_one_place(slices: Sequence[DicomSlice], places: NDArray[np.int64]) -> str:
    """Return what tells the slices of the fullest place apart, for a message."""
    fullest = int(np.bincount(places).argmax())
    here = [one for one, place in zip(slices, places.tolist(), strict=True) if place == fullest]
    names = " and ".join(one.path.name for one in here[:2])
    return f"{len(here)} images such as {names} lie at one place, with {told_times(here)}"


def told_times(slices: Sequence[DicomSlice]) -> str:
    """Return what the headers tell of when slices were acquired, for a message."""
    values = {
        "trigger times": [one.trigger_ms for one in slices],
        "inversion times": [one.inversion_ms for one in slices],
        "echo times": [one.echo_ms for one in slices],
    }
    told = [f"{name} {_some_ms(times)}" for name, times in values.items() if any(time is not None for time in times)]
    return ", ".join(told) or "no trigger times"


def _some_ms(times: Sequence[float | None]) -> str:
    texts = ["none" if time is None else f"{time:g}" for time in times]
    return ", ".join(texts[:_MOST_TIMES]) + (" ..." if len(texts) > _MOST_TIMES else "") + " ms"


def _trigger_ms(slices: Sequence[DicomSlice]) -> NDArray[np.float64] | None:
    times = [one.trigger_ms for one in slices if one.trigger_ms is not None]
    return np.asarray(times) if len(times) == len(slices) else None
