"""Building blocks that both networks share: convolution pairs, resizing, the output type, the size check.

Among them is the additive attention gate on a skip connection (Oktay et al. 2018, Attention U-Net). What does not live
here: HALSR-Net's own modules (`halsr_net`) and whole networks.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import InputError
from runtime.operations import EnlargedConvolution, convolve_enlarged


class SegmentationOutput(NamedTuple):
    """What a segmentation network returns.

    Attributes:
        logits: (N, C, H, W) class scores before the softmax.
        auxiliary: (N, C, H, W) class scores of a branch that deep supervision trains; None in evaluation mode
            and for networks without such a branch.
    """

    logits: Tensor
    auxiliary: Tensor | None


class SegmentationNetwork(nn.Module):
    """What training and prediction ask of a network; its two halves are `_encode` and `_decode`."""

    def forward(self, x: Tensor) -> SegmentationOutput:
        """Map images (N, in_channels, H, W) to logits (N, num_classes, H, W)."""
        return self._decode(*self._encode(x))

    def encode(self, x: Tensor) -> Tensor:
        """Return the bottleneck's features averaged over pixels: (N, D)."""
        return pooled_features(self._encode(x)[0])

    def segment_and_encode(self, x: Tensor) -> tuple[SegmentationOutput, Tensor]:
        """Return what `forward` and `encode` return, from one pass through the encoder."""
        latent, skips = self._encode(x)
        features = pooled_features(latent)
        return self._decode(latent, skips), features

    def _encode(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the bottleneck's features (N, D, h, w) and what the decoder takes besides."""
        raise NotImplementedError

    def _decode(self, latent: Tensor, skips: Sequence[Tensor]) -> SegmentationOutput:
        raise NotImplementedError


class _Residual(nn.Module):
    """The layers of a residual block: two 3 × 3 convolutions with batch normalisation, and a shortcut."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(out_channels)
        self.second = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
            )

    def finish(self, first: Tensor, shortcut: Tensor) -> Tensor:
        """Return the block's result from its first convolution's and its shortcut's (N, O, H, W)."""
        y = F.relu(self.first_norm(first), inplace=True)
        y = self.second_norm(self.second(y))
        return F.relu(y + shortcut, inplace=True)


class ResidualBlock(_Residual):
    """Two 3 × 3 convolutions with batch normalisation and ReLU, added to a shortcut.

    The shortcut is the identity where the widths agree, else a 1 × 1 convolution with batch normalisation.
    Shapes: (N, I, H, W) → (N, O, H, W).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, I, H, W) to (N, O, H, W)."""
        return self.finish(self.first(x), self.shortcut(x))


class JoiningResidualBlock(_Residual):
    """The residual block of an enlarged coarse map (first in its weights) and a skip map, joined by channels.

    A convolution of joined maps is the sum of theirs, and that of an enlarged map can be had from the map itself
    (`convolve_enlarged`; for 1 × 1 kernels by enlarging afterwards). So neither of the two large maps is built.

    Shapes: coarse (N, I, H / 2, W / 2), skip (N, S, H, W) → (N, O, H, W).
    """

    def __init__(self, coarse_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__(coarse_channels + skip_channels, out_channels)
        self.channels = [coarse_channels, skip_channels]

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """Join (N, I, H / 2, W / 2) and (N, S, H, W) to (N, O, H, W)."""
        of_coarse, of_skip = torch.split(self.first.weight, self.channels, dim=1)
        first = convolve_enlarged(coarse, of_coarse) + F.conv2d(skip, of_skip, padding=1)
        convolution, norm = self.shortcut.children()
        of_coarse, of_skip = torch.split(convolution.get_parameter("weight"), self.channels, dim=1)
        shortcut = norm(upsample(F.conv2d(coarse, of_coarse)) + F.conv2d(skip, of_skip))
        return self.finish(first, shortcut)


class ConvolutionPair(nn.Sequential):
    """Two 3 × 3 convolutions, each followed by ReLU and *then* batch normalisation.

    The order is HALSR-Net's (Fakhfakh et al. 2025, encoder). Shapes: (N, I, H, W) → (N, O, H, W), or twice as high and
    wide with `enlarges`, which repeats the pixels of the input first.
    """

    def __init__(self, in_channels: int, out_channels: int, enlarges: bool = False) -> None:
        first = EnlargedConvolution if enlarges else partial(nn.Conv2d, kernel_size=3, padding=1)
        super().__init__(
            first(in_channels, out_channels),
            nn.ReLU(inplace=True),
            nn.BatchNorm2d(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.BatchNorm2d(out_channels),
        )


def upsample(x: Tensor, factor: int = 2) -> Tensor:
    """Enlarge (N, C, H, W) to (N, C, factor · H, factor · W) by repeating pixels.

    The convolutions that follow smooth. On a CPU in bf16 this was measured twice as fast as bilinear
    enlargement, forward and backward.
    """
    return F.interpolate(x, scale_factor=float(factor), mode="nearest")


def upsample_smoothly(x: Tensor, factor: int = 2) -> Tensor:
    """Enlarge (N, C, H, W) to (N, C, factor · H, factor · W), bilinearly; for maps of few channels."""
    return F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)


def pooled_features(x: Tensor) -> Tensor:
    """Average (N, C, H, W) over its pixels: (N, C)."""
    return x.mean(dim=(2, 3))


def check_image(x: Tensor, in_channels: int, halvings: int) -> None:
    """Raise `InputError` unless `x` is (N, in_channels, H, W) with sides that halve `halvings` times."""
    if x.dim() != 4 or x.shape[1] != in_channels:
        raise InputError(
            f"the network takes images of shape (N, {in_channels}, H, W) but was given {tuple(x.shape)}; "
            "add the missing axis or choose a network with other input channels"
        )
    multiple = 2**halvings
    height, width = x.shape[2:]
    if height % multiple or width % multiple:
        working = sorted({size for side in (height, width) for size in _nearest_sizes(side, multiple)})
        raise InputError(
            f"image size {height} × {width} cannot be halved {halvings} times; both sides must be multiples "
            f"of {multiple}: the nearest sizes that work are {', '.join(map(str, working))}"
        )


def _nearest_sizes(side: int, multiple: int) -> tuple[int, ...]:
    below = side // multiple * multiple
    return (side,) if below == side else tuple(size for size in (below, below + multiple) if size)


def count_parameters(network: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def initialise(network: nn.Module) -> None:
    """Give every convolution He's normal weights, drawn from torch's current generator."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)


class AttentionGate(nn.Module):
    """Weighs each pixel of a skip map by how well it agrees with a gating signal.

    `map = sigmoid(psi(ReLU(W_x · skip + W_g · gate)))`, one value a pixel in [0, 1]; returns `skip · map`.

    As in the paper the map is formed on the gate's grid: with `stride` 2 the gate is the decoder's map before
    it is enlarged, and the attention map is enlarged to the skip's size.

    Shapes: skip (N, S, H, W), gate (N, G, H / stride, W / stride) → (N, S, H, W).
    """

    def __init__(self, skip_channels: int, gate_channels: int, inner_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.from_skip = nn.Conv2d(skip_channels, inner_channels, stride, stride=stride, bias=False)
        self.from_gate = nn.Conv2d(gate_channels, inner_channels, 1)
        self.score = nn.Conv2d(inner_channels, 1, 1)

    def attention(self, skip: Tensor, gate: Tensor) -> Tensor:
        """Return the attention map (N, 1, H, W) in [0, 1]."""
        agreement = F.relu(self.from_skip(skip) + self.from_gate(gate), inplace=True)
        attention = torch.sigmoid(self.score(agreement))
        return attention if self.stride == 1 else upsample_smoothly(attention, self.stride)

    def forward(self, skip: Tensor, gate: Tensor) -> Tensor:
        """Return the weighed skip map, shaped like `skip`."""
        return skip * self.attention(skip, gate)
