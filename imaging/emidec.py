"""Reads EMIDEC's folders, and writes a label map back as NIfTI in a study's own geometry.

Layout, the same for the published and the region-cropped data (Lalande et al., Data 2020):
`Case_P001/Images/Case_P001.nii.gz`, `Case_P001/Contours/Case_P001.nii.gz`, and the clinical `Case P001.txt`,
which is not read.
"""

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from imaging.errors import InputError
from imaging.labels import EMIDEC_LABELS, patient_group
from imaging.study import RejectedStudy, Study, check_geometry, check_study

# What nibabel raises for files that are cut off, corrupt, or something else altogether.
_UNREADABLE = (OSError, EOFError, zlib.error, ValueError, MemoryError, ImageFileError, HeaderDataError, WrapStructError)
_nibabel: Any = nibabel  # its type information is partial
_ROUNDING = 1e-3  # how far a label stored as a float may lie from a whole number


def read_emidec(root: Path) -> Iterator[Study | RejectedStudy]:
    """Yield the studies of an EMIDEC folder in the order of their names, unusable ones as `RejectedStudy`.

    Raises:
        InputError: `root` is no folder, or holds no `Case_*` folder.
    """
    if not root.is_dir():
        raise InputError(f"EMIDEC folder {root} does not exist; give the folder that holds Case_P001 and so on")
    folders = sorted(folder for folder in root.glob("Case_*") if folder.is_dir())
    if not folders:
        raise InputError(f"EMIDEC folder {root} holds no Case_* folder; give the folder that holds Case_P001 ...")
    return (_read_or_reject(folder) for folder in folders)


def read_volume(path: Path) -> tuple[NDArray[np.float32], tuple[float, float, float], NDArray[np.float64]]:
    """Read a NIfTI volume as image (S, H, W), spacing in mm (slice, row, column) and the file's affine.

    The spacing is that of the header's pixel dimensions: EMIDEC's affines are unit matrices.

    Raises:
        InputError: The file is missing, unreadable, not three-dimensional, or has no plausible geometry.
    """
    data, spacing_mm, affine = _read_nifti(path)
    with np.errstate(over="ignore"):  # values beyond float32 become infinite, which the checks name
        return np.ascontiguousarray(data, dtype=np.float32), spacing_mm, affine


def write_label_map(
    path: Path,
    mask: NDArray[np.uint8],
    spacing_mm: tuple[float, float, float],
    affine: NDArray[np.float64],
) -> None:
    """Write a label map (S, H, W) as NIfTI with a study's own voxel order, spacing and affine.

    Written aside and renamed. `path` ends in `.nii.gz` or `.nii`.
    """
    image = _nibabel.Nifti1Image(np.ascontiguousarray(mask.transpose(2, 1, 0), dtype=np.uint8), affine)
    image.header.set_zooms(spacing_mm[::-1])  # the affine may not carry the spacing
    image.header.set_xyzt_units("mm")
    suffix = ".nii.gz" if path.name.endswith(".gz") else ".nii"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial{suffix}")
    try:
        _nibabel.save(image, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _read_or_reject(folder: Path) -> Study | RejectedStudy:
    try:
        study = _read_study(folder)
        check_study(study)
    except InputError as error:
        return RejectedStudy(folder.name, str(folder), str(error))
    return study


def _read_study(folder: Path) -> Study:
    image_path = _file_of(folder, "Images")
    mask_path = _file_of(folder, "Contours")
    image, spacing_mm, affine = read_volume(image_path)
    mask, mask_spacing_mm, _ = _read_nifti(mask_path)
    if mask.shape != image.shape:
        raise InputError(
            f"{mask_path}: mask {mask.shape} and image {image.shape} (slice, row, column) differ in shape; "
            "give the mask that was drawn on this image"
        )
    if not np.allclose(mask_spacing_mm, spacing_mm, rtol=0.01):
        raise InputError(
            f"{mask_path}: the mask's spacing {_mm(mask_spacing_mm)} is not the image's {_mm(spacing_mm)}; "
            "correct the header of the wrong one"
        )
    labels = _whole_labels(mask, mask_path)
    return Study(
        case_id=folder.name,
        frame="",
        group=patient_group(labels, EMIDEC_LABELS),
        image=image,
        mask=labels,
        spacing_mm=spacing_mm,
        affine=affine,
        label_set=EMIDEC_LABELS.name,
        path=str(image_path),
    )


def _file_of(folder: Path, part: str) -> Path:
    for suffix in (".nii.gz", ".nii"):
        path = folder / part / f"{folder.name}{suffix}"
        if path.is_file():
            return path
    raise InputError(
        f"{folder / part / folder.name}.nii.gz is missing; add the file, or remove the folder of a patient "
        "without contours"
    )


def _whole_labels(mask: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    """Round labels that were stored as floats, refusing what is not whole or not a label."""
    whole = np.rint(mask)
    off = int(np.count_nonzero(~(np.abs(mask - whole) <= _ROUNDING)))  # NaN counts as off
    if off:
        raise InputError(f"{path}: {off} voxels are not whole label values; save the mask without interpolation")
    EMIDEC_LABELS.check(whole.astype(np.int64), str(path))
    return np.ascontiguousarray(whole, dtype=np.uint8)


def _read_nifti(path: Path) -> tuple[NDArray[Any], tuple[float, float, float], NDArray[np.float64]]:
    """Return data (S, H, W) in float64, spacing in mm (slice, row, column) and affine."""
    try:
        pixdim = _pixel_dimensions(path)
        file = _nibabel.load(path)
        data = np.asanyarray(file.dataobj, dtype=np.float64)
        affine = np.asarray(file.affine, dtype=np.float64)
    except _UNREADABLE as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: not a readable NIfTI file ({detail}); copy or download it again") from error
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim != 3:
        raise InputError(f"{path}: shape {data.shape} is not a volume (column, row, slice); give one 3-D volume")
    column_mm, row_mm, slice_mm = pixdim
    check_geometry((slice_mm, row_mm, column_mm), affine, str(path))
    return data.transpose(2, 1, 0), (slice_mm, row_mm, column_mm), affine


def _pixel_dimensions(path: Path) -> tuple[float, float, float]:
    """Read column, row and slice spacing as written: nibabel's loader would repair negative or zero ones."""
    with ImageOpener(str(path)) as stream:
        header = _nibabel.Nifti1Header.from_fileobj(stream, check=False)
    column, row, slice_ = (float(value) for value in header["pixdim"][1:4])
    return column, row, slice_


def _mm(spacing_mm: tuple[float, ...]) -> str:
    return " x ".join(f"{value:g}" for value in spacing_mm) + " mm"
