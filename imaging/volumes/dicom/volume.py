"""From the DICOM slices of one patient to volumes: which are one cardiac phase, in what order they lie, and the volume.

A volume is arranged as radiologists read it. How one file is read is in `imaging.volumes.dicom.slice_file`, which
series lie in a folder in `imaging.volumes.dicom.folder`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from imaging.studies.study import check_geometry
from imaging.volumes.dicom.slice_file import DicomSlice, read_dicom_slice
from imaging.volumes.nifti import MOST_VOXELS
from imaging.volumes.orientation import Arrangement, Scalar, arrangement_of

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


_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])  # from DICOM's world to NIfTI's
_SLICES_ARE_THIRD = (1.0, 1.0, 2.0)  # voxel sides that tell `arrangement_of` so: each slice is a file of its own
_REGULAR = 0.1  # how far a distance of slices may be from the others', as a share
_MOST_SHIFT_MM = 5.0  # in plane, from a straight stack: half a myocardial wall
_TOLD_SHIFT_MM = 0.5  # from a straight stack: beyond it a note says so
_TOLD_UNEVEN_MM = 0.1  # between distances of slices
_TOLD_GAP = 0.5  # between slices, of their thickness
_SAME_STEP = 0.01  # of a distance of slices
# A step this far from the normal, as a share of its length, is what rounding leaves: of cosines to three digits, or of
# positions to tenths of a millimetre; and of cosines to two. The stack is straight then, as ITK takes it.
_ROUNDED, _ROUNDED_TO_TWO_DIGITS = 0.002, 0.01


@dataclass(frozen=True, eq=False)
class DicomVolume:
    """One volume of a series, arranged as radiologists read it (see `imaging.volumes.orientation`).

    Attributes:
        slices: The files in their own order, along the normal.
        image: (S, H, W), scanner units.
        spacing_mm: (slice, row, column).
        affine: (4, 4), from (column, row, slice) of the files to RAS+ millimetres, as in NIfTI.
        arrangement: How (column, row, slice) of the files became (S, H, W).
        notes: What is odd about the headers and was decided, a phrase each.
    """

    slices: tuple[DicomSlice, ...]
    image: NDArray[np.float32]
    spacing_mm: tuple[float, float, float]
    affine: NDArray[np.float64]
    arrangement: Arrangement
    notes: tuple[str, ...] = ()

    def arrange(self, stack: Sequence[NDArray[Scalar]]) -> NDArray[Scalar]:
        """Return (S, H, W) from one (rows, columns) array for each of `slices`, in the pixel grid of the files."""
        return _arrange(self.arrangement, stack)


def dicom_volume(slices: Sequence[DicomSlice], notes: Sequence[str] = ()) -> DicomVolume:
    """Read the pixels of one phase as a volume.

    Args:
        slices: In any order.
        notes: What the user should know of their files, beside what the headers tell.

    Raises:
        InputError: The slices do not belong together, one is missing or there twice, or pixels are unreadable.
    """
    check_together(slices)
    ordered = tuple(slices[index] for index in np.argsort(heights_mm(slices), kind="stable"))
    step_mm = _step_mm(ordered)
    affine = _affine(ordered[0], step_mm)
    (rows, columns), (row_mm, column_mm) = ordered[0].shape, ordered[0].pixel_mm
    arrangement = arrangement_of(affine, (columns, rows, len(ordered)), _SLICES_ARE_THIRD)
    zooms = (column_mm, row_mm, float(abs(step_mm @ ordered[0].normal)))
    spacing_mm = (zooms[arrangement.axes[0]], zooms[arrangement.axes[1]], zooms[arrangement.axes[2]])
    check_geometry(spacing_mm, affine, str(ordered[0].path))
    image = _arrange(arrangement, [one.read_pixels() for one in ordered])
    told = (*notes, *_notes(ordered, step_mm))
    return DicomVolume(ordered, np.ascontiguousarray(image), spacing_mm, affine, arrangement, told)


def _arrange(arrangement: Arrangement, stack: Sequence[NDArray[Scalar]]) -> NDArray[Scalar]:
    return arrangement.apply(np.stack(stack).transpose(2, 1, 0))  # (column, row, slice)


def _step_mm(ordered: Sequence[DicomSlice]) -> NDArray[np.float64]:
    """Return (3,) the way from one slice to the next."""
    first = ordered[0]
    if len(ordered) == 1:
        if first.thickness_mm is None:
            raise InputError(
                f"{first.path}: a single slice without SpacingBetweenSlices and SliceThickness has no extent; "
                "add one to the header, or give more slices"
            )
        return first.normal * first.thickness_mm
    _check_regular(ordered, np.diff(heights_mm(ordered)))
    positions = np.stack([one.position_mm for one in ordered])
    step_mm = (positions[-1] - positions[0]) / (len(ordered) - 1)
    off_mm = _off_mm(ordered, step_mm)
    if off_mm.max() > _MOST_SHIFT_MM:
        raise InputError(
            f"{ordered[int(off_mm.argmax())].path}: lies {off_mm.max():.1f} mm off a straight stack from "
            f"{first.path.name} to {ordered[-1].path.name}; give slices that were planned as one stack"
        )
    straight_mm = first.normal * (step_mm @ first.normal)
    rounded = np.linalg.norm(step_mm - straight_mm) <= _rounding(first.directions) * np.linalg.norm(step_mm)
    return straight_mm if rounded else step_mm


def _rounding(directions: NDArray[np.float64]) -> float:
    oblique = not np.array_equal(directions, directions.round())
    two_digits = oblique and np.array_equal(directions, directions.round(2))
    return _ROUNDED_TO_TWO_DIGITS if two_digits else _ROUNDED


def _off_mm(ordered: Sequence[DicomSlice], step_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (S,) how far each slice lies from where a straight stack from the first would have it."""
    positions = np.stack([one.position_mm for one in ordered])
    return np.linalg.norm(positions - positions[0] - np.arange(len(ordered))[:, None] * step_mm, axis=1)


