"""A 3 × 3 convolution of an enlarged map, without ever building that map.

A map whose pixels are repeated holds each value four times, so most of the convolution's nine products repeat, too: two
to four of its weights meet the same value and can be added up first. What is left is a transposed convolution of a
4 × 4 kernel with stride 2: the same result (with zeros beyond the border) for four products a pixel instead of nine.
"""

import torch.nn.functional as F
from torch import Tensor, nn


def convolve_enlarged(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve `x` with each pixel repeated in a block of 2 × 2: (N, I, H, W) → (N, O, 2 · H, 2 · W).

    Args:
        x: (N, I, H, W).
        weight: (O, I, 3, 3), as `conv2d` takes it, with a padding of one pixel.
        bias: (O,) or None.
    """
    # Sums over blocks of 2 × 2 weights, those beyond the border counting as zero: (O, I, 4, 4). As four means, since an
    # export to ONNX forgets another divisor.
    sums = 4 * F.avg_pool2d(weight.flip(2, 3), 2, stride=1, padding=1)
    return F.conv_transpose2d(x, sums.transpose(0, 1), bias, stride=2, padding=1)


class EnlargedConvolution(nn.Conv2d):
    """Repeats each pixel in a block of 2 × 2 and convolves with 3 × 3 weights.

    Shapes: (N, I, H, W) → (N, O, 2 · H, 2 · W).
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, I, H, W) to (N, O, 2 · H, 2 · W)."""
        return convolve_enlarged(x, self.weight, self.bias)
