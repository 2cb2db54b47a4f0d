"""Reads a reference's and a prediction's label map into one arrangement, or says why they do not belong together."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, some_of
from imaging.labels import distinct_values, to_labels
from imaging.volumes.nifti import NiftiVolume, read_nifti, read_nifti_on
from segmentation.evaluation.folders import LabelFormat

_SPACING_TOLERANCE = 0.01


@dataclass(frozen=True)
class LabelMap:
    """A label map (S, H, W) as its reference is arranged.

    Attributes:
        mask: Its labels.
        spacing_mm: (slice, row, column).
        numbers: The numbers that the file holds, of the same shape.
        notes: A sentence for each thing that the files say differently in two places.
    """

    mask: NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]
    numbers: NDArray[np.uint8]
    notes: tuple[str, ...] = ()


def read_reference(path: Path, form: LabelFormat) -> tuple[LabelMap, NiftiVolume]:
    """Read a reference, and the volume that predictions are laid upon.

    Raises:
        InputError: The file is unreadable, or a label is unknown.
    """
    volume = read_nifti(path)
    return _label_map(volume, path, form), volume


def read_prediction(path: Path, form: LabelFormat, reference: NiftiVolume) -> LabelMap:
    """Read a prediction in the arrangement of its reference, see `imaging.volumes.nifti.read_nifti_on`.

    Raises:
        InputError: The file is unreadable, a label is unknown, or shape, spacing or place are not the reference's.
    """
    volume, apart_mm = read_nifti_on(path, reference, "prediction")
    _check_grid(path, volume.data.shape, volume.spacing_mm, reference)
    if apart_mm is not None:
        raise InputError(
            f"{path}: the prediction's affine puts it elsewhere than its reference; save it with the affine of the "
            "image it was made from"
        )
    return _label_map(volume, path, form)


def _label_map(volume: NiftiVolume, path: Path, form: LabelFormat) -> LabelMap:
    _check_numbers(volume.data, path, form)
    mask = to_labels(volume.data, form.labels, str(path), form.values)
    numbers = mask if form.values is None else np.rint(volume.data).astype(np.uint8)
    return LabelMap(mask, volume.spacing_mm, numbers, volume.notes)


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


def _mm(spacing_mm: tuple[float, ...]) -> str:
    return " x ".join(f"{value:g}" for value in spacing_mm) + " mm"
