"""What a NIfTI header says twice, compared: spacing, place, length and number type; and the geometry of label maps.

Two statements that cannot both be true are refused, or one of them is taken and a sentence names both.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.imageglobals import logger
from nibabel.openers import ImageOpener
from numpy.typing import NDArray

from common.errors import InputError
from imaging.volumes.orientation import says_nothing

Sides = tuple[float, float, float]  # in the order of the file's axes

_nibabel: Any = nibabel  # its type information is partial
# NIfTI's codes of whole and floating-point numbers of 8 to 64 bits; colours, complex numbers and bits are none.
_NUMBER_CODES = frozenset((2, 4, 8, 16, 64, 256, 512, 768, 1024, 1280))
_MM_IN_UNIT = {1: 1000.0, 2: 1.0, 3: 0.001}  # NIfTI's codes for metre, millimetre, micrometre; 0 is unknown
_SPACE_UNITS = 7  # the bits of `xyzt_units` that hold the unit of space
_NIFTI_2_BYTES = 540  # length of its header
_GZIP = b"\x1f\x8b"  # how such a file begins
_SINGLE_FILE = (b"n+1", b"n+2")
_PLACED = ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
_ROWS = ("srow_x", "srow_y", "srow_z")
_CHUNK_BYTES = 2**20
_MOST_SURPLUS_BYTES = 2**28  # a second's work to read; a small .gz may hold it many times over
_MOST_BYTES_BEFORE = 2**24  # where extensions stand
_SAME_SIDE = 0.01  # as a share
_SHEARED = 1e-3  # how much longer than the distance of slices the way between them is, as a share
_FEWEST_MM = 40  # a left ventricle is 70 to 100 mm long
_SAME_PLACE = 0.1  # of the smallest voxel side
_ORTHONORMAL = 7.5e-5  # of products of direction cosines; ITK 5.4 refuses matrices from 8e-5 to 1.2e-4 on


class Placed(Protocol):
    """A volume of a file."""

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4), to mm."""

    @property
    def header(self) -> Any:
        """The file's."""


@contextmanager
def nibabel_silent() -> Iterator[None]:
    """Keep nibabel's own words about a header away from the terminal: what it would repair is judged here."""
    was, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = was


def read_header(path: Path) -> Any:
    """Read a file's header as it is written: nibabel's loader would repair, and reset what it has used.

    Raises:
        InputError: The file is compressed and not called so, or called so and not compressed.
        ImageFileError: It begins otherwise.
    """
    _check_compression(path)
    with nibabel_silent(), ImageOpener(str(path)) as stream:
        kind = _header_kind(stream.read(_NIFTI_2_BYTES))
        if kind is None:
            raise ImageFileError("it does not begin with a NIfTI header")
        stream.seek(0)
        return kind.from_fileobj(stream, check=False)


def _check_compression(path: Path) -> None:
    """Raise `InputError` where a NIfTI file's name, by which every program opens it, hides whether it is compressed."""
    with path.open("rb") as stream:
        start = stream.read(_NIFTI_2_BYTES)
    said = f"{path}: not a readable NIfTI file"
    called_gz, is_gz = path.suffix.lower() == ".gz", start.startswith(_GZIP)
    if is_gz and not called_gz:
        raise InputError(f"{said} (compressed, unlike its name); rename it to {path.name}.gz")
    if called_gz and not is_gz and _header_kind(start):
        raise InputError(f"{said} (not compressed, unlike its name); rename it to {path.name[:-3]}")


def _header_kind(start: bytes) -> Any:
    kinds = (_nibabel.Nifti2Header, _nibabel.Nifti1Header)
    return next((kind for kind in kinds if kind.may_contain_header(start)), None)


def mm_in_unit(header: Any) -> float:
    """Return the mm of the header's unit of space."""
    return _MM_IN_UNIT.get(int(header["xyzt_units"]) & _SPACE_UNITS, 1.0)


