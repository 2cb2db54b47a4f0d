"""Dice of two label maps from counted pixels: the one place that computes it.

What does not live here: which pixels are counted together, and what becomes of a tissue that is absent (the rules of
`segmentation.scoring.rules`); the soft, differentiable losses.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def dice_terms(shared: Any, reference: Any, prediction: Any) -> tuple[Any, Any]:
    """Return 2 |A ∩ B| and |A| + |B|, whose ratio is the Dice, also of sums over slices or patients.

    Args:
        shared: Pixels that both sides hold, a number, an array or a column of a table.
        reference: Pixels of the reference.
        prediction: Pixels of the prediction.
    """
    return 2 * shared, reference + prediction


def dice(shared: Any, reference: Any, prediction: Any, empty: float = 1.0) -> NDArray[np.float64]:
    """Return 2 |A ∩ B| / (|A| + |B|) of numbers or arrays, and `empty` where both sides are."""
    numerator, denominator = dice_terms(*map(np.asarray, (shared, reference, prediction)))
    return np.where(denominator > 0, numerator / np.maximum(denominator, 1), empty)


def areas(reference: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Return each slice's shared pixels (N,), those of the reference (N,) and those of the prediction (N,)."""
    return [held.sum(axis=(1, 2), dtype=np.float64) for held in (reference & prediction, reference, prediction)]
