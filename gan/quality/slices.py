"""What the measures of quality take: kinds of functions, and ventricles brought to one size and place."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from common.seeds import random_generator

Images = NDArray[np.floating]
Vectors = NDArray[np.floating]
Features = Callable[[Images], Vectors]
Segment = Callable[[Images], NDArray[np.uint8]]
PairDistance = Callable[[Images, Images], NDArray[np.floating]]


def some_rows(count: int, most: int, seed: int, purpose: str) -> NDArray[np.intp]:
    """Return at most `most` of `count` rows, drawn without repetition and in order."""
    if most >= count:
        return np.arange(count)
    return np.sort(random_generator(seed, purpose).choice(count, size=most, replace=False))


def inside_ventricle(images: Images, masks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the images with everything outside the ventricle black."""
    return np.where(masks > 0, np.asarray(images, np.float32), np.float32(0))


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
