"""The hole that the generator fills: the ventricle, filled and widened by a margin.

The simulator, the training and the generation share it, so that the context means the same everywhere.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from imaging.errors import InputError


def ventricle_hole(masks: NDArray[np.integer], margin_px: int) -> NDArray[np.uint8]:
    """Return 1 within `margin_px` of the filled ventricle and 0 elsewhere.

    The ventricle is every label above 0 with whatever it encloses. The margin is a Euclidean distance.

    Args:
        masks: (N, H, W) label maps.
        margin_px: Width of the margin in pixels, 0 or more.

    Returns:
        (N, H, W) uint8; all 0 where a mask is empty.

    Raises:
        InputError: The masks are not (N, H, W) or the margin is negative.
    """
    masks = np.asarray(masks)
    if masks.ndim != 3 or margin_px < 0:
        raise InputError(
            f"cannot widen masks of shape {masks.shape} by {margin_px} px; "
            "give masks (N, H, W) and a margin of 0 or more"
        )
    holes = np.zeros(masks.shape, dtype=np.uint8)
    for index, mask in enumerate(masks):
        if mask.any():
            holes[index] = _widen(_fill(mask > 0), margin_px)
    return holes


def _fill(ventricle: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill what the ventricle (H, W) encloses: all that cannot be reached from outside over edges."""
    outside = np.pad(ventricle, 1).astype(np.uint8)
    cv2.floodFill(outside, None, (0, 0), (2,))  # in place, 4-connected
    return np.asarray(outside[1:-1, 1:-1] != 2)


def _widen(ventricle: NDArray[np.bool_], margin_px: int) -> NDArray[np.bool_]:
    if margin_px == 0:
        return ventricle
    distance = cv2.distanceTransform((~ventricle).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance <= margin_px + 1e-3)