def check_offset(header: Any, path: Path) -> None:
    """Raise `InputError` where more stands before the voxels than extensions take, before nibabel reads those."""
    offset = float(header["vox_offset"])
    if offset > _MOST_BYTES_BEFORE:
        raise InputError(
            f"{path}: its header puts {offset:g} bytes before the voxels, which no file needs; export it again"
        )


def check_meaning(header: Any, path: Path) -> None:
    """Raise `InputError` unless the voxels are whole or floating-point numbers, stored in this very file.

    Args:
        header: As `read_header` gives it.
        path: The file, for messages.
    """
    code, kind = int(header["datatype"]), header.get_data_dtype()
    if code not in _NUMBER_CODES:
        name = _nibabel.nifti1.data_type_codes.niistring[code].removeprefix("NIFTI_TYPE_")
        raise InputError(
            f"{path}: its voxels are of type {name} (datatype {code}), which are no grey values or labels; "
            "export it with whole or floating-point numbers"
        )
    if int(header["bitpix"]) not in (0, 8 * kind.itemsize):
        raise InputError(
            f"{path}: bitpix says {int(header['bitpix'])} bits a voxel and datatype {code} says {8 * kind.itemsize}; "
            "export it again"
        )
    magic, offset = bytes(header["magic"])[:3], float(header["vox_offset"])
    if magic not in _SINGLE_FILE or not offset >= header.single_vox_offset:
        raise InputError(
            f"{path}: its header (type {magic.decode('latin-1')!a}, vox_offset {offset:g}) is not that of a single "
            f"file, whose voxels begin at {header.single_vox_offset} or later; export it as one .nii or .nii.gz file"
        )


def read_whole(header: Any, path: Path) -> tuple[bytes, tuple[str, ...]]:
    """Return the bytes that a header announces, read to the file's end, where gzip's checksum stands.

    Args:
        header: As `read_header` gives it.
        path: The file.

    Returns:
        The bytes, the header's own among them, and a sentence where the file holds more than these.

    Raises:
        OSError: The checksum is not that of the content (`gzip.BadGzipFile`).
    """
    shape, surplus = header.get_data_shape(), 0
    announced = int(header["vox_offset"]) + math.prod(shape) * header.get_data_dtype().itemsize
    with ImageOpener(str(path)) as stream:
        content: bytes = stream.read(announced)
        while chunk := stream.read(_CHUNK_BYTES):
            surplus += len(chunk)
            if surplus > _MOST_SURPLUS_BYTES:
                raise OSError(f"it goes on for more than {_MOST_SURPLUS_BYTES} bytes beyond what its header announces")
    note = (
        f"{path}: holds {surplus} bytes beyond the {shape} voxels that its header announces; they are not read: "
        "export it again if slices are missing"
    )
    return content, (note,) if surplus else ()


def voxel_sides(header: Any, affine: NDArray[np.float64], path: Path) -> tuple[Sides, tuple[str, ...]]:
    """Return the sides of a voxel in the header's unit, and a sentence where `pixdim` and affine disagree.

    A side of 1 along every axis is what programs write that know none: the other statement is taken.

    Args:
        header: As `read_header` gives it.
        affine: (4, 4), in the header's unit.
        path: The file, for messages.

    Raises:
        InputError: They disagree, and neither is 1 throughout.
    """
    pixdim = tuple(float(value) for value in header["pixdim"][1:4])
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    usable = np.isfinite(affine).all() and all(0 < side < float("inf") for side in pixdim)
    if not usable or _same_sides(pixdim, affine):
        return _triple(pixdim), _forgotten(pixdim, header, path)
    said = f"pixdim says {_sides(pixdim)} and its affine {_sides(lengths)} (column, row, slice as stored)"
    if _unset(lengths):
        silent = says_nothing(affine)  # a unit matrix is no statement at all
        taken = "" if silent else f"{path}: {said}; that of pixdim is taken: correct the header, volumes depend on it"
        return _triple(pixdim), (taken,) if taken else ()
    if _unset(pixdim):
        taken = f"{path}: {said}; that of the affine is taken: correct the header, volumes depend on it"
        return _triple(lengths.round(6)), (taken,)
    raise InputError(f"{path}: {said}, so that volumes cannot be told; correct the header")


