"""Reads arrays of numbers from MATLAB files: version 5 (`-v6`, `-v7`) and version 7.3, which is HDF5.

Only plain arrays of numbers are decoded; cells, structures, objects and functions are left where they are. Version 5 is
read by SciPy in a process of its own (`imaging.volumes.matlab_child`): a damaged file costs that process, not the run.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, one_line, some_of
from imaging.volumes.matlab_child import NUMERIC
from imaging.volumes.nifti import MOST_VOXELS

_READER = ("-P", "-m", "imaging.volumes.matlab_child")
_PATIENCE_S = 300.0  # for a machine that is busy; the process itself is given less of the processor
# What h5py raises for files that are cut off, corrupt, or something else altogether, and we for those of version 5.
_UNREADABLE = (OSError, EOFError, ValueError, TypeError, LookupError, RuntimeError, MemoryError, OverflowError)


@dataclass(frozen=True)
class Announced:
    """What a file says of a variable: its shape in MATLAB's order, and its class or `complex`.

    `piece` is how much of the last axis is decoded at once.
    """

    shape: tuple[int, ...]
    kind: str
    piece: int = 1


@dataclass(frozen=True)
class MatFile:
    """A MATLAB file whose variables have been listed.

    Attributes:
        path: Where it lies.
        said: What each variable is said to be.
        values: Of a file of version 5, the arrays that were asked for; version 7.3 is read by parts.
    """

    path: Path
    said: Mapping[str, Announced]
    values: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def piece(self, name: str) -> int:
        """Return how much of an array's last axis is decoded at once, whatever part of it is asked for."""
        self.shape(name)
        return self.said[name].piece

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array, in MATLAB's order of axes.

        Raises:
            InputError: There is none of this name, or it is no array of numbers, or absurdly large.
        """
        if name not in self.said:
            held = some_of(map(repr, sorted(self.said)))
            raise InputError(f"{self.path}: has no {name!r} but [{held}]; save it with this variable")
        shape, kind = self.said[name].shape, self.said[name].kind
        if kind not in NUMERIC:
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
        if name in self.values:
            return self.values[name][..., last]
        try:
            return _read_hdf5(self.path, name, last)
        except _UNREADABLE as error:
            raise _unreadable(self.path, error) from error


def open_mat(path: Path, names: Sequence[str]) -> MatFile:
    """List the variables of a MATLAB file.

    Args:
        path: Of the file.
        names: The arrays that will be read; a file of version 5 is decoded once.

    Raises:
        InputError: It cannot be read, or is no MATLAB file of version 5 or 7.3.
    """
    try:
        path.open("rb").close()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); correct it and run again") from error
    try:
        return MatFile(path, _list_hdf5(path)) if h5py.is_hdf5(path) else _read_version5(path, names)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def _read_version5(path: Path, names: Sequence[str]) -> MatFile:
    command = [sys.executable, *_READER, str(path), str(MOST_VOXELS), *names]
    few = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # a thread takes of the address space that is allowed
    with tempfile.TemporaryFile() as output:
        try:
            done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, env=few, timeout=_PATIENCE_S)
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"it took longer than {_PATIENCE_S:g} s") from error
        if done.returncode:
            raise ValueError(_last_words(done.returncode, done.stderr))
        output.seek(0)
        return _received(path, output)


def _received(path: Path, output: IO[bytes]) -> MatFile:
    found = json.loads(output.readline())
    said = {name: Announced(tuple(shape), kind, shape[-1]) for name, (shape, kind) in found["said"].items()}
    return MatFile(path, said, {name: np.load(output, allow_pickle=False) for name in found["read"]})


def _last_words(code: int, told: bytes) -> str:
    if code < 0:
        return f"reading it ended with {signal.Signals(-code).name}"
    return told.decode("utf-8", "replace").strip().rpartition("\n")[2]


def _unreadable(path: Path, error: BaseException) -> InputError:
    return InputError(
        f"{path}: not a readable MATLAB file ({one_line(error)}); copy it again, or save it with -v7 or -v7.3"
    )


def _list_hdf5(path: Path) -> dict[str, Announced]:
    with h5py.File(path, "r", locking=False) as file:
        return {name: _describe(file, name) for name in file}


def _describe(file: h5py.File, name: str) -> Announced:
    """Axes are reversed in version 7.3. What lies in another file is not followed."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink) or not isinstance(file[name], h5py.Dataset):
        return Announced((), "link or group")
    dataset = file[name]
    if dataset.external or dataset.is_virtual:
        return Announced((), "external data")
    if dataset.shape is None:
        return Announced((), "empty")
    if np.prod(dataset.chunks or (), dtype=np.float64) > MOST_VOXELS:  # decoded whole for any part
        return Announced(dataset.chunks, "double")
    said = dataset.attrs.get("MATLAB_class", b"")  # left out by other programs
    text = said.decode("ascii", "replace") if isinstance(said, bytes) else str(said)
    own = _class_of(dataset.dtype)
    kind = text if text and own in NUMERIC else own
    return Announced(dataset.shape[::-1], kind, dataset.chunks[0] if dataset.chunks else 1)


def _class_of(dtype: np.dtype[Any]) -> str:
    """Return MATLAB's class of a type of numbers; compound types and references have none."""
    names = {"float64": "double", "float32": "single", "bool": "logical"}
    return names.get(dtype.name, dtype.name)


def _read_hdf5(path: Path, name: str, last: slice) -> NDArray[Any]:
    with h5py.File(path, "r", locking=False) as file:
        dataset = file[name]
        return np.asarray(dataset[last] if dataset.ndim else dataset[()]).T
