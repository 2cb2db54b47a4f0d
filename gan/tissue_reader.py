"""A small network that reads the tissues back out of a slice, so that a drawing has to show what its mask says.

It learns on the real training slices alone, beside the generator; what it reads in drawn slices teaches the
generator (the semantic consistency of Hoffman et al. 2018, CyCADA, section 3). It is no part of the result.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


def reading_loss(logits: Tensor, masks: Tensor, tissue_weights: Tensor) -> Tensor:
    """Return the cross-entropy of logits (N, C, H, W) against masks (N, H, W), weighted by tissue (C,)."""
    return F.cross_entropy(logits.float(), masks, weight=tissue_weights)


def _block(before: int, after: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers += [nn.Conv2d(channels, after, kernel_size=3, padding=1), nn.GroupNorm(8, after), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers)
