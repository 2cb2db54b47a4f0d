"""The slice store: one HDF5 file of slices, the same for real, augmented and synthetic ones.

The writer (`imaging.slices.writer`) streams; the reader, here, takes slices straight from their place in the file:
HDF5 is asked once, at opening, where the chunks lie, since its own random access costs more than the copy itself.
What may go into a store is said in `imaging.slices.writer`.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.errors import InputError, one_line, some_of
from common.files import of_the_disk
from imaging.labels import LabelSet
from imaging.slices.writer import (
    EXTRA_PREFIX,
    FORMAT,
    NUMBER_COLUMNS,
    ROW_COLUMNS,
    SCHEMA_VERSION,
    TEXT_COLUMNS,
    ContentDigest,
    SliceStoreWriter,
    StoreAttributes,
)
from imaging.studies.archive import own_dataset, read_own
from imaging.studies.split import Part

__all__ = ["ROW_COLUMNS", "SliceStore", "SliceStoreWriter", "StoreAttributes"]

Index = NDArray[np.integer[Any]] | NDArray[np.bool_] | Sequence[int] | slice | None

_RUN_SLICES = 32
_VERIFY_SLICES = 512
# What h5py and json raise on damaged files.
_MOST_COLUMN_BYTES = 2**28
_DAMAGE = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError, MemoryError)


class SliceStore:
    """A complete slice store, opened for reading; also a context manager.

    Open it with `SliceStore.open`. Pickling carries the path alone: the process that unpickles opens the file
    anew and refuses it if its content has changed meanwhile. Reading is safe from several threads and forks.
    """

    path: Path
    attributes: StoreAttributes
    label_set: LabelSet
    digest: str
    rows: pd.DataFrame

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._descriptor = -1
        self._places: dict[str, _Place] = {}

    @classmethod
    def open(cls, path: Path, verify: bool = True) -> Self:
        """Open a store and check it.

        Args:
            path: The file.
            verify: Read everything once and compare with the digest (about a second for 10,000 slices).

        Raises:
            InputError: The file is missing, truncated, corrupt, foreign or of another schema version.
        """
        store = cls(path)
        try:
            store._descriptor = os.open(store.path, os.O_RDONLY | os.O_CLOEXEC)
            with h5py.File(store.path, "r", locking=False) as file:
                store._read_header(file)
            if verify:
                store._verify()
        except FileNotFoundError as error:
            raise InputError(f"{path}: there is no such slice store; {_remedy(store.path)}") from error
        except _DAMAGE as error:
            store.close()
            raise store._unreadable(error) from error
        except InputError:
            store.close()
            raise
        return store

    def __len__(self) -> int:
        return len(self.rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[..., "SliceStore"], tuple[Path, str]]:
        return _reopen, (self.path, self.digest)

    def close(self) -> None:
        """Give the file back; may be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def rows_of(self, *parts: Part) -> NDArray[np.int64]:
        """Return the rows of these parts of the fold, in order."""
        return np.flatnonzero(self.rows["part"].isin(parts).to_numpy())

    @property
    def extras(self) -> tuple[str, ...]:
        """Names of the further uint8 images, such as `hole`."""
        return tuple(name.removeprefix(EXTRA_PREFIX) for name in self._places if name.startswith(EXTRA_PREFIX))

    def images(self, index: Index = None) -> NDArray[np.float16]:
        """Return images (N, H, W) in [0, 1] at `index` (all where None), in the order asked for."""
        return self._read("images", index)

    def masks(self, index: Index = None) -> NDArray[np.uint8]:
        """Return masks (N, H, W) at `index` (all where None), in the order asked for."""
        return self._read("masks", index)

    def extra(self, name: str, index: Index = None) -> NDArray[np.uint8]:
        """Return the further images `name` (N, H, W) at `index`; `InputError` where the store has none."""
        if name not in self.extras:
            raise InputError(f"{self.path}: has no {name!r}, only [{some_of(map(repr, self.extras))}]")
        return self._read(EXTRA_PREFIX + name, index)

    def _read(self, name: str, index: Index) -> NDArray[Any]:
        place = self._places[name]
        positions = np.arange(len(self))
        positions = positions if index is None else np.atleast_1d(positions[index])
        out = np.empty((len(positions), *place.shape), place.dtype)
        # Sorted by place in the file, neighbours are read in one call.
        order = np.argsort(positions, kind="stable")
        addresses = place.addresses(positions[order])
        breaks = np.flatnonzero(np.diff(addresses) != place.slice_bytes) + 1
        starts, ends = [0, *breaks.tolist()], [*breaks.tolist(), len(order)]
        if len(starts) > 1:
            self._announce(addresses[starts], np.subtract(ends, starts) * place.slice_bytes)
        for start, end in zip(starts, ends, strict=True):
            for part in range(start, end, _RUN_SLICES):
                targets = [out[i].data for i in order[part : min(part + _RUN_SLICES, end)]]
                self._fill(targets, int(addresses[part]), place.slice_bytes)
        return out

    def _announce(self, addresses: NDArray[np.int64], sizes: NDArray[np.int64]) -> None:
        """Tell the kernel what will be read, so that a disk fetches it all at once and not piece by piece."""
        if hasattr(os, "posix_fadvise"):  # not on macOS
            for address, size in zip(addresses.tolist(), sizes.tolist(), strict=True):
                os.posix_fadvise(self._descriptor, address, size, os.POSIX_FADV_WILLNEED)

    def _fill(self, targets: list[memoryview], address: int, slice_bytes: int) -> None:
        if targets and os.preadv(self._descriptor, targets, address) != len(targets) * slice_bytes:
            raise self._unreadable(OSError("the file ends too early"))

    def _read_header(self, file: h5py.File) -> None:
        _check_schema(self.path, file)
        names = StoreAttributes.__dataclass_fields__
        self.attributes = StoreAttributes(**{name: json.loads(_text(file.attrs[name])) for name in names})
        self.label_set = self.attributes.labels()
        self.digest = _text(file.attrs["digest"])
        count = len(own_dataset(file, "masks"))
        for name in sorted(set(file) - set(ROW_COLUMNS)):
            self._places[name] = _Place(own_dataset(file, name), count, self.attributes.region_px)
        self._check_size()
        columns = {name: [text.decode() for text in _column(file, name)] for name in TEXT_COLUMNS}
        rows = pd.DataFrame(columns | {name: _column(file, name) for name in NUMBER_COLUMNS})
        self.rows = rows[list(ROW_COLUMNS)]

    def _check_size(self) -> None:
        """Refuse more slices than the file has bytes for, before anything is read that is of their number."""
        there = os.fstat(self._descriptor).st_size
        for name, place in self._places.items():
            if place.bytes > there:
                raise ValueError(f"dataset {name} announces {place.bytes} bytes, and the file has {there}")

    def _verify(self) -> None:
        digest = ContentDigest()
        for name in self._places:
            for start in range(0, len(self), _VERIFY_SLICES):
                digest.update(name, self._read(name, slice(start, start + _VERIFY_SLICES)))
        for name in TEXT_COLUMNS:
            digest.update_text(name, self.rows[name])
        for name in NUMBER_COLUMNS:
            digest.update(name, self.rows[name].to_numpy())
        if digest.result(self.attributes.as_dict()) != self.digest:
            raise ValueError("its content does not match its checksum")

    def _unreadable(self, error: Exception) -> InputError:
        return of_the_disk(self.path, error) or InputError(
            f"{self.path}: is not a readable slice store ({one_line(error)}): truncated, corrupt or written "
            f"by another program; {_remedy(self.path)}"
        )


