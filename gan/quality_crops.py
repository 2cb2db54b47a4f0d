"""Ventricles brought to one size and place, so that they can be compared with one another."""

import cv2
import numpy as np
from numpy.typing import NDArray

from gan.quality_slices import Images


def ventricle_crops(
    images: Images, masks: NDArray[np.uint8], size_px: int
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Cut the square around each ventricle's box and resample it; the masks come along.

    Args:
        images: (N, H, W).
        masks: (N, H, W) labels; a slice without any gives a black crop.
        size_px: Height and width of the crops.

    Returns:
        Images and masks (N, size_px, size_px). What lies outside the slice is 0.
    """
    crops = np.zeros((len(images), size_px, size_px), np.float32)
    labels = np.zeros(crops.shape, np.uint8)
    for place, (image, mask) in enumerate(zip(images, masks, strict=True)):
        if mask.any():
            square = _square(mask)
            crops[place] = _resample(_cut(np.asarray(image, np.float32), square), size_px, cv2.INTER_LINEAR)
            labels[place] = _resample(_cut(mask, square), size_px, cv2.INTER_NEAREST)
    return crops, labels


def _square(mask: NDArray[np.uint8]) -> tuple[int, int, int]:
    """Return top, left and side of the square around the box of a mask (H, W); it may leave the slice."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    side = int(max(np.ptp(rows), np.ptp(columns))) + 1
    return int(rows[0] + rows[-1] + 1 - side) // 2, int(columns[0] + columns[-1] + 1 - side) // 2, side


def _cut(picture: NDArray[np.generic], square: tuple[int, int, int]) -> NDArray[np.generic]:
    top, left, side = square
    padded = np.pad(picture, side)
    return padded[top + side : top + 2 * side, left + side : left + 2 * side]


def _resample(picture: NDArray[np.generic], size_px: int, interpolation: int) -> NDArray[np.generic]:
    shrinks = len(picture) > size_px and interpolation != cv2.INTER_NEAREST
    chosen = cv2.INTER_AREA if shrinks else interpolation
    return np.asarray(cv2.resize(np.ascontiguousarray(picture), (size_px, size_px), interpolation=chosen))
