"""The slice store: one HDF5 file of slices, the same for real, augmented and synthetic ones.

The writer streams, so that memory does not grow with the number of slices, and the file gets its name only
when it is complete. The reader takes slices straight from their place in the file: HDF5 is asked once, at
opening, where the chunks lie, since its own random access costs more than the copy itself.
What may go into a store is said in `imaging.slice_contract`.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from imaging.errors import InputError
from imaging.labels import LabelSet
from imaging.slice_contract import (
    KEY_COLUMNS,
    NUMBER_COLUMNS,
    ROW_COLUMNS,
    SCHEMA_VERSION,
    TEXT_COLUMNS,
    ContentDigest,
    StoreAttributes,
    canonical_json,
    check_images,
    check_masks,
    check_rows,
)

__all__ = ["ROW_COLUMNS", "SliceStore", "SliceStoreWriter", "StoreAttributes"]

Index = NDArray[np.integer[Any]] | NDArray[np.bool_] | Sequence[int] | slice | None

_FORMAT = "scarforge slice store"
_CHUNK_SLICES = 32
_VERIFY_SLICES = 512
# HDF5 1.10's format: its metadata carries checksums, so that a flipped byte there is noticed at opening.
_LIBVER = ("v110", "v110")


class SliceStoreWriter:
    """Writes a slice store batch by batch; use as a context manager.

    The file is written beside `path` and renamed on a clean exit. After an exception nothing is left under
    either name, and a store that was there before stays.

    Args:
        path: Final name of the file.
        attributes: Where the slices come from.
        extras: Names of further uint8 images of the same size, such as `hole`.
    """

    def __init__(self, path: Path, attributes: StoreAttributes, extras: tuple[str, ...] = ()) -> None:
        self.path = Path(path)
        self.attributes = attributes
        self._labels = attributes.labels()
        self._extras = extras
        self._digest = ContentDigest()
        self._rows: list[pd.DataFrame] = []
        self._keys: set[tuple[Any, ...]] = set()
        self._count = 0
        self._partial = self.path.with_name(f".{self.path.name}.partial")
        self._file: h5py.File | None = None

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = h5py.File(self._partial, "w", libver=_LIBVER)
        except OSError as error:
            raise self._unwritable(error) from error
        self._create("images", np.float16)
        for name in ("masks", *map(_extra_name, self._extras)):
            self._create(name, np.uint8)
        return self

    def append(
        self,
        images: NDArray[np.floating],
        masks: NDArray[np.integer],
        rows: pd.DataFrame,
        **extras: NDArray[np.uint8],
    ) -> None:
        """Append slices.

        Args:
            images: (N, H, W) in [0, 1].
            masks: (N, H, W), values of the label set.
            rows: N rows with `ROW_COLUMNS`.
            extras: (N, H, W) uint8 for each name given at construction.

        Raises:
            InputError: A value, shape, label, origin or group is outside the contract, a row is there
                already, or the disk is full. Nothing of the batch is then in the store.
        """
        where, size = str(self.path), self.attributes.region_px
        arrays: dict[str, NDArray[Any]] = {"images": check_images(images, size, where)}
        count = len(arrays["images"])
        arrays["masks"] = check_masks(masks, count, size, self._labels, where)
        arrays |= self._checked_extras(extras, count)
        rows = check_rows(rows, count, where)
        self._remember_keys(rows)
        for name, values in arrays.items():
            self._write(name, values)
        self._rows.append(rows)
        self._count += count

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        except OSError as failure:
            raise self._unwritable(failure) from failure
        finally:
            self._discard()

    def _create(self, name: str, dtype: type) -> None:
        size = self.attributes.region_px
        assert self._file is not None
        self._file.create_dataset(
            name,
            shape=(0, size, size),
            maxshape=(None, size, size),
            chunks=(_CHUNK_SLICES, size, size),
            dtype=dtype,
            track_times=False,
        )

    def _checked_extras(self, extras: dict[str, NDArray[np.uint8]], count: int) -> dict[str, NDArray[Any]]:
        if set(extras) != set(self._extras):
            raise InputError(f"{self.path}: extras {sorted(extras)} given, expected {sorted(self._extras)}")
        shape = (count, self.attributes.region_px, self.attributes.region_px)
        for name, values in extras.items():
            if values.shape != shape or values.dtype != np.uint8:
                raise InputError(
                    f"{self.path}: {name} is {values.dtype} {values.shape}, expected uint8 {shape}"
                )
        return {_extra_name(name): values for name, values in extras.items()}

    def _remember_keys(self, rows: pd.DataFrame) -> None:
        keys = list(zip(*(rows[name].tolist() for name in KEY_COLUMNS), strict=True))
        twice = [key for key, times in Counter(keys).items() if times > 1 or key in self._keys]
        if twice:
            raise InputError(
                f"{self.path}: {dict(zip(KEY_COLUMNS, twice[0], strict=True))} is there twice; "
                "number derived slices with `replica`"
            )
        self._keys.update(keys)

    def _write(self, name: str, values: NDArray[Any]) -> None:
        assert self._file is not None, "use the writer as a context manager"
        try:
            dataset = self._file[name]
            dataset.resize(self._count + len(values), axis=0)
            dataset[self._count :] = values
        except OSError as error:
            raise self._unwritable(error) from error
        self._digest.update(name, values)

    def _finish(self) -> None:
        assert self._file is not None
        if not self._count:
            raise InputError(f"{self.path}: no slices were appended; an empty store is of no use to anyone")
        self._write_rows(pd.concat(self._rows, ignore_index=True))
        attributes = self.attributes.as_dict()
        self._file.attrs.update({name: canonical_json(value) for name, value in attributes.items()})
        self._file.attrs["format"] = _FORMAT
        self._file.attrs["schema_version"] = SCHEMA_VERSION
        self._file.attrs["digest"] = self._digest.result(attributes)
        self._file.close()
        _flush_to_disk(self._partial)
        self._partial.replace(self.path)
        _flush_to_disk(self.path.parent)

    def _write_rows(self, rows: pd.DataFrame) -> None:
        assert self._file is not None
        for name in TEXT_COLUMNS:
            encoded = [value.encode() for value in rows[name]]
            text = h5py.string_dtype("utf-8", max(1, *map(len, encoded)))
            self._file.create_dataset(name, data=np.array(encoded, dtype=text), dtype=text, track_times=False)
            self._digest.update_text(name, rows[name])
        for name in NUMBER_COLUMNS:
            values = rows[name].to_numpy(np.int32)
            self._file.create_dataset(name, data=values, track_times=False)
            self._digest.update(name, values)

    def _discard(self) -> None:
        try:
            if self._file is not None:
                self._file.close()
        except (OSError, RuntimeError):  # a full disk fails here a second time; the file goes away below
            pass
        finally:
            self._partial.unlink(missing_ok=True)

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(
            f"{self.path}: cannot be written ({_one_line(error)}); free disk space or correct the "
            "permissions, then give the same command again"
        )


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
        except FileNotFoundError as error:
            raise InputError(f"{path}: there is no such slice store; {_remedy(store.path)}") from error
        except (OSError, RuntimeError, KeyError, ValueError, TypeError, UnicodeDecodeError) as error:
            store.close()
            raise store._unreadable(error) from error
        except InputError:
            store.close()
            raise
        if verify:
            store._verify()
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

    @property
    def extras(self) -> tuple[str, ...]:
        """Names of the further uint8 images, such as `hole`."""
        return tuple(
            name.removeprefix(_extra_name("")) for name in self._places if name.startswith(_extra_name(""))
        )

    def images(self, index: Index = None) -> NDArray[np.float16]:
        """Return images (N, H, W) in [0, 1] at `index` (all where None), in the order asked for."""
        return self._read("images", index)

    def masks(self, index: Index = None) -> NDArray[np.uint8]:
        """Return masks (N, H, W) at `index` (all where None), in the order asked for."""
        return self._read("masks", index)

    def extra(self, name: str, index: Index = None) -> NDArray[np.uint8]:
        """Return the further images `name` (N, H, W) at `index`; `InputError` where the store has none."""
        if name not in self.extras:
            raise InputError(f"{self.path}: has no {name!r}, only {list(self.extras)}")
        return self._read(_extra_name(name), index)

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
        for start, end in zip(starts, ends, strict=True):
            for part in range(start, end, _CHUNK_SLICES):
                targets = [out[i].data for i in order[part : min(part + _CHUNK_SLICES, end)]]
                self._fill(targets, int(addresses[part]), place.slice_bytes)
        return out

    def _fill(self, targets: list[memoryview], address: int, slice_bytes: int) -> None:
        if targets and os.preadv(self._descriptor, targets, address) != len(targets) * slice_bytes:
            raise self._unreadable(OSError("the file ends too early"))

    def _read_header(self, file: h5py.File) -> None:
        _check_schema(self.path, file)
        names = StoreAttributes.__dataclass_fields__
        self.attributes = StoreAttributes(**{name: json.loads(file.attrs[name]) for name in names})
        self.label_set = self.attributes.labels()
        self.digest = str(file.attrs["digest"])
        columns = {name: [text.decode() for text in file[name][:]] for name in TEXT_COLUMNS}
        rows = pd.DataFrame(columns | {name: file[name][:] for name in NUMBER_COLUMNS})
        self.rows = rows[list(ROW_COLUMNS)]
        for name in sorted(set(file) - set(ROW_COLUMNS)):
            self._places[name] = _Place(file[name], len(rows), self.attributes.region_px)

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
            self.close()
            raise self._unreadable(ValueError("its content does not match its checksum"))

    def _unreadable(self, error: Exception) -> InputError:
        return InputError(
            f"{self.path}: is not a readable slice store ({_one_line(error)}): truncated, corrupt or written "
            f"by another program; {_remedy(self.path)}"
        )


class _Place:
    """Where one dataset's slices lie in the file."""

    def __init__(self, dataset: h5py.Dataset, count: int, size: int) -> None:
        if dataset.shape != (count, size, size) or dataset.chunks[1:] != (size, size) or dataset.compression:
            raise ValueError(
                f"dataset {dataset.name} has shape {dataset.shape}, expected {(count, size, size)}"
            )
        self.dtype = np.dtype(dataset.dtype)
        self.shape = (size, size)
        self.slice_bytes = size * size * self.dtype.itemsize
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


def _reopen(path: Path, digest: str) -> SliceStore:
    store = SliceStore.open(path, verify=False)
    if store.digest != digest:
        raise InputError(
            f"{path}: was replaced while in use; start again, so that one content is used throughout"
        )
    return store


def _check_schema(path: Path, file: h5py.File) -> None:
    if file.attrs.get("format") != _FORMAT:
        raise ValueError("it lacks the format mark")
    version = int(file.attrs["schema_version"])
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{path}: has schema version {version}, this code reads version {SCHEMA_VERSION}; {_remedy(path)}"
        )


def _extra_name(name: str) -> str:
    return f"extra_{name}"


def _remedy(path: Path) -> str:
    """Say which asset to run again: stores lie in <asset>/fold_<K>[/seed_<S>]/."""
    for folder in path.absolute().parents:
        if not folder.name.startswith("seed_"):
            asset = folder.parent.name if folder.name.startswith("fold_") else ""
            break
    return f"rematerialise {asset or 'the asset that wrote it'}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
