"""A Gaussian blur that gradients pass through."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from training.transfer import send

_REACH = 5 / 1.5  # sigmas: the 11 pixels of Wang et al. 2004 for their 1.5


def blur(images: Tensor, sigma_px: float) -> Tensor:
    """Return images (N, 1, H, W) under a Gaussian, borders reflected."""
    kernel = send(torch.tensor(gaussian(sigma_px), dtype=images.dtype), images.device)
    padded = F.pad(images, [len(kernel) // 2] * 4, mode="reflect")
    rows = F.conv2d(padded, kernel.view(1, 1, -1, 1))
    return F.conv2d(rows, kernel.view(1, 1, 1, -1))


def gaussian(sigma_px: float) -> list[float]:
    """Return the weights of a Gaussian, which sum to 1; their number is odd."""
    reach = math.ceil(_REACH * sigma_px)
    weights = [math.exp(-0.5 * (offset / sigma_px) ** 2) for offset in range(-reach, reach + 1)]
    total = sum(weights)
    return [weight / total for weight in weights]