def _forgotten(pixdim: Sequence[float], header: Any, path: Path) -> tuple[str, ...]:
    """Return a sentence where a file says 1 mm throughout and its stack would be thinner than a heart."""
    fewest = min(header.get_data_shape()[:3])
    if not _unset(pixdim) or fewest >= _FEWEST_MM:
        return ()
    said = "pixdim and affine both say 1 x 1 x 1, as programs write that know no spacing"
    return (f"{path}: {said}, so that {fewest} slices are {fewest} mm: correct the header, volumes depend on it",)


def likely_sides(header: Any, affine: NDArray[np.float64]) -> Sides:
    """Return the sides of a voxel in the header's unit, to tell the slice axis by, whatever contradicts them."""
    pixdim = tuple(float(value) for value in header["pixdim"][1:4])
    usable = all(0 < side < float("inf") for side in pixdim) and not _unset(pixdim)
    return _triple(pixdim if usable else np.linalg.norm(affine[:3, :3], axis=0))


def slice_distance(side: float, affine: NDArray[np.float64], axis: int) -> float:
    """Return how far slices are apart, which in a sheared stack is less than the way from one voxel to the next.

    Args:
        side: Of a voxel along the slice axis, the length of that way.
        affine: (4, 4).
        axis: Of the slices.
    """
    length, height = float(np.linalg.norm(affine[:3, axis])), float(_heights(affine)[axis])
    straight = height > (1 - _SHEARED) * length
    return side if straight or abs(side - height) <= abs(side - length) else side * height / length


def tells_no_place(volume: Placed, other: Placed) -> bool:
    """Whether nobody wrote where a volume lies, so that it cannot contradict the other's place.

    Its affine is a plain diagonal matrix, and one of 1 mm, or the file gives no form at all, or it is at the origin
    and the other is oblique or there as well.
    """
    if not says_nothing(volume.affine):
        return False
    unformed = not int(volume.header["qform_code"]) and not int(volume.header["sform_code"])
    if unformed or _unset(np.linalg.norm(volume.affine[:3, :3], axis=0)):
        return True
    elsewhere = says_nothing(other.affine) and bool(other.affine[:3, 3].any())
    return not volume.affine[:3, 3].any() and not elsewhere


def places(volume: Placed) -> list[NDArray[np.float64]]:
    """Return the affines (4, 4) to mm that a file gives: its own, and its qform where it has a sform beside it."""
    mm = mm_in_unit(volume.header)
    qform = _qform_beside(volume.header)
    return [volume.affine] if qform is None else [volume.affine, np.diag([mm, mm, mm, 1.0]) @ qform]


def place_note(header: Any, path: Path) -> tuple[str, ...]:
    """Return a sentence where qform and sform are both given and put voxels in different places."""
    if not _has_both(header):
        return ()
    said = f"{path}: its qform (code {int(header['qform_code'])}) and its sform (code {int(header['sform_code'])})"
    taken = "the sform is taken, and label maps keep both: correct the header if it is wrong"
    qform, sform = _qform_beside(header), header.get_sform()
    if qform is None:
        return (f"{said} disagree, since the qform is no rotation; {taken}",)
    last = np.asarray(header.get_data_shape()[:3]) - 1
    corners = np.array(np.meshgrid(*([0, end] for end in last), indexing="ij")).reshape(3, -1)
    apart = float(np.linalg.norm((qform - sform)[:3, :3] @ corners + (qform - sform)[:3, 3:], axis=0).max())
    if not apart > _SAME_PLACE * float(np.linalg.norm(sform[:3, :3], axis=0).min()):
        return ()
    origins = " and ".join(f"({', '.join(f'{value:g}' for value in form[:3, 3].round(3))})" for form in (qform, sform))
    return (
        f"{said} put voxels up to {apart * mm_in_unit(header):.1f} mm apart (the first voxel at {origins}); {taken}",
    )


