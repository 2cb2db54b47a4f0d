"""The losses of Pix2Pix: adversarial, region-weighted L1 and structure.

All work in float32 on images in [-1, 1] (`structural_similarity`: [0, 1]). Weights and regions come in as
tensors.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from gan.blur import blur
from imaging.errors import InputError
from imaging.labels import LabelSet

# Constants and window of Wang et al. 2004.
_C1, _C2 = 0.01**2, 0.03**2
_WINDOW_SIGMA_PX = 1.5


@dataclass(frozen=True)
class AdversarialLoss:
    """Three functions from logits to one loss a patch: on real, on drawn, and the generator's on drawn."""

    on_real: Callable[[Tensor], Tensor]
    on_drawn: Callable[[Tensor], Tensor]
    to_fool: Callable[[Tensor], Tensor]

    def discriminator(self, real: Tensor, drawn: Tensor, weights: Tensor) -> Tensor:
        """Return the discriminator's loss, patches weighted by `weights` (N, 1, h, w)."""
        return 0.5 * (weighted_mean(self.on_real(real), weights) + weighted_mean(self.on_drawn(drawn), weights))

    def generator(self, drawn: Tensor, weights: Tensor) -> Tensor:
        """Return the generator's loss, patches weighted by `weights` (N, 1, h, w)."""
        return weighted_mean(self.to_fool(drawn), weights)


ADVERSARIAL_LOSSES: Mapping[str, AdversarialLoss] = MappingProxyType(
    {
        "bce": AdversarialLoss(on_real=lambda x: F.softplus(-x), on_drawn=F.softplus, to_fool=lambda x: F.softplus(-x)),
        "least_squares": AdversarialLoss(
            on_real=lambda x: (x - 1).square(), on_drawn=torch.square, to_fool=lambda x: (x - 1).square()
        ),
        "hinge": AdversarialLoss(on_real=lambda x: F.relu(1 - x), on_drawn=lambda x: F.relu(1 + x), to_fool=torch.neg),
    }
)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return the mean of `values` under `weights` of the same shape; 0 where all weights are 0."""
    return (values * weights).sum() / weights.sum().clamp_min(1e-6)


def tissue_weight_table(weights: Mapping[str, float], labels: LabelSet) -> Tensor:
    """Return the pixel weight of each label value, (num_classes,).

    Raises:
        InputError: A tissue of the label set has no weight.
    """
    missing = [tissue for tissue in labels.tissues if tissue not in weights]
    if missing:
        raise InputError(
            f"tissue_weights: no weight for {missing} of label set {labels.name!r}; add them to the configuration"
        )
    return torch.tensor([weights[tissue] for tissue in labels.tissues], dtype=torch.float32)


def region_weighted_l1(drawn: Tensor, real: Tensor, pixel_weights: Tensor, hole: Tensor | None) -> Tensor:
    """Return the L1 distance weighted by tissue.

    Args:
        drawn: (N, 1, H, W).
        real: (N, 1, H, W).
        pixel_weights: (N, 1, H, W) weight of each pixel's tissue.
        hole: (N, 1, H, W) where pixels are drawn. With it, the weighted mean inside; without, as published,
            the plain mean of weight x difference over the whole slice.
    """
    difference = (drawn - real).abs()
    if hole is None:
        return (pixel_weights * difference).mean()
    return weighted_mean(difference, pixel_weights * hole)


def structural_similarity(first: Tensor, second: Tensor) -> Tensor:
    """Return the SSIM map (Wang et al. 2004, borders reflected) of images in [0, 1], all (N, 1, H, W)."""
    count = len(first)
    stacked = torch.cat([first, second, first * first, second * second, first * second])
    mean_1, mean_2, square_1, square_2, product = torch.split(blur(stacked, _WINDOW_SIGMA_PX), count)
    covariance = product - mean_1 * mean_2
    variances = (square_1 - mean_1.square()).clamp_min(0) + (square_2 - mean_2.square()).clamp_min(0)
    luminance = (2 * mean_1 * mean_2 + _C1) / (mean_1.square() + mean_2.square() + _C1)
    return luminance * (2 * covariance + _C2) / (variances + _C2)