def _check_regular(ordered: Sequence[DicomSlice], steps_mm: NDArray[np.float64]) -> None:
    for below, above, step_mm in zip(ordered, ordered[1:], steps_mm, strict=False):
        if step_mm <= max(SAME_PLACE_MM, _REGULAR * steps_mm.max()):
            raise InputError(
                f"{above.path}: lies at the place of {below.path.name} ({step_mm:.2f} mm apart, "
                f"{told_times((below, above))}); keep one of the two"
            )
    usual_mm = steps_mm.min()
    for below, above, step_mm in zip(ordered, ordered[1:], steps_mm, strict=False):
        if step_mm > (1 + _REGULAR) * usual_mm:
            raise InputError(
                f"{above.path}: lies {step_mm:.2f} mm from {below.path.name} where others are {usual_mm:.2f} mm apart: "
                "a slice between them is missing; add it, or leave out the slices on one side"
            )


def _affine(first: DicomSlice, step_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (4, 4) to RAS millimetres; directions are made orthonormal as ITK does, by turning the rows' only."""
    row_mm, column_mm = first.pixel_mm
    along_rows = first.directions[1] / np.linalg.norm(first.directions[1])
    along_columns = np.cross(along_rows, first.normal)
    axes = np.stack([along_columns * column_mm, along_rows * row_mm, step_mm], axis=1)
    affine = np.eye(4)
    affine[:3, :3] = _LPS_TO_RAS @ axes
    affine[:3, 3] = _LPS_TO_RAS @ first.position_mm
    return affine


def _notes(ordered: Sequence[DicomSlice], step_mm: NDArray[np.float64]) -> Iterator[str]:
    """Yield what is odd about the headers of a stack, a phrase each."""
    disagreements = Counter(text for one in ordered for text in one.disagreements)
    yield from (f"{text} ({count} slices)" for text, count in disagreements.items())
    if len(ordered) > 1:
        yield from _notes_on_distances(ordered, step_mm)
        yield from _notes_on_shape(ordered, step_mm)


def _notes_on_distances(ordered: Sequence[DicomSlice], step_mm: NDArray[np.float64]) -> Iterator[str]:
    first, distance_mm = ordered[0], float(step_mm @ ordered[0].normal)
    steps_mm = np.diff(heights_mm(ordered))
    told_mm = abs(first.between_mm or distance_mm)
    if abs(told_mm - distance_mm) > _SAME_STEP * distance_mm:
        yield (
            f"slices lie {distance_mm:.2f} mm apart by ImagePositionPatient, which is taken, where "
            f"SpacingBetweenSlices says {told_mm:g} mm"
        )
    if np.ptp(steps_mm) > _TOLD_UNEVEN_MM:
        uneven = f"{steps_mm.min():.2f} to {steps_mm.max():.2f} mm apart"
        yield f"slices lie unevenly, {uneven}; {distance_mm:.2f} mm is taken"
    if first.slab_mm and distance_mm - first.slab_mm > _TOLD_GAP * first.slab_mm:
        gap_mm = distance_mm - first.slab_mm
        yield f"slices {first.slab_mm:g} mm thick lie {distance_mm:.2f} mm apart: gaps of {gap_mm:.2f} mm lie between"


def _notes_on_shape(ordered: Sequence[DicomSlice], step_mm: NDArray[np.float64]) -> Iterator[str]:
    normal, off_mm = ordered[0].normal, _off_mm(ordered, step_mm)
    sideways_mm = float(np.linalg.norm(step_mm - normal * (step_mm @ normal)))
    if sideways_mm > _ROUNDED * np.linalg.norm(step_mm):
        yield (
            f"the stack is sheared: each slice lies {sideways_mm:.2f} mm sideways of the one before, "
            f"{step_mm @ normal:.2f} mm along the normal; the affine keeps this"
        )
    if off_mm.max() > _TOLD_SHIFT_MM:
        yield f"slices lie up to {off_mm.max():.2f} mm off the straight stack that the affine describes"
