"""The hole that the generator fills: the ventricle, filled and widened by a margin, or lesions within their wall.

The simulator, the training and the generation share it, so that the context means the same everywhere.

What was painted into a wall is softened there as a camera would, and takes the slice's grain.

The yardstick that every generator has to beat: each tissue painted with its mean training intensity.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from common.errors import InputError
from gan.training.config import Paint
from imaging.labels import Tissue
from imaging.slices.store import SliceStore

_FAR = 255
_ROUNDING = 1e-3  # of the distance transform, in pixels
_GRAIN_PX = 1.2  # deviation of the Gaussian that parts a slice's grain from its shades
_FINEST_PX = 0.9  # of that grain: studies are resampled to 1 mm from some 1.5 mm
_DEVIATIONS = 1.4826  # of a Gaussian in its median absolute deviation
_FEWEST_PX = 10  # from which a deviation is taken


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
    return (ventricle_distance(masks) <= margins.astype(np.uint8)[:, None, None]).astype(np.uint8)


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


def soften_paint(
    images: NDArray[np.floating],
    masks: NDArray[np.integer],
    holes: NDArray[np.uint8],
    seeds: Sequence[int],
    softness_px: float,
    grain_share: float,
) -> NDArray[np.float32]:
    """Return slices whose painted holes have edges as soft, and grain as strong, as the wall around them.

    Args:
        images: (N, H, W) in [0, 1].
        masks: (N, H, W) label values.
        holes: (N, H, W) 1 where it was painted; the rest stays as it is.
        seeds: N seeds of the grain.
        softness_px: Deviation of the Gaussian, which also lets blood and lung shine into the wall's border pixels.
        grain_share: Of the strength of the grain in the wall that was not painted; 0 for none.
    """
    softened = np.array(images, dtype=np.float32)
    for image, mask, hole, seed in zip(softened, masks, holes, seeds, strict=True):
        inside = hole > 0
        if inside.any():
            grain = _grain(image, (mask == Tissue.NORMAL_MYOCARDIUM) & ~inside, np.random.default_rng(seed))
            painted = gaussian_filter(image, softness_px) + grain_share * grain
            image[inside] = np.clip(painted, 0, 1)[inside]
    return softened


def _grain(image: NDArray[np.float32], seen: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return grain (H, W) as strong as that of an image (H, W) in a region (H, W); none where that is too small."""
    if seen.sum() < _FEWEST_PX:
        return np.zeros_like(image)
    own = (image - gaussian_filter(image, _GRAIN_PX))[seen]
    strength = _DEVIATIONS * np.median(np.abs(own - np.median(own)))
    drawn = gaussian_filter(rng.standard_normal(image.shape, dtype=np.float32), _FINEST_PX)
    drawn -= gaussian_filter(drawn, _GRAIN_PX)
    return np.asarray(strength / drawn.std() * drawn, dtype=np.float32)


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
