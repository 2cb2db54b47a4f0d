"""The slices of one part of a fold (`train`, `validation`, `test`): label maps with their places, and the images.

Everybody who trains, validates, scores or judges takes slices in this form. What does not live here: the file that
they are read from (`imaging.slices.store`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.errors import InputError
from imaging.slices.store import SliceStore
from imaging.studies.split import Part

PLACE_COLUMNS = ("case_id", "frame", "slice_index")


class Stack(NamedTuple):
    """One study's slices: where they stand in the part, in the order of the volume."""

    case_id: str
    frame: str
    rows: NDArray[np.intp]


@dataclass(frozen=True)
class LabelledSlices:
    """Label maps and whose they are.

    Attributes:
        places: One row a slice with `PLACE_COLUMNS`; the patient is the one whose anatomy it shows, no further donor.
        masks: (N, H, W) label values.
    """

    places: pd.DataFrame
    masks: NDArray[np.uint8]

    def __post_init__(self) -> None:
        self.require_alike("masks", self.masks)

    def __len__(self) -> int:
        return len(self.masks)

    @classmethod
    def of(cls, store: SliceStore, rows: NDArray[np.integer]) -> Self:
        """Read rows of a store."""
        return cls(_places(store, rows), store.masks(rows))

    @classmethod
    def of_part(cls, store: SliceStore, part: Part) -> Self:
        """Read every slice of a part of the fold.

        Raises:
            InputError: There is none.
        """
        rows = store.rows_of(part)
        if not len(rows):
            raise InputError(
                f"{store.path}: holds no slice of {part} patients; rematerialise patient_split and real_slices"
            )
        return cls.of(store, rows)

    @property
    def case_ids(self) -> NDArray[np.str_]:
        """The patient of each slice (N,)."""
        return self.places["case_id"].to_numpy(dtype=str)

    @property
    def slice_index(self) -> NDArray[np.integer]:
        """The place of each slice in its volume (N,)."""
        return self.places["slice_index"].to_numpy()

    @property
    def studies(self) -> NDArray[np.str_]:
        """The study of each slice (N,): its patient and frame."""
        return (self.places["case_id"] + "/" + self.places["frame"]).to_numpy(dtype=str)

    def stacks(self) -> Iterator[Stack]:
        """Yield the studies, sorted by patient and frame."""
        for key, places in self.places.groupby(["case_id", "frame"], sort=True):
            case_id, frame = map(str, key)
            yield Stack(case_id, frame, places.sort_values("slice_index").index.to_numpy())

    def require_alike(self, name: str, values: NDArray[np.generic]) -> None:
        """Raise `InputError` unless `values` (N, H, W) are one a slice, of the masks' size."""
        if values.ndim != 3 or values.shape != self.masks.shape or len(values) != len(self.places):
            raise InputError(
                f"{len(self.places)} places, masks {self.masks.shape} and {name} {values.shape} do not belong "
                "together; give one of each a slice, all of one size"
            )


@dataclass(frozen=True)
class PartSlices(LabelledSlices):
    """Label maps, whose they are, and the images.

    Attributes:
        images: (N, H, W) in [0, 1].
    """

    images: NDArray[np.floating]

    def __post_init__(self) -> None:
        self.require_alike("images", self.images)

    @classmethod
    def of(cls, store: SliceStore, rows: NDArray[np.integer]) -> Self:
        """Read rows of a store; images are float32."""
        return cls(_places(store, rows), store.masks(rows), store.images(rows).astype(np.float32))

    def at(self, rows: NDArray[np.integer]) -> Self:
        """Return some rows."""
        places = self.places.iloc[rows].reset_index(drop=True)
        return replace(self, places=places, masks=self.masks[rows], images=self.images[rows])

    def painted_as(self, images: NDArray[np.floating]) -> Self:
        """Return the same label maps and patients with other images."""
        return replace(self, images=images)


def _places(store: SliceStore, rows: NDArray[np.integer]) -> pd.DataFrame:
    return store.rows.iloc[rows][list(PLACE_COLUMNS)].reset_index(drop=True)
