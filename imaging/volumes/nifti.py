"""Reads NIfTI volumes as (slice, row, column), and writes label maps back in a file's own geometry.

What a header says twice is compared in `imaging.volumes.nifti_header`, how a volume is arranged told in
`imaging.volumes.orientation`.
"""

import zlib
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from common.errors import InputError, one_line
from common.files import written_aside
from imaging.studies.study import check_affine, check_geometry
from imaging.volumes.nifti_header import (
    Sides,
    check_meaning,
    check_offset,
    kept_geometry,
    likely_sides,
    mm_in_unit,
    new_geometry,
    nibabel_silent,
    place_note,
    places,
    read_header,
    read_whole,
    slice_distance,
    tells_no_place,
    voxel_sides,
)
from imaging.volumes.orientation import Arrangement, arrangement_of, order_onto

# What nibabel raises for files that are cut off, corrupt, or something else altogether.
_UNREADABLE = (OSError, EOFError, zlib.error, ValueError, MemoryError, ImageFileError, HeaderDataError, WrapStructError)
_nibabel: Any = nibabel  # its type information is partial
MOST_VOXELS = 2**25  # 512 x 512 x 128, four times a large cardiac volume: read within 1 GB; beyond, a header is damaged
_SPACING_TOLERANCE = 0.01


@dataclass(frozen=True)
class NiftiVolume:
    """One volume of a file.

    Attributes:
        data: (S, H, W) in float64, so that label values of any size stay exact.
        spacing_mm: (slice, row, column), from the header's pixel dimensions.
        affine: (4, 4), of the file's own voxel order, to mm.
        arrangement: How the file's axes became (S, H, W).
        header: The file's own, for the label maps drawn on it.
        notes: A sentence for each thing that the file, or it and the one beside it, say differently in two places.
    """

    data: NDArray[np.float64]
    spacing_mm: tuple[float, float, float]
    affine: NDArray[np.float64]
    arrangement: Arrangement
    header: Any
    notes: tuple[str, ...] = ()

    @property
    def image(self) -> NDArray[np.float32]:
        """The data (S, H, W) as an image; values beyond float32 become infinite, which the checks name."""
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(self.data, dtype=np.float32)


class Gridded(Protocol):
    """What a label map takes over from the volume it was drawn on, be it NIfTI or DICOM."""

    @property
    def arrangement(self) -> Arrangement:
        """How the file's axes became (S, H, W)."""

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """(slice, row, column)."""

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4), of the file's own voxel order, to mm."""


@dataclass(frozen=True)
class _StoredVolume:
    """A volume in its file's own order: voxel sides and affine in mm."""

    path: Path
    data: NDArray[np.float64]
    sides_mm: Sides
    affine: NDArray[np.float64]
    header: Any
    notes: tuple[str, ...]

    def arranged(self, arrangement: Arrangement | None = None, spacing_mm: Sides | None = None) -> NiftiVolume:
        """Return it as (S, H, W): as its own affine says, unless an arrangement is given."""
        own = arrangement or arrangement_of(self.affine, self.data.shape, self.sides_mm)
        if spacing_mm is None:
            slice_mm, row_mm, column_mm = (self.sides_mm[axis] for axis in own.axes)
            spacing_mm = (slice_distance(slice_mm, self.affine, own.axes[0]), row_mm, column_mm)
        check_geometry(spacing_mm, self.affine, str(self.path))
        return NiftiVolume(own.apply(self.data), spacing_mm, self.affine, own, self.header, self.notes)


def read_nifti(path: Path, spacing_mm: Sides | None = None) -> NiftiVolume:
    """Read a volume, arranged as radiologists read it, or as stored where its affine says nothing.

    Args:
        path: `.nii` or `.nii.gz`.
        spacing_mm: (slice, row, column) instead of the header's.

    Raises:
        InputError: The file is unreadable, holds no numbers, contradicts itself, is not three-dimensional, absurdly
            large or without plausible geometry.
    """
    return _load(path, spacing_mm is not None).arranged(spacing_mm=spacing_mm)


