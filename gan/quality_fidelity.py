"""How close a drawing comes to the real slice of the same mask: SSIM, PSNR and LPIPS, whole and in the ventricle.

SSIM and PSNR take grain other than the real slice's for an error and so prefer smooth drawings. LPIPS hardly does,
and the distance of patches (`gan.patch_distance`, around the ventricle) does not: it compares their distributions.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gan.patch_distance import patch_distance
from gan.quality_interval import Figure, over_halves, ratio_of_sums
from gan.quality_pixels import decibels, similarities, squared_errors
from gan.quality_slices import Images, PairDistance, PairedSlices, inside_ventricle
from gan.quality_table import Row


def fidelity(
    subject: str, images: Images, real: PairedSlices, perceptual: Mapping[str, PairDistance], seed: int
) -> list[Row]:
    """Compare images (N, H, W) with the real slices that they pair with.

    LPIPS inside the ventricle is that of slices whose surroundings are both set black.
    """
    rows = []
    count = len(real)
    ventricle = real.masks > 0
    for name, region in (("whole", None), ("ventricle", ventricle)):
        values, counted = similarities(images, real.images, region)
        ssim = over_halves(ratio_of_sums(values, counted.astype(float)), seed, real.cases)
        psnr = over_halves(ratio_of_sums(*squared_errors(images, real.images, region), decibels), seed, real.cases)
        rows += [Row("ssim", name, subject, ssim, count, count), Row("psnr", name, subject, psnr, count, count)]
        for network, distance in perceptual.items():
            pair = [_view(part, real.masks, region) for part in (images, real.images)]
            lpips = np.asarray(distance(*pair), np.float64)
            figure = over_halves(ratio_of_sums(lpips, np.ones_like(lpips)), seed, real.cases)
            rows.append(Row("lpips", name, subject, figure, count, count, network))
    patches = Figure(patch_distance(images, real.images, ventricle, seed))
    return [*rows, Row("patches", "ventricle", subject, patches, count, count)]


def _view(images: Images, masks: NDArray[np.uint8], region: NDArray[np.bool_] | None) -> Images:
    return images if region is None else inside_ventricle(images, masks)
