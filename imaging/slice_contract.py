"""What a slice store may hold: columns, attributes, the checks on what goes in, and the content digest.

The file itself (HDF5) is the business of `imaging.slice_writer` and `imaging.slice_store`.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from imaging.errors import InputError, some_of
from imaging.labels import LABEL_SETS, PATIENT_GROUPS, LabelSet

FORMAT = "scarforge slice store"
SCHEMA_VERSION = 1
EXTRA_PREFIX = "extra_"
ROW_COLUMNS = ("case_id", "frame", "donor_ids", "slice_index", "replica", "origin", "group")
TEXT_COLUMNS = ("case_id", "frame", "donor_ids", "origin", "group")
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


def one_line(error: Exception) -> str:
    """Return the text of an error on one line."""
    return " ".join(str(error).split())


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
    """Return the `ROW_COLUMNS` of `rows` in plain types after checking columns, count, origins and groups."""
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
