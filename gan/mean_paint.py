"""The yardstick that every generator has to beat: each tissue painted with its mean training intensity."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gan.hole import ventricle_hole
from imaging.slice_store import SliceStore

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
        self, images: NDArray[np.floating], masks: NDArray[np.uint8], hole_margin_px: int
    ) -> NDArray[np.float32]:
        """Return images (N, H, W) painted inside the ventricle's hole and real outside it."""
        hole = ventricle_hole(masks, hole_margin_px) > 0
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
