"""How a class of the prediction overlaps that of the reference, from counted voxels.

Empty cases are fixed here: a class that both sides lack is found perfectly and scores 1 (only the official rule counts
it, see `score_rules`); what is empty on one side only scores 0, precision and recall included.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Counts(NamedTuple):
    """Voxels of one class: hit, predicted in error, and missed."""

    tp: int
    fp: int
    fn: int

    @property
    def empty(self) -> bool:
        """Whether neither reference nor prediction holds the class."""
        return self.tp + self.fp + self.fn == 0

    @property
    def reference(self) -> int:
        """Voxels of the reference."""
        return self.tp + self.fn

    @property
    def prediction(self) -> int:
        """Voxels of the prediction."""
        return self.tp + self.fp

    @property
    def in_reference(self) -> bool:
        """Whether the reference holds the class."""
        return self.reference > 0

    def dice(self) -> float:
        """Return 2 TP / (2 TP + FP + FN), and 1 where both sides are empty."""
        return 1.0 if self.empty else 2 * self.tp / (2 * self.tp + self.fp + self.fn)

    def overlap(self) -> dict[str, float]:
        """Return `dice`, `jaccard`, `precision` and `recall`."""
        wholes = {"jaccard": self.tp + self.fp + self.fn, "precision": self.prediction, "recall": self.reference}
        return {"dice": self.dice()} | {name: self._share(whole) for name, whole in wholes.items()}

    def _share(self, whole: int) -> float:
        if self.empty:
            return 1.0
        return self.tp / whole if whole else 0.0


def slice_confusions(
    reference: NDArray[np.integer], prediction: NDArray[np.integer], num_classes: int
) -> NDArray[np.int64]:
    """Return for each slice how often each reference label met each predicted one, (S, C, C)."""
    pairs = reference.astype(np.int64) * num_classes + prediction
    size = num_classes * num_classes
    counted = [np.bincount(pairs_of_slice.ravel(), minlength=size) for pairs_of_slice in pairs]
    return np.reshape(counted, (-1, num_classes, num_classes)).astype(np.int64)


def count_voxels(confusion: NDArray[np.int64], values: Iterable[int]) -> Counts:
    """Return the counts of the class that joins the label `values`, from a confusion matrix (C, C)."""
    joined = list(values)
    tp = int(confusion[np.ix_(joined, joined)].sum())
    return Counts(tp, int(confusion[:, joined].sum()) - tp, int(confusion[joined].sum()) - tp)
