"""Real anatomies varied a little, for masks without infarct."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from gan.simulator.anatomy import Anatomy, read_anatomy
from imaging.labels import Tissue

_HARMONICS = (2, 3, 4)
_MOST_ROTATION_DEG = 15.0
_SMOOTH_PX = 1.0


def warp_anatomy(anatomy: Anatomy, amount: float, rng: np.random.Generator) -> Anatomy | None:
    """Return the anatomy scaled, turned and bent about its centre.

    Args:
        anatomy: What to vary.
        amount: Standard deviation of the relative change of size; each harmonic of the outline gets a share.
        rng: Source of the random choices.

    Returns:
        The varied anatomy; None where its ring has opened or it has left the slice.
    """
    if not amount:
        return anatomy
    centre = anatomy.centre_in_slice
    rows = np.arange(anatomy.size[0], dtype=np.float64)[:, None] - centre[0]
    columns = np.arange(anatomy.size[1], dtype=np.float64) - centre[1]
    angle = np.arctan2(rows, columns)
    stretch = np.exp(amount * rng.standard_normal() + _bend(angle, amount, rng))
    turn = np.radians(rng.uniform(-_MOST_ROTATION_DEG, _MOST_ROTATION_DEG))
    radius = np.hypot(rows, columns) / stretch
    source_rows = radius * np.sin(angle - turn) + centre[0]
    source_columns = radius * np.cos(angle - turn) + centre[1]
    warped = read_anatomy(_look_up(anatomy.paste(anatomy.labels), source_rows, source_columns), 1.0)
    if warped is None or (anatomy.closed and not warped.closed):
        return None
    return Anatomy(warped.labels, warped.box, warped.size, anatomy.spacing_mm)


def _bend(angle: NDArray[np.float64], amount: float, rng: np.random.Generator) -> NDArray[np.float64]:
    bend = np.zeros_like(angle)
    for order in _HARMONICS:
        size, phase = amount * rng.standard_normal() / order, rng.uniform(0, 2 * np.pi)
        bend += size * np.cos(order * angle + phase)
    return bend


def _look_up(mask: NDArray[np.uint8], rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return the label of each place (H, W), outlines interpolated; what lies outside the slice is background."""
    places = np.broadcast_arrays(rows, columns)
    # Turning an outline of pixels leaves it jagged, so smoothed regions are looked up.
    ventricle, cavity = (
        map_coordinates(gaussian_filter(region.astype(np.float32), _SMOOTH_PX), places, order=1, mode="constant") > 0.5
        for region in (mask > 0, mask == Tissue.CAVITY)
    )
    return np.where(cavity, Tissue.CAVITY, np.where(ventricle, Tissue.NORMAL_MYOCARDIUM, 0)).astype(np.uint8)
