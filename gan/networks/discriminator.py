"""The discriminator: PatchGANs that judge overlapping patches of (labels, image).

Architecture: Isola et al. 2017, as shallow as the infarct-synthesis study's last configuration; a second one
with smaller patches, on choice, minds the grain alone (Wang et al. 2018 judge at several scales too).

A small network that reads the tissues back out of a slice, so that a drawing has to show what its mask says.

It learns on the real training slices alone, beside the generator; what it reads in drawn slices teaches the
generator (the semantic consistency of Hoffman et al. 2018, CyCADA, section 3). It is no part of the result.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from gan.networks.generator import normalisation
from gan.training.config import Pix2PixConfig
from runtime.operations import cross_entropy


class Discriminator(nn.Module):
    """One PatchGAN, or one of large and one of small patches.

    Args:
        in_channels: Channels of the image and of what it is judged against.
        config: Widths, and whether the slope is bounded (Miyato et al. 2018) or activations are normalised.
    """

    def __init__(self, in_channels: int, config: Pix2PixConfig):
        super().__init__()
        scales = [config.discriminator_widths, config.fine_discriminator_widths]
        self.scales = nn.ModuleList(_patch_gan(in_channels, widths, config) for widths in scales if widths)

    def forward(self, given: Tensor, image: Tensor) -> list[Tensor]:
        """Judge images.

        Args:
            given: (N, C - 1, H, W) what the image has to agree with: labels, and the hole if there is one.
            image: (N, 1, H, W) in [-1, 1].

        Returns:
            Logits (N, 1, h, w) of each scale, high for real; 30 x 30 patches of 34 x 34 pixels for 128 x 128
            pixels and three widths.
        """
        both = torch.cat([given, image], dim=1)
        return [scale(both) for scale in self.scales]


def _patch_gan(in_channels: int, widths: Sequence[int], config: Pix2PixConfig) -> nn.Sequential:
    """Return 4 x 4 convolutions: stride 2 for all widths but the last, stride 1 for it and for the logits."""
    layers: list[nn.Module] = []
    for stage, (before, after) in enumerate(zip((in_channels, *widths[:-1]), widths, strict=True)):
        stride = 1 if stage == len(widths) - 1 else 2
        layers.append(_bounded(nn.Conv2d(before, after, 4, stride, padding=1), config))
        if stage > 0 and not config.spectral_norm:
            layers.append(normalisation(after, config.normalisation))
        layers.append(nn.LeakyReLU(0.2))
    return nn.Sequential(*layers, _bounded(nn.Conv2d(widths[-1], 1, 4, stride=1, padding=1), config))


def _bounded(convolution: nn.Conv2d, config: Pix2PixConfig) -> nn.Module:
    return spectral_norm(convolution) if config.spectral_norm else convolution


_WIDTHS = (16, 32, 48)


class TissueReader(nn.Module):
    """A U-Net of three sizes from an image to a logit for each tissue and pixel.

    Args:
        num_classes: Tissues of the label set.
    """

    def __init__(self, num_classes: int):
        super().__init__()
        befores = (1, *_WIDTHS[:-1])
        self.down = nn.ModuleList(_block(before, after) for before, after in zip(befores, _WIDTHS, strict=True))
        shallower = tuple(reversed(_WIDTHS[:-1]))
        deeper = tuple(reversed(_WIDTHS[1:]))
        self.up = nn.ModuleList(_block(low + high, high) for low, high in zip(deeper, shallower, strict=True))
        self.head = nn.Conv2d(_WIDTHS[0], num_classes, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, C, H, W) for images (N, 1, H, W) in [-1, 1]; H and W are multiples of 4."""
        skips: list[Tensor] = []
        features = images
        for number, stage in enumerate(self.down):
            features = stage(F.avg_pool2d(features, 2) if number else features)
            skips.append(features)
        features = skips.pop()
        for stage in self.up:
            features = stage(torch.cat([F.interpolate(features, scale_factor=2.0), skips.pop()], dim=1))
        return self.head(features)


def reading_loss(logits: Tensor, masks: Tensor, tissue_weights: Tensor, region: Tensor | None = None) -> Tensor:
    """Return the cross-entropy of logits (N, C, H, W) against masks (N, H, W), weighted by tissue (C,).

    With a region (N, H, W) of 0 and 1, that of its pixels; 0 where it has none.
    """
    if region is None:
        return cross_entropy(logits.float(), masks, tissue_weights)
    by_pixel = cross_entropy(logits.float(), masks, tissue_weights, "none")
    return (by_pixel * region).sum() / (tissue_weights[masks] * region).sum().clamp_min(1e-6)


def _block(before: int, after: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers += [nn.Conv2d(channels, after, kernel_size=3, padding=1), nn.GroupNorm(8, after), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers)
