"""Reads NIfTI volumes as (slice, row, column), and writes label maps back in a file's own geometry."""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from imaging.errors import InputError
from imaging.orientation import AS_STORED, Arrangement, radiological
from imaging.study import check_affine, check_geometry
from imaging.write_aside import written_aside

# What nibabel raises for files that are cut off, corrupt, or something else altogether.
_UNREADABLE = (OSError, EOFError, zlib.error, ValueError, MemoryError, ImageFileError, HeaderDataError, WrapStructError)
_nibabel: Any = nibabel  # its type information is partial
MOST_VOXELS = 2**28  # 1 GB as float32: thirty times a large cardiac volume; beyond it a header is damaged
_MM_IN_UNIT = {1: 1000.0, 2: 1.0, 3: 0.001}  # NIfTI's codes for metre, millimetre, micrometre; 0 is unknown
_NIFTI_2_BYTES = 540  # length of its header
_SPACING_TOLERANCE = 0.01


@dataclass(frozen=True)
class NiftiVolume:
    """One volume of a file.

    Attributes:
        data: (S, H, W) in float64, so that label values of any size stay exact.
        spacing_mm: (slice, row, column), from the header's pixel dimensions.
        affine: (4, 4), of the file's own voxel order, to mm.
        arrangement: How the file's axes became (S, H, W).
    """

    data: NDArray[np.float64]
    spacing_mm: tuple[float, float, float]
    affine: NDArray[np.float64]
    arrangement: Arrangement

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


def read_nifti(path: Path, as_stored: bool = False) -> NiftiVolume:
    """Read a volume, arranged as radiologists read it (see `imaging.orientation`).

    Args:
        path: `.nii` or `.nii.gz`.
        as_stored: Take the file's columns, rows and slices as they are: for data sets whose affine says nothing.

    Raises:
        InputError: The file is unreadable, not three-dimensional, absurdly large or without plausible geometry.
    """
    data, zooms, affine = _load(path)
    arrangement = AS_STORED if as_stored else radiological(affine, data.shape, zooms)
    return _arranged(path, data, zooms, affine, arrangement)


def read_nifti_pair(image_path: Path, mask_path: Path, as_stored: bool = False) -> tuple[NiftiVolume, NiftiVolume]:
    """Read an image and the mask drawn on it, in the same arrangement.

    A mask whose affine differs is arranged by its own where that leads to the same voxels; a mask with another
    shape, spacing or place is refused.

    Raises:
        InputError: As `read_nifti`, or the two do not belong together.
    """
    image = read_nifti(image_path, as_stored)
    data, zooms, affine = _load(mask_path)
    own = image.arrangement
    if not as_stored and _informative(affine) and not np.allclose(affine, image.affine, atol=_tolerance_mm(image)):
        own = radiological(affine, data.shape, zooms)
        _check_same_place(mask_path, image, _arranged(mask_path, data, zooms, affine, own))
    mask = _arranged(mask_path, data, zooms, affine, own)
    _check_same_grid(mask_path, image, mask)
    return image, mask


def write_label_map(path: Path, mask: NDArray[np.uint8], like: Gridded) -> None:
    """Write a label map (S, H, W) as NIfTI in the voxel order, spacing and affine of the volume it was drawn on.

    Written aside and renamed. `path` ends in `.nii.gz` or `.nii`.
    """
    stored = np.ascontiguousarray(like.arrangement.undo(mask), dtype=np.uint8)
    image = _nibabel.Nifti1Image(stored, like.affine)
    zooms = np.empty(3)
    zooms[list(like.arrangement.axes)] = like.spacing_mm
    image.header.set_zooms(zooms)  # the affine may not carry the spacing
    image.header.set_xyzt_units("mm")
    with written_aside(path, ".nii.gz" if path.name.endswith(".gz") else ".nii") as partial:
        _nibabel.save(image, partial)


def _load(path: Path) -> tuple[NDArray[np.float64], tuple[float, float, float], NDArray[np.float64]]:
    """Return data in the file's order, voxel sides in mm and affine."""
    try:
        zooms, mm = _pixel_dimensions(path)
        file = _nibabel.load(path)
        if not isinstance(file, _nibabel.Nifti1Image):  # NIfTI-2 is one too; CIFTI is not
            raise ImageFileError(f"it holds a {type(file).__name__}")
        _check_size(file.shape)
        data = np.asanyarray(file.dataobj, dtype=np.float64)
        affine = np.diag([mm, mm, mm, 1.0]) @ np.asarray(file.affine, dtype=np.float64)
    except _UNREADABLE as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: not a readable NIfTI file ({detail}); copy or download it again") from error
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim != 3:
        raise InputError(f"{path}: shape {data.shape} is not a volume (column, row, slice); give one 3-D volume")
    check_affine(affine, str(path))
    return data, zooms, affine


def _check_size(shape: tuple[int, ...]) -> None:
    voxels = float(np.prod(shape, dtype=np.float64))
    if not 0 < voxels <= MOST_VOXELS:
        raise ValueError(f"its header announces the shape {tuple(shape)}")


def _arranged(
    path: Path,
    data: NDArray[np.float64],
    zooms: tuple[float, float, float],
    affine: NDArray[np.float64],
    arrangement: Arrangement,
) -> NiftiVolume:
    slice_mm, row_mm, column_mm = (zooms[axis] for axis in arrangement.axes)
    spacing_mm = (slice_mm, row_mm, column_mm)
    check_geometry(spacing_mm, affine, str(path))
    return NiftiVolume(arrangement.apply(data), spacing_mm, affine, arrangement)


def _pixel_dimensions(path: Path) -> tuple[tuple[float, float, float], float]:
    """Read the voxel sides in mm and the unit's mm as written: nibabel's loader would repair bad sides."""
    with ImageOpener(str(path)) as stream:
        second = _nibabel.Nifti2Header.may_contain_header(stream.read(_NIFTI_2_BYTES))
        stream.seek(0)
        header = (_nibabel.Nifti2Header if second else _nibabel.Nifti1Header).from_fileobj(stream, check=False)
    mm = _MM_IN_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
    column, row, slice_ = (float(value) * mm for value in header["pixdim"][1:4])
    return (column, row, slice_), mm


def _informative(affine: NDArray[np.float64]) -> bool:
    """Whether an affine says more than that there are three axes of 1 mm."""
    return not np.allclose(np.abs(affine[:3, :3]), np.eye(3))


def _tolerance_mm(volume: NiftiVolume) -> float:
    return 0.1 * min(volume.spacing_mm)


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


def _check_same_place(path: Path, image: NiftiVolume, mask: NiftiVolume) -> None:
    _check_same_grid(path, image, mask)
    apart = max(float(np.linalg.norm(a - b)) for a, b in zip(_corners_mm(image), _corners_mm(mask), strict=True))
    if apart > min(image.spacing_mm):
        raise InputError(
            f"{path}: the mask's affine puts it {apart:.1f} mm away from the image; "
            "give the mask that was drawn on this image, or correct its header"
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