def read_nifti_pair(
    image_path: Path, mask_path: Path, spacing_mm: Sides | None = None
) -> tuple[NiftiVolume, NiftiVolume]:
    """Read an image and the mask drawn on it, in the same arrangement (see `read_nifti_on`).

    Args:
        image_path: `.nii` or `.nii.gz`.
        mask_path: The same.
        spacing_mm: (slice, row, column) of both instead of the headers'.

    Raises:
        InputError: As `read_nifti`, or the two differ in shape, spacing or place.
    """
    image = read_nifti(image_path, spacing_mm)
    mask, apart_mm = read_nifti_on(mask_path, image, "mask", spacing_mm)
    _check_same_grid(mask_path, image, mask)
    if apart_mm is not None:
        raise InputError(
            f"{mask_path}: the mask's affine puts it {apart_mm:.1f} mm away from the image; "
            "give the mask that was drawn on this image, or correct its header"
        )
    return image, mask


def read_nifti_on(
    path: Path, like: NiftiVolume, what: str, spacing_mm: Sides | None = None
) -> tuple[NiftiVolume, float | None]:
    """Read a volume that was drawn on another, in the other's arrangement.

    Another order of its axes is undone where the affines lay it onto the very voxels of the other. Where one of the
    two files tells no place (see `tells_no_place`), the volume is taken as drawn on the other, axis by axis as stored.

    Args:
        path: `.nii` or `.nii.gz`.
        like: The other. Whether shape and spacing are its own, the caller compares.
        what: `mask` or `prediction`, for the sentence that says so.
        spacing_mm: (slice, row, column) instead of the header's.

    Returns:
        The volume, and how many mm its affine puts it away from the other; None where it lies on it.

    Raises:
        InputError: As `read_nifti`.
    """
    stored = _load(path, spacing_mm is not None)
    order = _order_onto(like, stored)
    if order is not None:
        return stored.arranged(order, spacing_mm), None
    silent, other_silent = tells_no_place(stored, like), tells_no_place(like, stored)
    if silent or other_silent:
        volume = stored.arranged(like.arrangement, spacing_mm)
        return (volume if silent and other_silent else _taken_as_drawn(volume, path, what, silent)), None
    volume = stored.arranged(spacing_mm=spacing_mm)
    return volume, float(np.linalg.norm(_corners_mm(like) - _corners_mm(volume), axis=1).max())


def write_label_map(path: Path, mask: NDArray[np.uint8], like: Gridded) -> None:
    """Write a label map (S, H, W) as NIfTI in the voxel order of the volume it was drawn on, and at its place.

    Of a NIfTI volume, sides, unit, qform and sform with their codes are kept. Written aside and renamed. `path` ends
    in `.nii.gz` or `.nii`.
    """
    _write_on_grid(path, mask, like, np.uint8)


def write_probability(path: Path, probability: NDArray[np.floating], like: Gridded) -> None:
    """Write one class's probability (S, H, W) as `write_label_map` does, in float32: NIfTI knows no half precision."""
    _write_on_grid(path, probability, like, np.float32)


def _write_on_grid(path: Path, values: NDArray[Any], like: Gridded, kind: type[np.generic]) -> None:
    stored = np.ascontiguousarray(like.arrangement.undo(values), dtype=kind)
    header = kept_geometry(like.header) if isinstance(like, NiftiVolume) else new_geometry(like.affine, _sides_mm(like))
    header.set_data_dtype(kind)
    with written_aside(path, ".nii.gz" if path.name.endswith(".gz") else ".nii") as partial:
        _nibabel.save(_nibabel.Nifti1Image(stored, None, header), partial)


