"""Reads a reference's and a prediction's label map into one arrangement, or says why they do not belong together."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imaging.errors import InputError, some_of
from imaging.label_values import to_labels
from imaging.labels import distinct_values
from imaging.nifti import NiftiVolume, read_nifti
from imaging.orientation import AS_STORED, Arrangement
from segmentation.label_folders import LabelFormat

_SPACING_TOLERANCE = 0.01
_PLACE_TOLERANCE = 0.5  # voxels


@dataclass(frozen=True)
class LabelMap:
    """A label map (S, H, W) in the order its reference was read in.

    Attributes:
        mask: Label values.
        spacing_mm: (slice, row, column).
        numbers: The numbers that the file holds, of the same shape.
    """

    mask: NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]
    numbers: NDArray[np.uint8]


def read_reference(path: Path, form: LabelFormat) -> tuple[LabelMap, NiftiVolume]:
    """Read a reference as it is stored, and the volume that predictions are laid upon.

    Where its third axis is not that of the slices, it is arranged as radiologists read it.

    Raises:
        InputError: The file is unreadable, or a label is unknown.
    """
    volume = read_nifti(path)
    if volume.arrangement.axes[0] == AS_STORED.axes[0]:
        data, spacing_mm = _reordered(volume, AS_STORED)
        volume = replace(volume, data=data, spacing_mm=spacing_mm, arrangement=AS_STORED)
    return _label_map(volume.data, volume.spacing_mm, path, form), volume


def read_prediction(path: Path, form: LabelFormat, reference: NiftiVolume) -> LabelMap:
    """Read a prediction in the arrangement of its reference.

    Another voxel order is undone where the affine puts the prediction onto the very voxels of the reference. Where one
    of the two affines is a unit matrix (as EMIDEC's are), it says nothing, and the axes are taken as they are stored.

    Raises:
        InputError: The file is unreadable, a label is unknown, or shape, spacing or place are not the reference's.
    """
    volume = read_nifti(path)
    order = _order_onto(reference, volume)
    data, spacing_mm = _reordered(volume, order or reference.arrangement)
    _check_grid(path, data.shape, spacing_mm, reference)
    if order is None and _informative(volume.affine) and _informative(reference.affine):
        raise InputError(
            f"{path}: the prediction's affine puts it elsewhere than its reference; save it with the affine of the "
            "image it was made from"
        )
    return _label_map(data, spacing_mm, path, form)


def _label_map(
    data: NDArray[np.float64], spacing_mm: tuple[float, float, float], path: Path, form: LabelFormat
) -> LabelMap:
    _check_numbers(data, path, form)
    mask = to_labels(data, form.labels, str(path), form.values)
    return LabelMap(mask, spacing_mm, mask if form.values is None else np.rint(data).astype(np.uint8))


def _check_numbers(data: NDArray[np.float64], path: Path, form: LabelFormat) -> None:
    """Raise `InputError` with a remedy that `evaluate` has where a whole number stands for no tissue."""
    if not np.isfinite(data).all():
        odd = np.count_nonzero(~np.isfinite(data))
        raise InputError(f"{path}: {odd} voxels are NaN or infinite, no label values; save the label map again")
    known = set(form.values or range(form.labels.num_classes))
    unknown = sorted(set(distinct_values(np.rint(data).astype(np.int64))) - known)
    if unknown:
        raise InputError(
            f"{path}: label values [{some_of(unknown)}] stand for no tissue of format {form.name} (0 background, "
            f"{form.numbering}); correct the label map, or choose another --format"
        )


def _check_grid(
    path: Path, shape: tuple[int, ...], spacing_mm: tuple[float, float, float], reference: NiftiVolume
) -> None:
    if shape != reference.data.shape:
        raise InputError(
            f"{path}: the prediction has shape {shape}, its reference {reference.data.shape} (slice, row, column); "
            "save it in the grid of the image it was made from"
        )
    if not np.allclose(spacing_mm, reference.spacing_mm, rtol=_SPACING_TOLERANCE):
        raise InputError(
            f"{path}: the prediction's spacing is {_mm(spacing_mm)}, its reference's {_mm(reference.spacing_mm)} "
            "(slice, row, column); correct the header"
        )


def _reordered(volume: NiftiVolume, order: Arrangement) -> tuple[NDArray[np.float64], tuple[float, float, float]]:
    """Return the data in another arrangement of the file's axes, and its spacing (slice, row, column)."""
    sides = dict(zip(volume.arrangement.axes, volume.spacing_mm, strict=True))
    slice_, row, column = order.axes
    return order.apply(volume.arrangement.undo(volume.data)), (sides[slice_], sides[row], sides[column])


def _order_onto(reference: NiftiVolume, prediction: NiftiVolume) -> Arrangement | None:
    """Return the arrangement that lays the prediction onto the reference, None if it lies on other voxels."""
    shape, own_shape = (np.array(volume.arrangement.undo(volume.data).shape) for volume in (reference, prediction))
    relative = np.linalg.solve(reference.affine, prediction.affine)  # from the prediction's voxels to the reference's
    axes = np.abs(relative[:3, :3]).argmax(axis=1)  # of the prediction, for each axis of the reference
    if sorted(axes) != [0, 1, 2] or (own_shape[axes] != shape).any():
        return None
    flips = relative[np.arange(3), axes] < 0
    corners = np.array([np.zeros(3), own_shape - 1.0])
    found = corners @ relative[:3, :3].T + relative[:3, 3]
    expected = np.where(flips, shape - 1 - corners[:, axes], corners[:, axes])
    if np.abs(found - expected).max() > _PLACE_TOLERANCE:
        return None
    wanted = reference.arrangement
    slice_, row, column = (int(axes[axis]) for axis in wanted.axes)
    turned = [bool(flip != flips[axis]) for flip, axis in zip(wanted.flips, wanted.axes, strict=True)]
    return Arrangement((slice_, row, column), (turned[0], turned[1], turned[2]))


def _informative(affine: NDArray[np.float64]) -> bool:
    """Whether an affine says more than that there are three axes of 1 mm."""
    return not np.allclose(np.abs(affine[:3, :3]), np.eye(3))


def _mm(spacing_mm: tuple[float, ...]) -> str:
    return " x ".join(f"{value:g}" for value in spacing_mm) + " mm"
