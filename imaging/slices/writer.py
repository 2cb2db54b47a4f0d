"""Writing a slice store: streaming, so that memory does not grow with the number of slices, and whole or not at all.

What a slice store may hold: columns, attributes, the checks on what goes in, and the content digest.

The file itself (HDF5) is the business of `imaging.slices.writer` and `imaging.slices.store`.
"""

import fcntl
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.errors import InputError, some_of
from common.files import put_in_place, unwritable
from imaging.labels import LABEL_SETS, PATIENT_GROUPS, LabelSet
from imaging.studies.split import PARTS

FORMAT = "scarforge slice store"
SCHEMA_VERSION = 2
EXTRA_PREFIX = "extra_"
ROW_COLUMNS = ("case_id", "frame", "donor_ids", "slice_index", "replica", "origin", "group", "part")
TEXT_COLUMNS = ("case_id", "frame", "donor_ids", "origin", "group", "part")
NUMBER_COLUMNS = ("slice_index", "replica")
KEY_COLUMNS = ("case_id", "frame", "slice_index", "origin", "replica")
ORIGINS = ("real", "augmented", "synthetic")


@dataclass(frozen=True)
class StoreAttributes:
    """Where the slices of a store come from and how they were made.

    Attributes:
        label_set: Name of the label set of the masks, see `imaging.labels.LABEL_SETS`.
        region_px: Height and width of every slice in pixels.
        spacing_mm: In-plane pixel size.
        intensity_rule: How intensities were brought to [0, 1], in words.
        source_digest: Digest of the studies the slices come from.
        parent_digests: Digests of the stores and models read, by name.
        seed: Seed of the random choices.
        code_version: Version of the code that wrote the store.
        parameters: Everything else that decided the content; must be expressible in JSON.
    """

    label_set: str
    region_px: int
    spacing_mm: float
    intensity_rule: str
    source_digest: str
    parent_digests: Mapping[str, str]
    seed: int
    code_version: str
    parameters: Mapping[str, Any]

    def labels(self) -> LabelSet:
        """Return the label set; raises `InputError` where its name is unknown."""
        if self.label_set not in LABEL_SETS:
            raise InputError(f"unknown label set {self.label_set!r}; choose one of {sorted(LABEL_SETS)}")
        return LABEL_SETS[self.label_set]

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes as plain dictionaries, lists, text and numbers."""
        return json.loads(canonical_json(asdict(self)))


def canonical_json(content: Any) -> str:
    """Return JSON that is the same text for the same content; refuses NaN and infinity."""
    return json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def check_images(images: NDArray[np.floating], size: int, where: str) -> NDArray[np.float16]:
    """Return images (N, size, size) as float16 after checking shape, finiteness and the range [0, 1]."""
    images = np.asarray(images)
    if images.ndim != 3 or images.shape[1:] != (size, size):
        raise InputError(f"{where}: images have shape {images.shape}, expected (N, {size}, {size})")
    if images.size:
        low, high = float(images.min()), float(images.max())
        if not np.isfinite([low, high]).all():
            raise InputError(f"{where}: images hold NaN or infinite values; repair the step that made them")
        if low < 0 or high > 1:
            raise InputError(
                f"{where}: image values from {low:.4g} to {high:.4g} leave [0, 1]; scale and clip them first"
            )
    return images.astype(np.float16, copy=False)


def check_masks(masks: NDArray[np.integer], count: int, size: int, labels: LabelSet, where: str) -> NDArray[np.uint8]:
    """Return masks (count, size, size) as uint8 after checking shape and label values."""
    masks = np.asarray(masks)
    if masks.shape != (count, size, size):
        raise InputError(f"{where}: masks have shape {masks.shape}, expected {(count, size, size)}")
    if not np.issubdtype(masks.dtype, np.integer):
        raise InputError(f"{where}: masks have type {masks.dtype}, expected whole numbers")
    if masks.size and (masks.max() >= labels.num_classes or masks.min() < 0):
        labels.check(masks, where)
    return masks.astype(np.uint8, copy=False)


def check_rows(rows: pd.DataFrame, count: int, where: str) -> pd.DataFrame:
    """Return the `ROW_COLUMNS` of `rows` in plain types after checking columns, count, origins, groups and parts."""
    missing = [name for name in ROW_COLUMNS if name not in rows.columns]
    if missing:
        raise InputError(
            f"{where}: rows lack the columns [{some_of(map(repr, missing))}]; expected {list(ROW_COLUMNS)}"
        )
    if len(rows) != count:
        raise InputError(f"{where}: {len(rows)} rows for {count} images; each image needs its row")
    checked = pd.DataFrame({name: _text(rows[name], where) for name in TEXT_COLUMNS})
    for name in NUMBER_COLUMNS:
        checked[name] = _numbers(rows[name], where)
    _check_known(checked["origin"], ORIGINS, where)
    _check_known(checked["group"], PATIENT_GROUPS, where)
    _check_known(checked["part"], PARTS, where)
    if (checked["case_id"] == "").any():
        raise InputError(f"{where}: a row has an empty case_id; every slice belongs to a patient")
    return checked[list(ROW_COLUMNS)]


def _text(column: "pd.Series[Any]", where: str) -> list[str]:
    values = column.tolist()
    for value in values:
        if not isinstance(value, str) or "\0" in value:
            raise InputError(f"{where}: {column.name} holds {value!r}, expected text")
    return values


def _numbers(column: "pd.Series[Any]", where: str) -> NDArray[np.int32]:
    values = np.asarray(column)
    if not np.issubdtype(values.dtype, np.integer) or (values.size and not 0 <= values.min() <= values.max() < 2**31):
        raise InputError(f"{where}: {column.name} must hold whole numbers from 0, not {some_of(values.tolist())}")
    return values.astype(np.int32)


def _check_known(column: "pd.Series[Any]", known: tuple[str, ...], where: str) -> None:
    unknown = sorted(set(column) - set(known))
    if unknown:
        raise InputError(
            f"{where}: {column.name} [{some_of(map(repr, unknown))}] is unknown; choose from {list(known)}"
        )


class ContentDigest:
    """A SHA-256 of every dataset and the attributes, whatever the batches in which the content came."""

    def __init__(self) -> None:
        self._parts: dict[str, Any] = {}

    def update(self, name: str, values: NDArray[Any]) -> None:
        """Add rows (N, ...) of the numeric dataset `name`."""
        part = self._parts.setdefault(name, hashlib.sha256(f"{values.dtype.str}{values.shape[1:]}".encode()))
        part.update(np.ascontiguousarray(values).data)

    def update_text(self, name: str, values: Iterable[str]) -> None:
        """Add rows of the text dataset `name`."""
        part = self._parts.setdefault(name, hashlib.sha256(b"text"))
        part.update("".join(value + "\0" for value in values).encode())

    def result(self, attributes: Mapping[str, Any]) -> str:
        """Return the digest of all parts and of `attributes`, 64 hexadecimal digits."""
        parts = {name: part.hexdigest() for name, part in self._parts.items()}
        content = {"schema_version": SCHEMA_VERSION, "attributes": attributes, "datasets": parts}
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()


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
        self._datasets: dict[str, h5py.Dataset] = {}
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
            with self._writing():
                self._file = h5py.File(self._partial, "w", libver=_LIBVER, locking=False)
                self._create(self._file, "images", np.float16)
                for name in ("masks", *(EXTRA_PREFIX + name for name in self._extras)):
                    self._create(self._file, name, np.uint8)
        except InputError:
            self._discard()
            raise
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

    def _create(self, file: h5py.File, name: str, dtype: type) -> None:
        size = self.attributes.region_px
        self._datasets[name] = file.create_dataset(
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
        with self._writing():
            dataset = self._datasets[name]
            dataset.resize(self._count + len(values), axis=0)
            dataset[self._count :] = values
            dataset.flush()
        self._digest.update(name, values)

    def _finish(self) -> None:
        assert self._file is not None
        if self._failure:
            raise self._failure
        if not self._count:
            raise InputError(f"{self.path}: no slices were appended; an empty store is of no use to anyone")
        with self._writing():
            self._write_rows(self._file, pd.concat(self._rows, ignore_index=True))
            attributes = self.attributes.as_dict()
            texts = {name: canonical_json(value) for name, value in attributes.items()}
            texts |= {"format": FORMAT, "digest": self._digest.result(attributes)}
            for name, text in texts.items():
                self._file.attrs.create(name, text.encode(), dtype=_fixed_text(text.encode()))
            self._file.attrs["schema_version"] = SCHEMA_VERSION
            self._datasets.clear()
            self._file.flush()
        file, self._file = self._file, None
        file.close()
        put_in_place(self._partial, self.path)

    def _write_rows(self, file: h5py.File, rows: pd.DataFrame) -> None:
        for name in TEXT_COLUMNS:
            encoded = [value.encode() for value in rows[name]]
            text = _fixed_text(*encoded)
            column = file.create_dataset(name, data=np.array(encoded, dtype=text), dtype=text, track_times=False)
            column.flush()
            self._digest.update_text(name, rows[name])
        for name in NUMBER_COLUMNS:
            values = rows[name].to_numpy(np.int32)
            column = file.create_dataset(name, data=values, track_times=False)
            column.flush()
            self._digest.update(name, values)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Tell what fails in one line, here and at the end.

        HDF5 writes late, also as a dataset is freed, where Python prints an error and forgets it: what is written is
        flushed within the block. Written through a file of Python's, as an archive is, a store would have another
        layout.
        """
        try:
            yield
        except (OSError, RuntimeError) as error:
            self._failure = self._unwritable(error)
            self._divert()
            raise self._failure from error

    def _divert(self) -> None:
        """Let go nowhere what HDF5 holds still: it would fail again as it is freed."""
        if not self._file:
            return
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, self._file.id.get_vfd_handle(), inheritable=False)
        os.close(nowhere)

    def _discard(self) -> None:
        try:
            self._divert()
            self._datasets.clear()
            with suppress(OSError, RuntimeError):  # it cannot set the size there
                if self._file is not None:
                    self._file.close()
        finally:
            self._partial.unlink(missing_ok=True)
            os.close(self._lock)

    def _unwritable(self, error: Exception) -> InputError:
        return unwritable(self.path, error)


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
