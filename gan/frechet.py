"""The Fréchet distance between two sets of feature vectors."""

import numpy as np
from numpy.typing import NDArray

from gan.feature_sets import checked_pair


def frechet_distance(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Return the squared Fréchet distance of two Gaussians fitted to feature vectors (Heusel et al. 2017).

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)). With S = C'C / (n - 1), the last trace is the sum of the
    singular values of C1 C2' / sqrt((n1 - 1)(n2 - 1)): no square root of a matrix that fewer vectors than
    features would leave singular. C is first reduced to its triangular factor, which has the same C'C.

    Args:
        first: (N, D).
        second: (M, D).

    Raises:
        InputError: Fewer than two vectors, different D, or values that are not finite.
    """
    first, second = checked_pair(first, second, "Fréchet distance")
    factor_1, factor_2 = _covariance_factor(first), _covariance_factor(second)
    shared = np.linalg.svd(factor_1 @ factor_2.T, compute_uv=False).sum()
    spread = float(np.square(factor_1).sum() + np.square(factor_2).sum() - 2 * shared)
    shift = float(np.square(first.mean(axis=0) - second.mean(axis=0)).sum())
    return max(shift + spread, 0.0)


def _covariance_factor(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return R (min(N, D), D) with R'R the covariance."""
    centred = (features - features.mean(axis=0)) / np.sqrt(len(features) - 1)
    return np.asarray(np.linalg.qr(centred, mode="r"))
