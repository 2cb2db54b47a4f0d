"""From the DICOM slices of one cardiac phase to a volume, arranged as radiologists read it.

Which slices are one phase is in `imaging.volumes.dicom.series`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from imaging.studies.study import check_geometry
from imaging.volumes.dicom.series import SAME_PLACE_MM, check_together, heights_mm, told_times
from imaging.volumes.dicom.slice_file import DicomSlice
from imaging.volumes.orientation import Arrangement, Scalar, arrangement_of

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
