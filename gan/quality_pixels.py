"""Measures that compare pixels or describe them: PSNR, SSIM, texture, spread.

All images are (N, H, W) in [0, 1], regions (N, H, W) bool.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from gan.losses import structural_similarity
from gan.quality_slices import Images

Region = NDArray[np.bool_] | None
_ROWS = 64


def peak_signal_to_noise(images: Images, real: Images, region: Region = None) -> float:
    """Return the PSNR in dB of images in [0, 1] over all pixels of the region; inf where they are equal."""
    errors, pixels = squared_errors(images, real, region)
    return decibels(float(errors.sum() / pixels.sum()))


def decibels(error: float) -> float:
    """Return the PSNR in dB of a mean squared error of images in [0, 1]."""
    return float(np.inf if error == 0 else -10 * np.log10(error))


def squared_errors(
    images: Images, real: Images, region: Region = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the summed squared error of each slice over its region (N,) and the region's pixels (N,)."""
    squared = np.square(np.asarray(images, np.float64) - np.asarray(real, np.float64))
    where = np.ones(squared.shape, bool) if region is None else region
    return np.where(where, squared, 0).sum(axis=(1, 2)), where.sum(axis=(1, 2), dtype=np.float64)


def structural_similarity_of(images: Images, real: Images, region: Region = None) -> float:
    """Return the mean SSIM (Wang et al. 2004): over a slice's pixels in the region, then over the slices."""
    values, counted = similarities(images, real, region)
    return float(values.sum() / counted.sum())


def similarities(images: Images, real: Images, region: Region = None) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return each slice's mean SSIM over its region (N,), 0 where it has none, and whether it has one (N,)."""
    parts = []
    for start in range(0, len(images), _ROWS):
        rows = slice(start, start + _ROWS)
        pair = [torch.from_numpy(np.array(part[rows], np.float32)).unsqueeze(1) for part in (images, real)]
        similarity = structural_similarity(*pair)[:, 0].numpy()
        where = np.ones(similarity.shape, bool) if region is None else region[rows]
        sums = np.where(where, similarity, 0).sum(axis=(1, 2), dtype=np.float64)
        parts.append(np.stack([sums, where.sum(axis=(1, 2))]))
    sums, pixels = np.concatenate(parts, axis=1)
    return sums / np.maximum(pixels, 1), pixels > 0


def mean_absolute_error(images: Images, real: Images, region: NDArray[np.bool_]) -> float:
    """Return the mean absolute difference over the region's pixels."""
    difference = np.abs(np.asarray(images, np.float32) - np.asarray(real, np.float32))
    return float(difference[region].mean())


def local_texture(images: Images, region: NDArray[np.bool_]) -> float:
    """Return the mean standard deviation within 3 x 3 pixels over the region: how grainy the images are."""
    images = np.asarray(images, np.float32)
    mean, square = (uniform_filter(part, size=(0, 3, 3)) for part in (images, images * images))
    return float(np.sqrt(np.maximum(square - mean * mean, 0))[region].mean())


def pairwise_variety(images: Images, region: NDArray[np.bool_]) -> float:
    """Return how much the images' region means and deviations differ from slice to slice.

    The mean over both of their standard deviation over slices: a generator that has collapsed draws the same
    ventricle whatever it is given, and scores near 0. Zero for fewer than two slices.
    """
    inside = [image[where] for image, where in zip(np.asarray(images, np.float32), region, strict=True)]
    summaries = np.array([[values.mean(), values.std()] for values in inside if len(values)])
    return float(summaries.std(axis=0).mean()) if len(summaries) > 1 else 0.0
