"""The losses of Pix2Pix: adversarial, and region-weighted L1; and the structural similarity.

All work in float32 on images in [-1, 1] (`structural_similarity`: [0, 1]). Weights and regions come in as
tensors.

How grainy each tissue is: the loss that asks a drawn slice for as much fine detail as the real one has.

Grain cannot be foretold from labels, so L1 and SSIM ask for none and drawings come out smooth. This loss compares
amounts, not pixels, and leaves it to the noise and the discriminator where the grain lies.

The perceptual loss: how far apart a drawn and a real slice are for a network that has seen many pictures.

Johnson et al. 2016, section 3.1, with L1 in place of squared distances.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import InputError
from gan.networks.features import load_vgg16
from gan.networks.generator import blur
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


_SCALES_PX = (1.0, 2.0)  # bands: finer than the first, and between the two
_LEAST = 0.02  # of an image in [-1, 1]; below it a tissue counts as smooth
_FEWEST_PX = 12.0


def grain_loss(drawn: Tensor, real: Tensor, tissues: Tensor) -> Tensor:
    """Return the mean |ln(drawn / real)| of the mean detail in each band, slice and tissue.

    Args:
        drawn: (N, 1, H, W) in [-1, 1].
        real: (N, 1, H, W) in [-1, 1].
        tissues: (N, C, H, W) 1 where a tissue lies; tissues of fewer than 12 pixels in a slice are left out.
    """
    amounts = _amounts(torch.cat([drawn, real]), torch.cat([tissues, tissues]))
    of_drawn, of_real = amounts.add(_LEAST).log().chunk(2)
    counted = (tissues.sum(dim=(2, 3)) >= _FEWEST_PX).float().unsqueeze(1).expand_as(of_real)
    return ((of_drawn - of_real).abs() * counted).sum() / counted.sum().clamp_min(1.0)


def _amounts(images: Tensor, tissues: Tensor) -> Tensor:
    """Return the mean |band| (N, bands, C) in each tissue."""
    smoother = [images, *(blur(images, scale) for scale in _SCALES_PX)]
    bands = torch.cat([fine - coarse for fine, coarse in itertools.pairwise(smoother)], dim=1)
    sums = torch.einsum("nbhw,nchw->nbc", bands.abs(), tissues)
    amounts: Tensor = sums / tissues.sum(dim=(2, 3)).clamp_min(1.0).unsqueeze(1)
    return amounts


# In torchvision.models.vgg16().features: the last layers of relu1_2, relu2_2 and relu3_3.
_TAPS = (3, 8, 15)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PerceptualLoss(nn.Module):
    """The mean over relu1_2, relu2_2 and relu3_3 of VGG16 of the L1 distance of their features.

    Features are scaled to a mean length of 1 over the real slices' pixels, so that each layer counts alike.

    Args:
        weights: A safetensors file with VGG16's `features.*`.

    Raises:
        InputError: The file cannot be read or lacks a layer.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: Path):
        super().__init__()
        layers = list(load_vgg16(weights))[: _TAPS[-1] + 1]
        for layer in layers:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False
        self.layers = nn.ModuleList(layers)
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, drawn: Tensor, real: Tensor) -> Tensor:
        """Return the distance of images (N, 1, H, W) in [-1, 1], 0 where they are equal; a scalar."""
        with torch.no_grad():
            wanted = self._features(real)
        total = torch.zeros((), device=drawn.device)
        for found, target in zip(self._features(drawn), wanted, strict=True):
            size = target.abs().mean().clamp_min(1e-6)
            total = total + (found - target).abs().mean() / size
        return total / len(_TAPS)

    def _features(self, images: Tensor) -> list[Tensor]:
        values = ((images + 1) / 2 - self.mean) / self.std
        found = []
        for number, layer in enumerate(self.layers):
            values = layer(values)
            if number in _TAPS:
                found.append(values.float())
        return found