class _Place:
    """Where one dataset's slices lie in the file."""

    def __init__(self, dataset: h5py.Dataset, count: int, size: int) -> None:
        if dataset.shape != (count, size, size) or dataset.chunks[1:] != (size, size) or dataset.compression:
            raise ValueError(f"dataset {dataset.name} has shape {dataset.shape}, expected {(count, size, size)}")
        self.dtype = np.dtype(dataset.dtype)
        self.shape = (size, size)
        self.slice_bytes = size * size * self.dtype.itemsize
        self.bytes = count * self.slice_bytes
        self._chunk_slices = dataset.chunks[0]
        self._offsets = np.full(-(-count // self._chunk_slices), -1, dtype=np.int64)
        dataset.id.chunk_iter(self._note)
        if (self._offsets < 0).any():
            raise ValueError(f"dataset {dataset.name} lacks chunks")

    def _note(self, chunk: Any) -> None:
        self._offsets[chunk.chunk_offset[0] // self._chunk_slices] = chunk.byte_offset

    def addresses(self, positions: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the byte at which each slice begins."""
        chunk, within = np.divmod(positions, self._chunk_slices)
        return self._offsets[chunk] + within * self.slice_bytes


def _column(file: h5py.File, name: str) -> NDArray[Any]:
    """Return what a file says of each slice."""
    values = read_own(file, name, _MOST_COLUMN_BYTES)
    if values.shape != file["masks"].shape[:1]:
        raise ValueError(f"dataset {name} has shape {values.shape}, and there are {len(file['masks'])} slices")
    return values


def _reopen(path: Path, digest: str) -> SliceStore:
    store = SliceStore.open(path, verify=False)
    if store.digest != digest:
        raise InputError(f"{path}: was replaced while in use; start again, so that one content is used throughout")
    return store


def _text(attribute: bytes | str) -> str:
    """Return a text attribute, of fixed or of any length, as text."""
    return attribute.decode() if isinstance(attribute, bytes) else str(attribute)


def _check_schema(path: Path, file: h5py.File) -> None:
    if _text(file.attrs.get("format", "")) != FORMAT:
        raise ValueError("it lacks the format mark")
    version = int(file.attrs["schema_version"])
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{path}: has schema version {version}, this code reads version {SCHEMA_VERSION}; {_remedy(path)}"
        )


def _remedy(path: Path) -> str:
    """Say which asset to run again: stores lie in <asset>/fold_<K>[/seed_<S>]/."""
    for folder in path.absolute().parents:
        if not folder.name.startswith("seed_"):
            asset = folder.parent.name if folder.name.startswith("fold_") else ""
            break
    return f"rematerialise {asset or 'the asset that wrote it'}"
