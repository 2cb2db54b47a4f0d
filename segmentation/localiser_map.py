"""From a probability map to the box around its largest blob, with edges between pixels."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_FAINTEST = 0.05  # a map that stays below shows nothing
_SURE = 0.8  # a map that stays below is cut lower, in proportion to its peak


def box_of_map(probability: NDArray[np.float64], threshold: float) -> NDArray[np.float64] | None:
    """Return the box around the heaviest connected part above the threshold.

    A map without a sure pixel is cut lower: its brightest part is still the best guess.

    Args:
        probability: (P, P).
        threshold: Probability at the box's edges.

    Returns:
        (4,): left, top, right, bottom in shares of the map's side, or None where the map shows nothing.
    """
    peak = float(probability.max())
    if not peak > _FAINTEST:
        return None
    level = threshold * min(1.0, peak / _SURE)
    blob = _heaviest_part(probability, level)
    # The pixels around the blob tell where between pixels the level is crossed.
    seen = np.where(ndimage.binary_dilation(blob, np.ones((3, 3))), probability, 0.0)
    (top, bottom), (left, right) = (_crossings(seen.max(axis=axis), level) for axis in (1, 0))
    return np.array([left, top, right, bottom]) / len(probability)


def _heaviest_part(probability: NDArray[np.float64], level: float) -> NDArray[np.bool_]:
    parts, count = ndimage.label(probability > level, np.ones((3, 3)))
    weights = ndimage.sum_labels(probability, parts, np.arange(1, count + 1))
    return parts == 1 + int(np.argmax(weights))


def _crossings(profile: NDArray[np.float64], level: float) -> tuple[float, float]:
    """Return where a profile (P,) first rises and last falls through the level, in pixels from its start."""
    backwards = _first_rise(profile[::-1], level)
    return _first_rise(profile, level), len(profile) - backwards


def _first_rise(profile: NDArray[np.float64], level: float) -> float:
    above = int(np.argmax(profile > level))
    if above == 0:
        return 0.0
    before, after = profile[above - 1 : above + 1]
    return above - 0.5 + float((level - before) / (after - before))
