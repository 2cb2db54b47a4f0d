"""HALSR-Net's latent-space reconstruction module (Fakhfakh et al. 2025)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmentation.blocks import upsample_smoothly


class Reconstruction(NamedTuple):
    """What the latent code says about the image.

    Attributes:
        logits: (N, C, H, W) classes read from the bottleneck alone.
        features: (N, O, H, W) what is added to the decoder's last map.
    """

    logits: Tensor
    features: Tensor


class LatentReconstruction(nn.Module):
    """Reads the classes from the bottleneck alone, enlarges them and makes features for the decoder of them.

    Bottleneck × 1 × 1 sigmoid attention → squeeze-and-excitation → classes → enlarged → 1 × 1 features.

    Put right against the published code: the class map is returned too, so that it can have a loss of its own
    (deep supervision); there it is only added to the decoder and nothing makes it mean anything.

    The 1 × 1 convolution to the classes comes before the enlargement here and after it in the paper; both are
    linear and the bilinear weights sum to one, so the result is the same at a fraction of the work.

    Shapes: (N, I, H / factor, W / factor) → (N, C, H, W) and (N, O, H, W).
    """

    def __init__(self, in_channels: int, num_classes: int, out_channels: int, factor: int = 16) -> None:
        super().__init__()
        self.factor = factor
        self.score = nn.Conv2d(in_channels, 1, 1)
        self.excite = SqueezeExcitation(in_channels)
        self.classify = nn.Conv2d(in_channels, num_classes, 1)
        self.features = nn.Conv2d(num_classes, out_channels, 1)

    def attention(self, latent: Tensor) -> Tensor:
        """Return the attention map (N, 1, H / factor, W / factor) in [0, 1]."""
        return torch.sigmoid(self.score(latent))

    def forward(self, latent: Tensor) -> Reconstruction:
        """Map the bottleneck to class scores and features at full resolution."""
        weighed = self.excite(latent * self.attention(latent))
        logits = upsample_smoothly(self.classify(weighed), self.factor)
        return Reconstruction(logits, self.features(logits))


class SqueezeExcitation(nn.Module):
    """Weighs each channel by a value in [0, 1] from its average (Hu et al. 2018).

    Shapes: (N, C, H, W) → (N, C, H, W).
    """

    def __init__(self, channels: int, ratio: int = 16) -> None:
        super().__init__()
        inner = max(channels // ratio, 4)
        self.squeeze = nn.Conv2d(channels, inner, 1)
        self.expand = nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` with its channels weighed."""
        average = x.mean(dim=(2, 3), keepdim=True)
        return x * torch.sigmoid(self.expand(F.relu(self.squeeze(average), inplace=True)))
