"""Writing a slice store: streaming, so that memory does not grow with the number of slices, and whole or not at all."""

import fcntl
import os
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from imaging.errors import InputError
from imaging.slice_contract import (
    EXTRA_PREFIX,
    FORMAT,
    KEY_COLUMNS,
    NUMBER_COLUMNS,
    SCHEMA_VERSION,
    TEXT_COLUMNS,
    ContentDigest,
    StoreAttributes,
    canonical_json,
    check_images,
    check_masks,
    check_rows,
    one_line,
)

_CHUNK_SLICES = 32
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
        self._lock = -1
        self._failure: InputError | None = None

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self._partial)
        except BlockingIOError as error:
            raise InputError(f"{self.path}: another process is writing it; wait for it or stop it") from error
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            self._file = h5py.File(self._partial, "w", libver=_LIBVER, locking=False)
            self._create("images", np.float16)
            for name in ("masks", *(EXTRA_PREFIX + name for name in self._extras)):
                self._create(name, np.uint8)
        except OSError as error:
            self._discard()
            raise self._unwritable(error) from error
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
        except (OSError, RuntimeError) as failure:
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
                raise InputError(f"{self.path}: {name} is {values.dtype} {values.shape}, expected uint8 {shape}")
        return {EXTRA_PREFIX + name: values for name, values in extras.items()}

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
        except (OSError, RuntimeError) as error:
            self._failure = self._unwritable(error)
            raise self._failure from error
        self._digest.update(name, values)

    def _finish(self) -> None:
        assert self._file is not None
        if self._failure:
            raise self._failure
        if not self._count:
            raise InputError(f"{self.path}: no slices were appended; an empty store is of no use to anyone")
        self._write_rows(pd.concat(self._rows, ignore_index=True))
        attributes = self.attributes.as_dict()
        texts = {name: canonical_json(value) for name, value in attributes.items()}
        texts |= {"format": FORMAT, "digest": self._digest.result(attributes)}
        for name, text in texts.items():
            self._file.attrs.create(name, text.encode(), dtype=_fixed_text(text.encode()))
        self._file.attrs["schema_version"] = SCHEMA_VERSION
        self._file.close()
        _flush_to_disk(self._partial)
        self._partial.replace(self.path)
        _flush_to_disk(self.path.parent)

    def _write_rows(self, rows: pd.DataFrame) -> None:
        assert self._file is not None
        for name in TEXT_COLUMNS:
            encoded = [value.encode() for value in rows[name]]
            text = _fixed_text(*encoded)
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
            os.close(self._lock)

    def _unwritable(self, error: Exception) -> InputError:
        return InputError(
            f"{self.path}: cannot be written ({one_line(error)}); free disk space or correct the "
            "permissions, then give the same command again"
        )


def _fixed_text(*encoded: bytes) -> np.dtype[Any]:
    """Return the type of text as long as the longest; HDF5 lays text of any length where no checksum guards it."""
    return h5py.string_dtype("utf-8", max(1, *map(len, encoded)))


def _lock(path: Path) -> int:
    """Create `path` and lock it while the returned descriptor is open; HDF5 itself locks after truncating."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
