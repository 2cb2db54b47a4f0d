"""HALSR-Net: a U-Net with hybrid attention pooling skips and a latent reconstruction branch (source B)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmentation.attention_gate import AttentionGate
from segmentation.blocks import (
    ConvolutionPair,
    SegmentationNetwork,
    SegmentationOutput,
    check_image,
    initialise,
)
from segmentation.hybrid_attention_pooling import HybridAttentionPooling
from segmentation.latent_reconstruction import LatentReconstruction


class HalsrNet(SegmentationNetwork):
    """Four encoder stages, hybrid attention pooling on each pooled map, gated decoder, latent reconstruction.

    The published defects are put right where they lie: `hybrid_attention_pooling` (per-pixel spatial
    attention, sigmoid in channel attention) and `latent_reconstruction` (a class map with a loss of its own,
    returned as `auxiliary` while training).

    Shapes: (N, in_channels, H, W) → logits and auxiliary (N, num_classes, H, W); H and W are multiples of
    2 ** len(widths).

    Args:
        in_channels: Channels of the image.
        num_classes: Label values, background included.
        widths: Channels of each encoder stage; the decoder's are the same, reversed.
        bottleneck: Channels of the coarsest map.
        module_width: Filters of each branch of the attention pooling; its output has twice as many.
        dropout: Probabilities for each encoder stage and the bottleneck.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 5,
        widths: Sequence[int] = (64, 128, 256, 512),
        bottleneck: int = 512,
        module_width: int = 64,
        dropout: Sequence[float] = (0.25, 0.30, 0.35, 0.35, 0.5),
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.encoder = nn.ModuleList()
        self.attention_pooling = nn.ModuleList()
        self.decoder = nn.ModuleList()
        channels = in_channels
        for width, rate in zip(widths, dropout[:-1], strict=True):
            self.encoder.append(EncoderStage(channels, width, rate))
            self.attention_pooling.append(HybridAttentionPooling(width, module_width, 2 * module_width))
            channels = width
        self.bottleneck = nn.Sequential(ConvolutionPair(channels, bottleneck), nn.Dropout(dropout[-1]))
        channels = bottleneck
        for width in reversed(widths):
            self.decoder.append(GatedDecoderStage(channels, 2 * module_width, width))
            channels = width
        self.reconstruction = LatentReconstruction(bottleneck, num_classes, channels, 2 ** len(widths))
        self.head = nn.Conv2d(channels, num_classes, 1)
        initialise(self)

    def _encode(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        check_image(x, self.in_channels, len(self.encoder))
        pooled = []
        for stage in self.encoder:
            x = stage(x)
            pooled.append(x)
        return self.bottleneck(x), pooled  # (N, bottleneck, H / 16, W / 16) with four stages

    def _decode(self, latent: Tensor, skips: Sequence[Tensor]) -> SegmentationOutput:
        y = latent
        for stage, module, skip in zip(self.decoder, reversed(self.attention_pooling), reversed(skips), strict=True):
            y = stage(y, module(skip))
        reconstruction = self.reconstruction(latent)
        logits = self.head(y + reconstruction.features)
        return SegmentationOutput(logits, reconstruction.logits if self.training else None)


class EncoderStage(nn.Module):
    """Convolution pair, 2 × 2 maximum pooling, dropout: (N, I, H, W) → (N, width, H / 2, W / 2)."""

    def __init__(self, in_channels: int, width: int, dropout: float) -> None:
        super().__init__()
        self.convolutions = ConvolutionPair(in_channels, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, I, H, W) to (N, width, H / 2, W / 2)."""
        return self.dropout(F.max_pool2d(self.convolutions(x), 2))


class GatedDecoderStage(nn.Module):
    """Enlarge both maps, gate the skip, concatenate, convolution pair.

    Enlarging repeats pixels and the gate looks at one pixel at a time, so gating first and enlarging the joined map
    (within the pair's first convolution) gives the same at a quarter of the work.

    Shapes: x (N, I, H, W), skip (N, S, H, W) → (N, width, 2 · H, 2 · W).
    """

    def __init__(self, in_channels: int, skip_channels: int, width: int) -> None:
        super().__init__()
        self.gate = AttentionGate(skip_channels, in_channels, max(skip_channels // 2, 1))
        self.convolutions = ConvolutionPair(in_channels + skip_channels, width, enlarges=True)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Join the decoder's map `x` with the attention pooling map `skip` of the same size."""
        return self.convolutions(torch.cat([x, self.gate(skip, x)], dim=1))
