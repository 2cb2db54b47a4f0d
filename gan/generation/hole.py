"""The hole that the generator fills: the ventricle, filled and widened by a margin, or lesions within their wall.

The simulator, the training and the generation share it, so that the context means the same everywhere.

The yardstick that every generator has to beat: each tissue painted with its mean training intensity.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from gan.training.config import Paint
from imaging.labels import Tissue
from imaging.slices.store import SliceStore

_FAR = 255
_ROUNDING = 1e-3  # of the distance transform, in pixels


def own_hole(masks: NDArray[np.integer], paint: Paint, margin_px: int) -> NDArray[np.uint8]:
    """Return the hole of what is seen in label maps (N, H, W): their ventricle, or their own lesions."""
    if paint == "ventricle":
        return ventricle_hole(masks, margin_px)
    lesions, walls = masks >= Tissue.INFARCT, masks >= Tissue.NORMAL_MYOCARDIUM
    return np.stack([lesion_hole(lesion, wall, margin_px) for lesion, wall in zip(lesions, walls, strict=True)])


def lesion_hole(lesion: NDArray[np.bool_], wall: NDArray[np.bool_], margin_px: int) -> NDArray[np.uint8]:
    """Return 1 within `margin_px` of a lesion (H, W) and inside the wall (H, W); all 0 where there is no lesion."""
    if not lesion.any():
        return np.zeros(lesion.shape, dtype=np.uint8)
    return ((_distance_to(lesion) <= margin_px) & wall).astype(np.uint8)


def ventricle_hole(masks: NDArray[np.integer], margin_px: int | NDArray[np.integer]) -> NDArray[np.uint8]:
    """Return 1 within `margin_px` of the filled ventricle and 0 elsewhere.

    Args:
        masks: (N, H, W) label maps.
        margin_px: Width of the margin in pixels, 0 to 254; one for all masks or one for each, (N,).

    Returns:
        (N, H, W) uint8; all 0 where a mask is empty.

    Raises:
        InputError: The masks are not (N, H, W) or a margin is out of range.
    """
    margins = np.broadcast_to(np.asarray(margin_px), np.shape(masks)[:1])
    if np.ndim(masks) != 3 or (margins < 0).any() or (margins >= _FAR).any():
        raise InputError(
            f"cannot widen masks of shape {np.shape(masks)} by {margin_px} px; "
            f"give masks (N, H, W) and margins of 0 to {_FAR - 1}"
        )
    return (ventricle_distance(masks) <= margins[:, None, None]).astype(np.uint8)


def ventricle_distance(masks: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Return each pixel's distance to the filled ventricle in pixels, rounded up: 0 inside, 255 where far or without.

    The ventricle is every label above 0 with whatever it encloses; the distance is Euclidean.

    Args:
        masks: (N, H, W) label maps.
    """
    distances = np.full(np.shape(masks), _FAR, dtype=np.uint8)
    for index, mask in enumerate(np.asarray(masks)):
        if mask.any():
            distances[index] = np.minimum(_distance_to(_fill(mask > 0)), _FAR)
    return distances


def _distance_to(region: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return each pixel's Euclidean distance to a region (H, W), rounded up to whole pixels; 0 inside."""
    distance = cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(np.ceil(distance - _ROUNDING))


def _fill(ventricle: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill what the ventricle (H, W) encloses: all that cannot be reached from outside over edges."""
    outside = np.pad(ventricle, 1).astype(np.uint8)
    cv2.floodFill(outside, None, (0, 0), (2,))  # in place, 4-connected
    return np.asarray(outside[1:-1, 1:-1] != 2)


_ROWS = 512


@dataclass(frozen=True)
class MeanPaint:
    """Paints masks.

    Attributes:
        intensities: (num_classes,) mean of each label value over the training pixels, in [0, 1]; a tissue
            that no training slice holds takes the mean of all pixels.
    """

    intensities: NDArray[np.float32]

    def __call__(self, masks: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return images (N, H, W) for masks (N, H, W)."""
        return self.intensities[masks]

    def in_context(
        self,
        images: NDArray[np.floating],
        masks: NDArray[np.uint8],
        hole_margin_px: int,
        paint: Paint = "ventricle",
    ) -> NDArray[np.float32]:
        """Return images (N, H, W) painted inside the hole and real outside it."""
        hole = own_hole(masks, paint, hole_margin_px) > 0
        return np.where(hole, self(masks), np.asarray(images, dtype=np.float32))


def mean_paint(training: SliceStore) -> MeanPaint:
    """Measure the mean intensity of each tissue over a training store."""
    count = np.zeros(training.label_set.num_classes)
    total = np.zeros_like(count)
    for start in range(0, len(training), _ROWS):
        rows = slice(start, start + _ROWS)
        values = training.masks(rows).ravel()
        count += np.bincount(values, minlength=len(count))
        total += np.bincount(values, training.images(rows).ravel().astype(np.float64), len(count))
    means = np.where(count > 0, total / np.maximum(count, 1), total.sum() / max(count.sum(), 1))
    return MeanPaint(means.astype(np.float32))
