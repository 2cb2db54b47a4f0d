"""The validation round: real slices of validation patients drawn again, and the measure that selects.

What does not live here: the full proof of quality (`gan.quality`), which is made once, after training.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gan.config import Pix2PixConfig
from gan.hole import ventricle_hole
from gan.patch_distance import patch_distance
from gan.quality import local_texture, mean_absolute_error, pairwise_variety, structural_similarity_of
from gan.shades import tissue_shades
from gan.synthesiser import Synthesiser, noise_seeds
from imaging.errors import InputError

_SMOOTHING_PX = 1.5


@dataclass(frozen=True)
class ValidationSlices:
    """Slices that show a ventricle: images (N, H, W) in [0, 1], masks and holes (N, H, W), shades (N, labels)."""

    images: NDArray[np.float32]
    masks: NDArray[np.uint8]
    holes: NDArray[np.uint8]
    shades: NDArray[np.float32]

    @classmethod
    def choose(
        cls, images: NDArray[np.floating], masks: NDArray[np.uint8], config: Pix2PixConfig
    ) -> "ValidationSlices":
        """Take at most `validation_slices`, evenly spread over those that show a ventricle.

        Raises:
            InputError: None does.
        """
        rows = np.flatnonzero((masks > 0).any(axis=(1, 2)))
        if not len(rows):
            raise InputError(
                f"pix2pix: none of {len(masks)} validation slices shows a ventricle; check the split and the masks"
            )
        count = min(config.validation_slices, len(rows))
        rows = rows[np.linspace(0, len(rows) - 1, count).round().astype(int)]
        holes = ventricle_hole(masks[rows], config.hole_margin_px)
        chosen = np.asarray(images[rows], dtype=np.float32)
        shades = tissue_shades(chosen, masks[rows], int(masks.max()) + 1)
        return cls(chosen, masks[rows], holes, np.nan_to_num(shades, nan=0.5))


def validation_figures(
    synthesiser: Synthesiser,
    slices: ValidationSlices,
    seed: int,
) -> dict[str, float]:
    """Draw real slices again and measure how well they are met inside the ventricle.

    The measure that selects is `selection` = the share of the ventricle's shading that is met, with both slices
    smoothed by a Gaussian of 1.5 px - patch_weight x the distance between drawn and real patches around the
    ventricle (`gan.patch_distance`). SSIM or L1 of slices as they are take other grain for an error, however
    real, and prefer early, smooth drawings; the patches charge for blur, for exaggerated grain and for edges that
    are none. Both are cheap, need no network, and are stable on a few dozen slices, which a Fréchet distance is
    not.

    A generator that is told shades is told the slices' own, so that it is judged by what it makes of them.

    Args:
        synthesiser: The generator.
        slices: Real slices.
        seed: Seed of the noise.
    """
    images, masks = slices.images, slices.masks
    seeds = noise_seeds(seed, "validation", range(len(masks)))
    drawn = synthesiser.draw(masks, images, slices.holes, seeds, slices.shades)
    ventricle = masks > 0
    shading = _share_met(_smoothed(drawn)[ventricle], _smoothed(images)[ventricle])
    patches = patch_distance(drawn, images, slices.holes > 0, seed)
    return {
        "selection": shading - synthesiser.config.patch_weight * patches,
        "patch_distance": patches,
        "ssim_ventricle": structural_similarity_of(drawn, images, ventricle),
        "shading_met": shading,
        "texture_ratio": local_texture(drawn, ventricle) / max(local_texture(images, ventricle), 1e-6),
        "l1_ventricle": mean_absolute_error(drawn, images, ventricle),
        "variety": pairwise_variety(drawn, ventricle) / max(pairwise_variety(images, ventricle), 1e-6),
    }


def _share_met(drawn: NDArray[np.float32], real: NDArray[np.float32]) -> float:
    """Return 1 - the mean error over the mean deviation from the mean, for pixels (P,)."""
    spread = float(np.abs(real - real.mean()).mean())
    return 1 - float(np.abs(drawn - real).mean()) / max(spread, 1e-6)


def _smoothed(images: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(ndimage.gaussian_filter(images, (0, _SMOOTHING_PX, _SMOOTHING_PX)), dtype=np.float32)
