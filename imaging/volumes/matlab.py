"""Reads arrays of numbers from MATLAB files: version 5 (`-v6`, `-v7`) and version 7.3, which is HDF5.

Only plain arrays of numbers are decoded; cells, structures, objects and functions are left where they are.

Reads arrays of numbers from MATLAB's version 5 files (`-v6`, `-v7`; MathWorks, "MAT-File Format").

SciPy's reader follows a damaged tag out of its tables and takes the process down with it, and has no bound on what
a compressed array unfolds to. Here every tag is checked against the announced shape before anything is decoded.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, one_line, some_of
from imaging.volumes.nifti import MOST_VOXELS

_HEADER_BYTES = 128
_ORDER = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}  # bytes 124 to 127: the version, and the order of bytes
_MATRIX, _COMPRESSED = 14, 15  # types of element
_FLAGS, _DIMENSIONS, _NAME = 6, 5, 1
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = (  # from number 1
    *("cell", "struct", "object", "char", "sparse", "double", "single", "int8", "uint8"),
    *("int16", "uint16", "int32", "uint32", "int64", "uint64", "function", "opaque", "object"),
)
_WITHOUT_SHAPE = ("function", "opaque")
_COMPLEX, _LOGICAL = 0x0800, 0x0200  # bits of the flags
_LONGEST_PREAMBLE = 4096  # flags, up to hundreds of dimensions, and a name of at most 63 letters


@dataclass(frozen=True)
class Version5Array:
    """A variable as its preamble announces it.

    Attributes:
        name: Of the variable; empty for MATLAB's own.
        kind: MATLAB's class, or `complex`.
        shape: In MATLAB's order.
        start: Byte of the file at which its element begins, after the tag.
        stored: Bytes of the element.
        compressed: Whether the element is a zlib stream.
        skip: Bytes of the element, unfolded, before the numbers.
        order: `<` or `>`.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    start: int
    stored: int
    compressed: bool
    skip: int
    order: str


def list_version5(path: Path) -> dict[str, Version5Array]:
    """Return the variables of a file by name.

    Raises:
        ValueError: It is no version 5 file, or damaged.
    """
    with path.open("rb") as file:
        order = _ORDER.get(file.read(_HEADER_BYTES)[124:])
        if order is None:
            raise ValueError("it does not begin as MATLAB's version 5 or 7.3 does")
        found = list(_elements(file, order, path.stat().st_size))
    return {array.name: array for array in reversed(found) if array.name}


def read_version5(path: Path, array: Version5Array) -> NDArray[Any]:
    """Return the numbers of an array in the type that the file stores.

    Raises:
        ValueError: The content is damaged, or not what the preamble announces.
        zlib.error: The same.
    """
    count = int(np.prod(array.shape))
    with path.open("rb") as file:
        file.seek(array.start)
        raw = file.read(array.stored)
    if array.compressed:
        unfold = zlib.decompressobj()
        raw = unfold.decompress(raw, array.skip + 8 * count + 16)
        if not unfold.eof:
            raise ValueError(f"{array.name!r} is longer than its shape, or cut off")
    kind, values, _ = _element(memoryview(raw), array.skip, array.order)
    dtype = np.dtype(array.order + _TYPES.get(kind, "V1"))
    if kind not in _TYPES or len(values) != count * dtype.itemsize:
        raise ValueError(f"{array.name!r} is damaged")
    return np.frombuffer(values, dtype).reshape(array.shape, order="F")


def _elements(file: BinaryIO, order: str, size: int) -> Iterator[Version5Array]:
    start = _HEADER_BYTES
    while start < size:
        file.seek(start)
        kind, stored = struct.unpack(f"{order}II", file.read(8).ljust(8, b"\0"))
        if kind not in (_MATRIX, _COMPRESSED) or start + 8 + stored > size:
            raise ValueError(f"the variable at byte {start} is damaged or cut off")
        begin = file.read(min(stored, _LONGEST_PREAMBLE))
        if kind == _COMPRESSED:
            begin = zlib.decompressobj().decompress(begin, _LONGEST_PREAMBLE)
        name, mclass, shape, skip = _preamble(memoryview(begin), 8 if kind == _COMPRESSED else 0, order)
        yield Version5Array(name, mclass, shape, start + 8, stored, kind == _COMPRESSED, skip, order)
        start += 8 + stored


def _preamble(raw: memoryview, position: int, order: str) -> tuple[str, str, tuple[int, ...], int]:
    """Return name, class and shape of a matrix, and the byte at which its content begins."""
    kind, flags, position = _element(raw, position, order)
    if kind != _FLAGS or len(flags) != 8:
        raise ValueError("a variable has no class")
    bits = struct.unpack(f"{order}II", flags)[0]
    number = bits & 0xFF
    mclass = _CLASSES[number - 1] if 0 < number <= len(_CLASSES) else "unknown"
    if bits & (_COMPLEX | _LOGICAL) and mclass not in ("cell", "struct", "sparse"):
        mclass = "complex" if bits & _COMPLEX else "logical"
    shape: tuple[int, ...] = ()
    if mclass not in _WITHOUT_SHAPE:
        kind, sides, position = _element(raw, position, order)
        if kind != _DIMENSIONS or len(sides) % 4:
            raise ValueError("a variable has no shape")
        shape = struct.unpack(f"{order}{len(sides) // 4}i", sides)
    kind, name, position = _element(raw, position, order)
    return bytes(name).decode("utf-8", "replace") if kind == _NAME else "", mclass, shape, position


