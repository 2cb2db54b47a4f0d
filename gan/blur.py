"""A Gaussian blur that gradients pass through."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_REACH = 5 / 1.5  # sigmas: the 11 pixels of Wang et al. 2004 for their 1.5


def blur(images: Tensor, sigma_px: float) -> Tensor:
    """Return images (N, 1, H, W) under a Gaussian, borders reflected."""
    kernel = gaussian(sigma_px).to(images)
    padded = F.pad(images, [len(kernel) // 2] * 4, mode="reflect")
    rows = F.conv2d(padded, kernel.view(1, 1, -1, 1))
    return F.conv2d(rows, kernel.view(1, 1, 1, -1))


def gaussian(sigma_px: float) -> Tensor:
    """Return the weights of a Gaussian, which sum to 1; their number is odd."""
    reach = math.ceil(_REACH * sigma_px)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma_px).square())
    return kernel / kernel.sum()
