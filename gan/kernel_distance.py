"""The kernel distance (KID) between two sets of feature vectors."""

import numpy as np
from numpy.typing import NDArray

from gan.feature_sets import checked_pair

_DEGREE = 3


def kernel_distance(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Return the unbiased squared MMD under the kernel (x.y / D + 1)^3 (Bińkowski et al. 2018, section 4).

    mean of k(x, x') over pairs of different x + the same of y - 2 x mean of k(x, y). Unbiased, unlike the Fréchet
    distance: sets of different sizes can be compared, and equal distributions give 0 on average, so that single
    values may be negative.

    Args:
        first: (N, D).
        second: (M, D).

    Raises:
        InputError: Fewer than two vectors, different D, or values that are not finite.
    """
    first, second = checked_pair(first, second, "kernel distance")
    within = _mean_of_pairs(first) + _mean_of_pairs(second)
    return float(within - 2 * _kernel(first, second).mean())


def _mean_of_pairs(vectors: NDArray[np.float64]) -> float:
    """Return the mean kernel over pairs of different vectors."""
    kernel = _kernel(vectors, vectors)
    count = len(vectors)
    return float((kernel.sum() - np.trace(kernel)) / (count * (count - 1)))


def _kernel(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    return (first @ second.T / first.shape[1] + 1) ** _DEGREE
