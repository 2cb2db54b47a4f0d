"""Small slice stores for the tests: rings with lesions, drawn from a seed."""

from pathlib import Path

import numpy as np
import pandas as pd

from imaging.slices.store import SliceStore, SliceStoreWriter, StoreAttributes

SIZE = 32
ATTRIBUTES = StoreAttributes(
    label_set="emidec",
    region_px=SIZE,
    spacing_mm=1.0,
    intensity_rule="2nd to 98th percentile of a study",
    source_digest="studies",
    parent_digests={"studies": "abc"},
    seed=7,
    code_version="1",
    parameters={"jitter_mm": 4.0, "percentiles": [2, 98]},
)


def rows(count, case_id="P1", first=0, **columns):
    """Return `count` valid rows, numbered by slice."""
    plain = {"case_id": case_id, "frame": "", "donor_ids": "", "replica": 0, "origin": "real", "group": "infarct"}
    plain |= {"part": "train"}
    return pd.DataFrame({"slice_index": np.arange(first, first + count)} | plain).assign(**columns)


def ring(category, size=SIZE):
    """Return a mask (size, size) of a ring that holds the lesions of `category`."""
    row, column = np.indices((size, size)) - size / 2
    radius = np.hypot(row, column)
    mask = np.where(radius < 0.2 * size, 1, np.where(radius < 0.36 * size, 2, 0)).astype(np.uint8)
    if category != "no_infarct":
        mask[(mask == 2) & (column > 0)] = 3
    if category == "no_reflow":
        mask[(mask == 3) & (np.abs(row) < 0.15 * size)] = 4
    return mask


def images(count, seed=0, size=SIZE):
    """Return noise (count, size, size) in [0, 1], exact in half precision."""
    return np.random.default_rng(seed).random((count, size, size)).astype(np.float16)


def write(path: Path, masks, origin="real", attributes=ATTRIBUTES, seed=0, **columns) -> SliceStore:
    """Write and open a store of these masks with images that follow them."""
    masks = np.asarray(masks)
    pictures = np.clip(masks / 5 + 0.1 * images(len(masks), seed, masks.shape[1]), 0, 1)
    with SliceStoreWriter(path, attributes) as writer:
        writer.append(pictures, masks, rows(len(masks), origin=origin, **columns))
    return SliceStore.open(path)
