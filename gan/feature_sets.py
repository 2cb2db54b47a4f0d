"""Two sets of feature vectors, checked before a distance is taken between them."""

import numpy as np
from numpy.typing import NDArray

from imaging.errors import InputError

Vectors = NDArray[np.float64]


def checked_pair(first: NDArray[np.floating], second: NDArray[np.floating], distance: str) -> tuple[Vectors, Vectors]:
    """Return both sets, (N, D) and (M, D), in float64.

    Args:
        first: (N, D).
        second: (M, D).
        distance: What will be measured, for messages.

    Raises:
        InputError: Fewer than two vectors, different D, or values that are not finite.
    """
    pair = _checked(first, f"{distance}: first"), _checked(second, f"{distance}: second")
    if pair[0].shape[1] != pair[1].shape[1]:
        raise InputError(
            f"{distance}: {pair[0].shape[1]} and {pair[1].shape[1]} features; use the same extractor for both"
        )
    return pair


def _checked(features: NDArray[np.floating], name: str) -> Vectors:
    values: Vectors = np.asarray(features, dtype=np.float64)
    if values.ndim != 2 or len(values) < 2:
        raise InputError(f"{name} features have shape {values.shape}; give at least two vectors (N, D)")
    if not np.isfinite(values).all():
        raise InputError(f"{name} features hold NaN or infinity; check the images and extractor")
    return values
