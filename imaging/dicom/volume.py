"""From the DICOM slices of one cardiac phase to a volume, arranged as radiologists read it.

Which slices are one phase is in `imaging.dicom.series`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imaging.dicom.series import SAME_PLACE_MM, check_together, heights_mm
from imaging.dicom.slice_file import DicomSlice
from imaging.errors import InputError
from imaging.orientation import Arrangement, Scalar, arrangement_of
from imaging.study import check_geometry

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])  # from DICOM's world to NIfTI's
_SLICES_ARE_THIRD = (1.0, 1.0, 2.0)  # voxel sides that tell `arrangement_of` so: each slice is a file of its own
_REGULAR = 0.1  # how far a distance of slices may be from the others', as a share
_MOST_SHIFT_MM = 5.0  # in plane, from a straight stack: half a myocardial wall


@dataclass(frozen=True, eq=False)
class DicomVolume:
    """One volume of a series, arranged as radiologists read it (see `imaging.orientation`).

    Attributes:
        slices: The files in their own order, along the normal.
        image: (S, H, W), scanner units.
        spacing_mm: (slice, row, column).
        affine: (4, 4), from (column, row, slice) of the files to RAS+ millimetres, as in NIfTI.
        arrangement: How (column, row, slice) of the files became (S, H, W).
    """

    slices: tuple[DicomSlice, ...]
    image: NDArray[np.float32]
    spacing_mm: tuple[float, float, float]
    affine: NDArray[np.float64]
    arrangement: Arrangement

    def arrange(self, stack: Sequence[NDArray[Scalar]]) -> NDArray[Scalar]:
        """Return (S, H, W) from one (rows, columns) array for each of `slices`, in the pixel grid of the files."""
        return _arrange(self.arrangement, stack)


def dicom_volume(slices: Sequence[DicomSlice]) -> DicomVolume:
    """Read the pixels of one phase as a volume.

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
    return DicomVolume(ordered, np.ascontiguousarray(image), spacing_mm, affine, arrangement)


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
    off_mm = np.linalg.norm(positions - positions[0] - np.arange(len(ordered))[:, None] * step_mm, axis=1)
    if off_mm.max() > _MOST_SHIFT_MM:
        raise InputError(
            f"{ordered[int(off_mm.argmax())].path}: lies {off_mm.max():.1f} mm off a straight stack from "
            f"{first.path.name} to {ordered[-1].path.name}; give slices that were planned as one stack"
        )
    return step_mm


def _check_regular(ordered: Sequence[DicomSlice], steps_mm: NDArray[np.float64]) -> None:
    for below, above, step_mm in zip(ordered, ordered[1:], steps_mm, strict=False):
        if step_mm <= max(SAME_PLACE_MM, _REGULAR * steps_mm.max()):
            raise InputError(
                f"{above.path}: lies at the place of {below.path.name} ({step_mm:.2f} mm apart); keep one of the two"
            )
    usual_mm = steps_mm.min()
    for below, above, step_mm in zip(ordered, ordered[1:], steps_mm, strict=False):
        if step_mm > (1 + _REGULAR) * usual_mm:
            raise InputError(
                f"{above.path}: lies {step_mm:.2f} mm from {below.path.name} where others are {usual_mm:.2f} mm apart: "
                "a slice between them is missing; add it, or leave out the slices on one side"
            )


def _affine(first: DicomSlice, step_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    row_mm, column_mm = first.pixel_mm
    along_columns, along_rows = first.directions
    axes = np.stack([along_columns * column_mm, along_rows * row_mm, step_mm], axis=1)
    affine = np.eye(4)
    affine[:3, :3] = _LPS_TO_RAS @ axes
    affine[:3, 3] = _LPS_TO_RAS @ first.position_mm
    return affine
