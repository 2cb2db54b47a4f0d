"""The discriminator: PatchGANs that judge overlapping patches of (labels, image).

Architecture: Isola et al. 2017, as shallow as the infarct-synthesis study's last configuration; a second one
with smaller patches, on choice, minds the grain alone (Wang et al. 2018 judge at several scales too).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from gan.config import Pix2PixConfig
from gan.generator import normalisation


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
