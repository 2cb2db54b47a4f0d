"""HALSR-Net: a U-Net with hybrid attention pooling skips and a latent reconstruction branch (source B).

HALSR-Net's hybrid attention pooling module (HAPM) and its parts (Fakhfakh et al. 2025).

HALSR-Net's latent-space reconstruction module (Fakhfakh et al. 2025).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runtime.operations import average_cells, largest
from segmentation.networks.blocks import (
    AttentionGate,
    ConvolutionPair,
    SegmentationNetwork,
    SegmentationOutput,
    check_image,
    initialise,
    upsample_smoothly,
)

if TYPE_CHECKING:
    from segmentation.training.config import NetworkConfig


class HybridAttentionPooling(nn.Module):
    """Gathers context at many scales, weighs it by channel and by pixel, and adds its input's projection.

    (a) atrous pyramid and (b) pooling pyramid of the input each go through channel attention and, side by
    side, through spatial attention; all four results are concatenated, reduced by a 1 × 1 convolution and
    added to a 1 × 1 projection of the input.

    Put right against the published code: spatial attention is a map with a value for every pixel
    (`SpatialAttention`), and channel attention ends in a sigmoid (`ChannelAttention`).

    Shapes: (N, I, H, W) → (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, module_width: int, out_channels: int) -> None:
        super().__init__()
        self.atrous = AtrousPyramid(in_channels, module_width)
        self.pooling = PoolingPyramid(in_channels)
        widths = (module_width, self.pooling.out_channels)
        self.channel_attention = nn.ModuleList(ChannelAttention(width) for width in widths)
        self.spatial_attention = nn.ModuleList(SpatialAttention() for _ in widths)
        self.fuse = nn.Conv2d(2 * sum(widths), out_channels, 1)
        self.project = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, I, H, W) to (N, out_channels, H, W)."""
        weighed = []
        for part, channel, spatial in zip(
            (self.atrous(x), self.pooling(x)), self.channel_attention, self.spatial_attention, strict=True
        ):
            weighed += [channel(part), spatial(part)]
        return self.fuse(torch.cat(weighed, dim=1)) + self.project(x)


class AtrousPyramid(nn.Module):
    """Atrous spatial pyramid pooling: four dilated 3 × 3 convolutions and the global average, fused by 1 × 1.

    Shapes: (N, I, H, W) → (N, width, H, W).
    """

    def __init__(self, in_channels: int, width: int, dilations: Sequence[int] = (1, 6, 12, 18)) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(in_channels, width, 3, padding=dilation, dilation=dilation) for dilation in dilations
        )
        self.average = nn.Conv2d(in_channels, width, 1)
        self.fuse = nn.Sequential(
            nn.Conv2d(width * (len(dilations) + 1), width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, I, H, W) to (N, width, H, W)."""
        maps = [F.relu(branch(x), inplace=True) for branch in self.branches]
        average = F.relu(self.average(x.mean(dim=(2, 3), keepdim=True)), inplace=True)
        maps.append(average.expand_as(maps[0]))
        return self.fuse(torch.cat(maps, dim=1))


class PoolingPyramid(nn.Module):
    """Spatial pyramid pooling: averages on grids of 1, 2 and 4 cells a side, resized back and concatenated.

    Shapes: (N, I, H, W) → (N, 3 · I, H, W).
    """

    def __init__(self, in_channels: int, grids: Sequence[int] = (1, 2, 4)) -> None:
        super().__init__()
        self.grids = tuple(grids)
        self.out_channels = in_channels * len(self.grids)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, I, H, W) to (N, grids · I, H, W)."""
        count, _, height, width = x.shape
        maps = []
        for grid in self.grids:
            cells = average_cells(x, grid).flatten(2).transpose(1, 2)  # (N, grid², I)
            maps.append(_bilinear_shares(grid, x) @ cells)
        joined = torch.cat(maps, dim=2).view(count, height, width, self.out_channels)
        return joined.permute(0, 3, 1, 2)


def _bilinear_shares(grid: int, like: Tensor) -> Tensor:
    """Return (H · W, grid²): how much of each cell every pixel of (N, I, H, W) takes when the grid is enlarged to it.

    As a matrix product the enlargement and its gradient take less time than `interpolate`'s on a CPU, and the result
    lies in memory as `channels_last` wants it.
    """
    cells = torch.eye(grid * grid, dtype=like.dtype, device=like.device).view(1, -1, grid, grid)
    return F.interpolate(cells, size=like.shape[2:], mode="bilinear", align_corners=False)[0].flatten(1).T


class ChannelAttention(nn.Module):
    """Weighs each channel by a value in [0, 1] from its average and its maximum (Woo et al. 2018, CBAM).

    Put right against the published code, which leaves out the sigmoid. Shapes: (N, C, H, W) → (N, C, H, W).
    """

    def __init__(self, channels: int, ratio: int = 16) -> None:
        super().__init__()
        inner = max(channels // ratio, 4)
        self.perceptron = nn.Sequential(
            nn.Conv2d(channels, inner, 1), nn.ReLU(inplace=True), nn.Conv2d(inner, channels, 1)
        )

    def attention(self, x: Tensor) -> Tensor:
        """Return the channels' weights (N, C, 1, 1) in [0, 1]."""
        average, maximum = x.mean(dim=(2, 3), keepdim=True), largest(x)
        return torch.sigmoid(self.perceptron(average) + self.perceptron(maximum))

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` with its channels weighed."""
        return x * self.attention(x)


class SpatialAttention(nn.Module):
    """Weighs each pixel by a value in [0, 1] from its mean and maximum over channels (Woo et al. 2018, CBAM).

    Put right against the published code, whose "spatial attention" pools space away first and so is one
    scalar an image. Shapes: (N, C, H, W) → (N, C, H, W).
    """

    def __init__(self, kernel: int = 7) -> None:
        super().__init__()
        self.score = nn.Conv2d(2, 1, kernel, padding=kernel // 2)

    def attention(self, x: Tensor) -> Tensor:
        """Return the pixels' weights (N, 1, H, W) in [0, 1]."""
        summary = torch.cat([x.mean(dim=1, keepdim=True), x.max(dim=1, keepdim=True).values], dim=1)
        return torch.sigmoid(self.score(summary))

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` with its pixels weighed."""
        return x * self.attention(x)


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


class HalsrNet(SegmentationNetwork):
    """Four encoder stages, hybrid attention pooling on each pooled map, gated decoder, latent reconstruction.

    The published defects are put right where they lie: `HybridAttentionPooling` (per-pixel spatial
    attention, sigmoid in channel attention) and `LatentReconstruction` (a class map with a loss of its own,
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


def build(config: "NetworkConfig", num_classes: int) -> HalsrNet:
    """Build the network of a configuration."""
    return HalsrNet(
        num_classes=num_classes,
        widths=config.widths,
        bottleneck=config.bottleneck,
        module_width=config.module_width,
        dropout=config.dropout,
    )
