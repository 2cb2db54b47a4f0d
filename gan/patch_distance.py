"""How unlike the small patches of two sets of slices are: the sliced Wasserstein distance of Karras et al. 2018, §5.

It compares distributions, so that other grain than the real slice's is no error; it needs no trained network, and is
stable on a few dozen slices, each of which holds hundreds of patches.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import ndimage

from imaging.seeds import random_generator

_PATCH_PX = 7
_LEVELS = 3  # of the Laplacian pyramid: full, half and quarter resolution
_DIRECTIONS = 128
_MOST_PATCHES = 8192

Floats = NDArray[np.float32]


def patch_distance(
    drawn: NDArray[np.floating], real: NDArray[np.floating], region: NDArray[np.bool_], seed: int
) -> float:
    """Return the mean distance over three resolutions, in deviations of the real patches; 0 without a patch.

    Args:
        drawn: (N, H, W).
        real: (N, H, W), of the same masks.
        region: (N, H, W) where patches are centred.
        seed: Draws patches and directions.
    """
    distances = []
    for level, (bands, places) in enumerate(_pyramid(drawn, real, region)):
        patches = [_patches(band, places) for band in bands]
        if len(patches[0]):
            rng = random_generator(seed, "patch distance", level)
            chosen = rng.permutation(len(patches[0]))[:_MOST_PATCHES]
            distances.append(_sliced_wasserstein(patches[0][chosen], patches[1][chosen], rng))
    return float(np.mean(distances)) if distances else 0.0


def _pyramid(
    drawn: NDArray[np.floating], real: NDArray[np.floating], region: NDArray[np.bool_]
) -> list[tuple[tuple[Floats, Floats], NDArray[np.bool_]]]:
    """Return both sets' bands and the region at each resolution: what is finer, and at the last all that is left."""
    levels = []
    pair = [np.asarray(images, dtype=np.float32) for images in (drawn, real)]
    for _ in range(_LEVELS - 1):
        smooth = [np.asarray(ndimage.gaussian_filter(images, (0, 1, 1)), dtype=np.float32) for images in pair]
        levels.append(((pair[0] - smooth[0], pair[1] - smooth[1]), region))
        pair, region = [images[:, ::2, ::2] for images in smooth], region[:, ::2, ::2]
    return [*levels, ((pair[0], pair[1]), region)]


def _patches(images: Floats, region: NDArray[np.bool_]) -> Floats:
    """Return the patches (P, 49) around the pixels of the region, in the same order for the same region."""
    reach = _PATCH_PX // 2
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach)), mode="reflect")
    windows = sliding_window_view(padded, (_PATCH_PX, _PATCH_PX), axis=(1, 2))
    return windows[region].reshape(-1, _PATCH_PX**2)


def _sliced_wasserstein(drawn: Floats, real: Floats, rng: np.random.Generator) -> float:
    directions = rng.normal(size=(_PATCH_PX**2, _DIRECTIONS)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=0)
    deviation = max(float(real.std()), 1e-6)
    projected = [np.sort((patches / deviation) @ directions, axis=0) for patches in (drawn, real)]
    return float(np.abs(projected[0] - projected[1]).mean())