def kept_geometry(header: Any) -> Any:
    """Return a header with another's sides, unit, qform and sform with their codes, for a label map on its grid.

    Where there is no qform and the sform is not orthonormal, which ITK refuses, a qform is added beside it.
    """
    kept = _nibabel.Nifti1Header()
    kept["pixdim"][:4] = header["pixdim"][:4]
    kept["xyzt_units"] = int(header["xyzt_units"]) & _SPACE_UNITS
    for name in (*_PLACED, *_ROWS):
        kept[name] = header[name]
    sform = header.get_sform()
    if int(header["sform_code"]) and not int(header["qform_code"]) and not _orthonormal(sform):
        kept.set_qform(sform, int(header["sform_code"]))  # the nearest rotation, with the sform's own sides
        kept["pixdim"][1:4] = header["pixdim"][1:4]
    return kept


def new_geometry(affine: NDArray[np.float64], sides_mm: Sides) -> Any:
    """Return a header with an affine (4, 4) as sform and, for programs that know no shear, a rotation as qform.

    The rotation is that which ITK makes of the same slices in DICOM: rows keep their direction, columns are turned.

    Args:
        affine: From (column, row, slice) to RAS+ millimetres.
        sides_mm: The first two are the pixel's; slices are as far apart as the affine says.
    """
    first, second, third = affine[:3, :3].T
    normal = np.cross(first, second)
    normal *= np.sign(normal @ third) / np.linalg.norm(normal)
    across = np.cross(second, normal) / np.linalg.norm(second)
    across *= np.sign(across @ first)
    rotation = np.stack([across, second / np.linalg.norm(second), normal], axis=1)
    placed = affine.copy()
    placed[:3, :3] = rotation * (*sides_mm[:2], np.linalg.norm(third))
    header = _nibabel.Nifti1Header()
    header.set_xyzt_units("mm")
    header.set_sform(affine, "scanner")
    header.set_qform(placed, "scanner")
    return header


def _has_both(header: Any) -> bool:
    return bool(int(header["qform_code"]) and int(header["sform_code"]))


def _qform_beside(header: Any) -> NDArray[np.float64] | None:
    """Return the qform (4, 4) of a file that has a sform, too; None where there is none, or it is no rotation."""
    try:
        return np.asarray(header.get_qform(), dtype=np.float64) if _has_both(header) else None
    except ValueError:  # its quaternion is longer than 1
        return None


def _same_sides(pixdim: Sequence[float], affine: NDArray[np.float64]) -> bool:
    """Whether each side is, along its axis, the way from voxel to voxel or, in a sheared stack, its height."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    near = [np.isclose(pixdim, found, rtol=_SAME_SIDE) for found in (lengths, _heights(affine))]
    return bool((near[0] | near[1]).all())


def _heights(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (3,) how far the voxels' layers are apart along each axis."""
    axes = affine[:3, :3].T
    faces = [np.linalg.norm(np.cross(axes[axis - 2], axes[axis - 1])) for axis in range(3)]
    return np.asarray(abs(np.linalg.det(affine[:3, :3])) / np.maximum(faces, np.finfo(np.float64).tiny))


def _unset(sides: Sequence[float] | NDArray[np.float64]) -> bool:
    return bool(np.allclose(sides, 1.0, rtol=_SHEARED))


def _orthonormal(affine: NDArray[np.float64]) -> bool:
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.allclose(directions.T @ directions, np.eye(3), atol=_ORTHONORMAL))


def _triple(values: Sequence[float] | NDArray[np.float64]) -> Sides:
    first, second, third = (float(value) for value in values)
    return first, second, third


def _sides(values: Sequence[float] | NDArray[np.float64]) -> str:
    return " x ".join(f"{value:g}" for value in np.round(values, 6))
