"""Operations that networks and losses share, in forms of their own with the usual values.

Of some a GPU's usual kernels add in an order of their own: these have a form that gives the same bits each time. Where
deterministic kernels were chosen (`runtime.compute`) PyTorch refuses the usual form: the loss of label maps, and
the gradients of adaptive pooling and of reflected borders. Everywhere else the usual form is taken, which is faster.

A 3 × 3 convolution of an enlarged map is made without ever building that map. A map whose pixels are repeated holds
each value four times, so most of the convolution's nine products repeat, too: two to four of its weights meet the same
value and can be added up first. What is left is a transposed convolution of a 4 × 4 kernel with stride 2: the same
result (with zeros beyond the border) for four products a pixel instead of nine.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def cross_entropy(logits: Tensor, mask: Tensor, weight: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """Return the cross-entropy of logits (N, C, H, W) and label values (N, H, W), averaged by the classes' weights.

    With `reduction` none it is that of each pixel (N, H, W), times its weight.
    """
    if not torch.are_deterministic_algorithms_enabled():
        return F.cross_entropy(logits, mask, weight=weight, reduction=reduction)
    surprise = -logits.log_softmax(dim=1).gather(1, mask.unsqueeze(1)).squeeze(1)
    weights = torch.ones_like(surprise) if weight is None else weight[mask]
    by_pixel = weights * surprise
    return by_pixel if reduction == "none" else by_pixel.sum() / weights.sum()


def average_cells(x: Tensor, grid: int) -> Tensor:
    """Average (N, C, H, W) over the cells of a grid: (N, C, grid, grid)."""
    if not torch.are_deterministic_algorithms_enabled():
        return F.adaptive_avg_pool2d(x, grid)
    down, across = (_cells(grid, side, x) for side in x.shape[2:])
    return down @ x @ across.T


def largest(x: Tensor) -> Tensor:
    """Return the largest value of each channel of (N, C, H, W): (N, C, 1, 1)."""
    if not torch.are_deterministic_algorithms_enabled():
        return F.adaptive_max_pool2d(x, 1)
    return x.flatten(2).max(dim=2).values[:, :, None, None]


def reflected(x: Tensor, margin: int) -> Tensor:
    """Widen (N, C, H, W) by `margin` pixels on each side, as mirrored at the outermost pixels."""
    if not torch.are_deterministic_algorithms_enabled():
        return F.pad(x, [margin] * 4, mode="reflect")
    for dim in (2, 3):
        side = x.shape[dim]
        first, last = x.narrow(dim, 1, margin).flip(dim), x.narrow(dim, side - 1 - margin, margin).flip(dim)
        x = torch.cat([first, x, last], dim=dim)
    return x


def _cells(grid: int, side: int, like: Tensor) -> Tensor:
    """Return (grid, side): how much each pixel counts in the mean of each cell; cells may share a pixel."""
    cells, places = torch.arange(grid, device=like.device)[:, None], torch.arange(side, device=like.device)
    first, end = cells * side // grid, ((cells + 1) * side + grid - 1) // grid
    return ((places >= first) & (places < end)).to(like.dtype) / (end - first)


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
