"""HALSR-Net's hybrid attention pooling module (HAPM) and its parts (Fakhfakh et al. 2025)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
            cells = F.adaptive_avg_pool2d(x, grid).flatten(2).transpose(1, 2)  # (N, grid², I)
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
        average, maximum = x.mean(dim=(2, 3), keepdim=True), F.adaptive_max_pool2d(x, 1)
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