def _load(path: Path, spacing_is_told: bool) -> _StoredVolume:
    """Return a volume in its file's order; sides that contradict each other do not matter where the spacing is told."""
    try:
        with nibabel_silent():
            header, file = _opened(path)
            content, surplus = read_whole(header, path)
            stored = file.dataobj
            spec = (stored.shape, stored.dtype, stored.offset, stored.slope, stored.inter)
            data = np.asanyarray(_nibabel.arrayproxy.ArrayProxy(BytesIO(content), spec), dtype=np.float64)
            affine = np.asarray(file.affine, dtype=np.float64)
    except _UNREADABLE as error:
        raise InputError(f"{path}: not a readable NIfTI file ({one_line(error)}); copy or download it again") from error
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim != 3:
        raise InputError(f"{path}: shape {data.shape} is not a volume (column, row, slice); give one 3-D volume")
    check_affine(affine, str(path))
    sides, differing = (likely_sides(header, affine), ()) if spacing_is_told else voxel_sides(header, affine, path)
    mm, notes = mm_in_unit(header), (*differing, *place_note(file.header, path), *surplus)
    sides_mm = (sides[0] * mm, sides[1] * mm, sides[2] * mm)
    return _StoredVolume(path, data, sides_mm, np.diag([mm, mm, mm, 1.0]) @ affine, file.header, notes)


def _opened(path: Path) -> tuple[Any, Any]:
    """Return a file's header as it is written, and the file as nibabel opens it, its voxels not yet read."""
    header = read_header(path)
    check_offset(header, path)
    file = _nibabel.load(path)
    if not isinstance(file, _nibabel.Nifti1Image):  # NIfTI-2 is one too; CIFTI is not
        raise ImageFileError(f"it holds a {type(file).__name__}")
    if type(file.header) is not type(header):
        raise ImageFileError("the size of its header and the type in it are of different versions of NIfTI")
    _check_size(file.shape)
    check_meaning(header, path)
    return header, file


def _check_size(shape: tuple[int, ...]) -> None:
    voxels = float(np.prod(shape, dtype=np.float64))
    if not 0 < voxels <= MOST_VOXELS:
        raise ValueError(f"its header announces the shape {tuple(shape)}")


def _order_onto(like: NiftiVolume, stored: _StoredVolume) -> Arrangement | None:
    """Return the first arrangement that lays the one onto the other, be it by their qforms."""
    shape = like.arrangement.undo(like.data).shape
    pairs = ((there, own) for there in places(like) for own in places(stored))
    orders = (order_onto(like.arrangement, there, shape, own, stored.data.shape) for there, own in pairs)
    return next((order for order in orders if order is not None), None)


def _taken_as_drawn(volume: NiftiVolume, path: Path, what: str, silent: bool) -> NiftiVolume:
    own, other = ("tells no place (a plain diagonal matrix)", "does") if silent else ("tells a place", "does not")
    note = f"{path}: the affine of the {what} {own} and that of its image {other}; it is taken as drawn on the image"
    return replace(volume, notes=(*volume.notes, note))


def _sides_mm(volume: Gridded) -> Sides:
    sides = dict(zip(volume.arrangement.axes, volume.spacing_mm, strict=True))
    return sides[0], sides[1], sides[2]


def _check_same_grid(path: Path, image: NiftiVolume, mask: NiftiVolume) -> None:
    if mask.data.shape != image.data.shape:
        raise InputError(
            f"{path}: mask {mask.data.shape} and image {image.data.shape} (slice, row, column) differ in shape; "
            "give the mask that was drawn on this image"
        )
    if not np.allclose(mask.spacing_mm, image.spacing_mm, rtol=_SPACING_TOLERANCE):
        raise InputError(
            f"{path}: the mask's spacing {_mm(mask.spacing_mm)} is not the image's {_mm(image.spacing_mm)}; "
            "correct the header of the wrong one"
        )


def _corners_mm(volume: NiftiVolume) -> NDArray[np.float64]:
    """Return where the first and the last voxel of (S, H, W) lie in the patient, (2, 3) mm."""
    last = np.asarray(volume.data.shape) - 1
    indices = np.where(volume.arrangement.flips, [last, 0 * last], [0 * last, last])
    stored = np.empty_like(indices)
    stored[:, list(volume.arrangement.axes)] = indices
    return stored @ volume.affine[:3, :3].T + volume.affine[:3, 3]


def _mm(spacing_mm: tuple[float, ...]) -> str:
    return " x ".join(f"{value:g}" for value in spacing_mm) + " mm"
