"""Which numbers of the predictions lie on which numbers of the references, and whether that is another numbering."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from segmentation.overlap import slice_confusions

_NUMBERS = 8  # more than any format has
_SAME_DICE = 0.5  # of two numbers that mean the same, at least
_OTHER_DICE = 0.1  # of a number with itself, where it means something else, at most
_FEWEST = 2  # numbers that a permutation moves


@dataclass
class NumberConfusion:
    """Voxels (N, N) of all studies by the reference's and the prediction's number."""

    voxels: NDArray[np.int64] = field(default_factory=lambda: np.zeros((_NUMBERS, _NUMBERS), np.int64))

    def count(self, reference: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> None:
        """Take in one study (S, H, W)."""
        self.voxels += slice_confusions(reference, prediction, _NUMBERS).sum(axis=0)

    def permuted(self) -> dict[int, int]:
        """Return the reference's number by the prediction's where these surely mean the same, but are not the same.

        Sure is: each number of the references overlaps one of the predictions by a Dice of 0.5 or more, and at least
        two of them another, while their own is below 0.1. Else nothing is told.
        """
        sizes = self.voxels.sum(axis=1)[:, None] + self.voxels.sum(axis=0)[None, :]
        dice = (2 * self.voxels / np.maximum(sizes, 1))[1:, 1:]  # without the background
        same = dice >= _SAME_DICE
        if not same.any(axis=1)[self.voxels[1:].sum(axis=1) > 0].all():
            return {}
        moved = {
            int(ours) + 1: int(theirs) + 1
            for ours, theirs in np.argwhere(same.T)
            if max(dice[ours, ours], dice[theirs, theirs]) < _OTHER_DICE
        }
        return moved if len(moved) >= _FEWEST else {}
