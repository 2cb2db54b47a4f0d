"""Slices with their masks and patients, as the measures of quality take them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imaging.seeds import random_generator
from imaging.slice_store import SliceStore

Images = NDArray[np.floating]
Vectors = NDArray[np.floating]
Features = Callable[[Images], Vectors]
Segment = Callable[[Images], NDArray[np.uint8]]
PairDistance = Callable[[Images, Images], NDArray[np.floating]]


@dataclass(frozen=True)
class PairedSlices:
    """Images (N, H, W) in [0, 1], masks (N, H, W), the patient of each and its place in the patient's study."""

    images: Images
    masks: NDArray[np.uint8]
    cases: NDArray[np.str_]
    slice_index: NDArray[np.integer]

    def __len__(self) -> int:
        return len(self.masks)

    @classmethod
    def of(cls, store: SliceStore, rows: NDArray[np.integer]) -> "PairedSlices":
        """Read rows of a store; `cases` are the patients whose anatomy they show, not further donors."""
        table = store.rows.iloc[rows]
        return cls(
            store.images(rows).astype(np.float32),
            store.masks(rows),
            table["case_id"].to_numpy(dtype=str),
            table["slice_index"].to_numpy(),
        )

    def at(self, rows: NDArray[np.integer]) -> "PairedSlices":
        """Return some rows."""
        return PairedSlices(self.images[rows], self.masks[rows], self.cases[rows], self.slice_index[rows])

    def painted_as(self, images: Images) -> "PairedSlices":
        """Return the same masks and patients with other images."""
        return PairedSlices(images, self.masks, self.cases, self.slice_index)


def some_rows(count: int, most: int, seed: int, purpose: str) -> NDArray[np.intp]:
    """Return at most `most` of `count` rows, drawn without repetition and in order."""
    if most >= count:
        return np.arange(count)
    return np.sort(random_generator(seed, purpose).choice(count, size=most, replace=False))


def inside_ventricle(images: Images, masks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the images with everything outside the ventricle black."""
    return np.where(masks > 0, np.asarray(images, np.float32), np.float32(0))
