"""Attention Res-UNet: a residual U-Net of five stages with an attention gate on every skip (source A)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmentation.networks.blocks import (
    AttentionGate,
    JoiningResidualBlock,
    ResidualBlock,
    SegmentationNetwork,
    SegmentationOutput,
    check_image,
    initialise,
)

if TYPE_CHECKING:
    from segmentation.training.config import NetworkConfig


class AttentionResUNet(SegmentationNetwork):
    """Five down- and five up-sampling stages of residual blocks with additive attention gates on every skip.

    The source names the parts but gives no widths; 64, 128, 256, 512, 512 with a bottleneck of 512 are ours.
    Its softmax is left to the loss and to the predictor: `forward` returns logits.

    Shapes: (N, in_channels, H, W) → logits (N, num_classes, H, W); H and W are multiples of 2 ** len(widths).

    Args:
        in_channels: Channels of the image.
        num_classes: Label values, background included.
        widths: Channels of each stage, from full resolution down.
        bottleneck: Channels of the coarsest map.
        dropout: Probability of dropping a bottleneck channel.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 5,
        widths: Sequence[int] = (64, 128, 256, 512, 512),
        bottleneck: int = 512,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.down = nn.ModuleList()
        channels = in_channels
        for width in widths:
            self.down.append(ResidualBlock(channels, width))
            channels = width
        self.bottleneck = ResidualBlock(channels, bottleneck)
        self.dropout = nn.Dropout2d(dropout)
        self.up = nn.ModuleList()
        channels = bottleneck
        for width in reversed(widths):
            self.up.append(DecoderStage(channels, width))
            channels = width
        self.head = nn.Conv2d(channels, num_classes, 1)
        initialise(self)

    def stage_statistics(self, x: Tensor) -> Tensor:
        """Return mean and standard deviation over pixels of every encoder stage's features: (N, 2 * sum(widths)).

        Unlike the bottleneck, which holds where tissues are, the first stages see grain and edges, and so tell a
        real slice from a painted one.
        """
        _, stages = self._encode(x)
        parts = [part for stage in stages for part in (stage.mean(dim=(2, 3)), stage.std(dim=(2, 3)))]
        return torch.cat(parts, dim=1)

    def _encode(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        check_image(x, self.in_channels, len(self.down))
        skips = []
        for stage in self.down:
            x = stage(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        return self.bottleneck(x), skips  # (N, bottleneck, H / 32, W / 32) with five stages

    def _decode(self, latent: Tensor, skips: Sequence[Tensor]) -> SegmentationOutput:
        y = self.dropout(latent)
        for stage, skip in zip(self.up, reversed(skips), strict=True):
            y = stage(y, skip)
        return SegmentationOutput(self.head(y), None)


class DecoderStage(nn.Module):
    """Enlarge, gate the skip, concatenate, residual block.

    Shapes: x (N, I, H / 2, W / 2), skip (N, O, H, W) → (N, O, H, W).
    """

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.gate = AttentionGate(width, in_channels, max(width // 2, 1), stride=2)
        self.block = JoiningResidualBlock(in_channels, width, width)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Join the coarse map `x` with the encoder's map `skip` of twice its size."""
        return self.block(x, self.gate(skip, x))


def build(config: "NetworkConfig", num_classes: int) -> AttentionResUNet:
    """Build the network of a configuration."""
    return AttentionResUNet(
        num_classes=num_classes,
        widths=config.widths,
        bottleneck=config.bottleneck,
        dropout=config.dropout[-1],
    )
