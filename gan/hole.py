"""The part of a slice that is drawn anew: the ventricle, filled, with a margin around it."""

import cv2
import numpy as np
from numpy.typing import NDArray


def ventricle_hole(masks: NDArray[np.uint8], margin_px: int) -> NDArray[np.uint8]:
    """Return 1 on every ventricle, what it encloses, and `margin_px` around it; (N, H, W) in and out."""
    size = 2 * margin_px + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    holes = np.zeros(masks.shape, np.uint8)
    for hole, mask in zip(holes, masks, strict=True):
        contours, _ = cv2.findContours((mask > 0).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(hole, contours, -1, 1, thickness=cv2.FILLED)
        hole[:] = cv2.dilate(hole, disc)
    return holes