def _element(raw: memoryview, position: int, order: str) -> tuple[int, memoryview, int]:
    """Return type and content of the element at a byte, and the byte at which the next begins."""
    if position + 8 > len(raw):
        raise ValueError("it is cut off")
    kind, count = struct.unpack_from(f"{order}II", raw, position)
    if kind >> 16:  # up to four bytes stand in the tag itself
        kind, count = kind & 0xFFFF, kind >> 16
        if count > 4:
            raise ValueError("a tag is damaged")
        return kind, raw[position + 4 : position + 4 + count], position + 8
    first = position + 8
    if first + count > len(raw):
        raise ValueError("it is cut off")
    return kind, raw[first : first + count], first + count + -count % 8


_INTEGERS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_NUMERIC = {"double", "single", "logical"} | _INTEGERS  # MATLAB's classes
# What h5py and zlib raise for files that are cut off, corrupt, or something else altogether.
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    RuntimeError,
    MemoryError,
    OverflowError,
    zlib.error,
)


class _Hdf5Array(NamedTuple):
    """What a version 7.3 file says of a variable: its shape in MATLAB's order, and its class.

    `piece` is how much of the last axis is decoded at once.
    """

    shape: tuple[int, ...]
    kind: str
    piece: int = 1


@dataclass(frozen=True)
class MatFile:
    """A MATLAB file whose variables have been listed, not read.

    Attributes:
        path: Where it lies.
        arrays: What each variable is said to be.
    """

    path: Path
    arrays: Mapping[str, Version5Array] | Mapping[str, _Hdf5Array]

    def piece(self, name: str) -> int:
        """Return how much of an array's last axis is decoded at once, whatever part of it is asked for."""
        shape, array = self.shape(name), self.arrays[name]
        return array.piece if isinstance(array, _Hdf5Array) else shape[-1]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array, in MATLAB's order of axes.

        Raises:
            InputError: There is none of this name, or it is no array of numbers, or absurdly large.
        """
        if name not in self.arrays:
            held = some_of(map(repr, sorted(self.arrays)))
            raise InputError(f"{self.path}: has no {name!r} but [{held}]; save it with this variable")
        shape, kind = self.arrays[name].shape, self.arrays[name].kind
        if kind not in _NUMERIC:
            raise InputError(f"{self.path}: {name!r} is of class {kind}; save it as an array of numbers")
        if min(shape, default=1) < 1 or np.prod(shape, dtype=np.float64) > MOST_VOXELS:
            raise InputError(f"{self.path}: the header of {name!r} announces the shape {shape}; save it again")
        return shape

    def read(self, name: str, last: slice = slice(None)) -> NDArray[Any]:
        """Return an array in MATLAB's order of axes, as the file stores its numbers.

        Args:
            name: Of the variable.
            last: Part of the last axis.

        Raises:
            InputError: As `shape`, or the content is damaged.
        """
        self.shape(name)
        array = self.arrays[name]
        try:
            if isinstance(array, Version5Array):
                return read_version5(self.path, array)[..., last]
            return _read_hdf5(self.path, name, last)
        except _UNREADABLE as error:
            raise _unreadable(self.path, error) from error


def open_mat(path: Path) -> MatFile:
    """List the variables of a MATLAB file.

    Raises:
        InputError: It cannot be read, or is no MATLAB file of version 5 or 7.3.
    """
    try:
        path.open("rb").close()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); correct it and run again") from error
    try:
        return MatFile(path, _list_hdf5(path) if h5py.is_hdf5(path) else list_version5(path))
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: BaseException) -> InputError:
    return InputError(
        f"{path}: not a readable MATLAB file ({one_line(error)}); copy it again, or save it with -v7 or -v7.3"
    )


def _list_hdf5(path: Path) -> dict[str, _Hdf5Array]:
    with h5py.File(path, "r", locking=False) as file:
        return {name: _describe(file, name) for name in file}


def _describe(file: h5py.File, name: str) -> _Hdf5Array:
    """Axes are reversed in version 7.3. What lies in another file is not followed."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink) or not isinstance(file[name], h5py.Dataset):
        return _Hdf5Array((), "link or group")
    dataset = file[name]
    if dataset.external or dataset.is_virtual:
        return _Hdf5Array((), "external data")
    if dataset.shape is None:
        return _Hdf5Array((), "empty")
    if np.prod(dataset.chunks or (), dtype=np.float64) > MOST_VOXELS:  # decoded whole for any part
        return _Hdf5Array(dataset.chunks, "double")
    said = dataset.attrs.get("MATLAB_class", b"")  # left out by other programs
    text = said.decode("ascii", "replace") if isinstance(said, bytes) else str(said)
    own = _class_of(dataset.dtype)
    kind = text if text and own in _NUMERIC else own
    return _Hdf5Array(dataset.shape[::-1], kind, dataset.chunks[0] if dataset.chunks else 1)


def _class_of(dtype: np.dtype[Any]) -> str:
    """Return MATLAB's class of a type of numbers; compound types and references have none."""
    names = {"float64": "double", "float32": "single", "bool": "logical"}
    return names.get(dtype.name, dtype.name)


def _read_hdf5(path: Path, name: str, last: slice) -> NDArray[Any]:
    with h5py.File(path, "r", locking=False) as file:
        dataset = file[name]
        return np.asarray(dataset[last] if dataset.ndim else dataset[()]).T
