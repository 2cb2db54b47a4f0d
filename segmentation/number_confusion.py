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

        Sure is: at least two numbers of the predictions overlap each another number of the references by a Dice of
        0.5 or more and their own by less than 0.1. Else nothing is told.
        """
        sizes = self.voxels.sum(axis=1)[:, None] + self.voxels.sum(axis=0)[None, :]
        dice = 2 * self.voxels / np.maximum(sizes, 1)
        moved = {
            int(theirs): int(ours)
            for theirs, ours in np.argwhere(dice.T >= _SAME_DICE)
            if 0 not in (ours, theirs) and max(dice[ours, ours], dice[theirs, theirs]) < _OTHER_DICE
        }
        return moved if len(moved) >= _FEWEST else {}
