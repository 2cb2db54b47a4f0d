"""Reads arrays of numbers from MATLAB files: version 5 (`-v6`, `-v7`) and version 7.3, which is HDF5.

Only plain arrays of numbers are decoded; cells, structures, objects and functions are left where they are.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from imaging.errors import InputError, some_of
from imaging.matlab5 import Version5Array, list_version5, read_version5
from imaging.nifti import MOST_VOXELS

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
    detail = " ".join(str(error).split()) or type(error).__name__
    return InputError(f"{path}: not a readable MATLAB file ({detail}); copy it again, or save it with -v7 or -v7.3")


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
