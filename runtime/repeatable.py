"""Operations of which a GPU's usual kernels add in an order of their own, in a form that gives the same bits each time.

Where deterministic kernels were chosen (`runtime.compute`) PyTorch refuses the usual form: the loss of label maps, and
the gradients of adaptive pooling and of reflected borders. Everywhere else the usual form is taken, which is faster.
"""

import torch
from torch import Tensor
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
