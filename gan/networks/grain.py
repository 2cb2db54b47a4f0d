"""Grain laid on a drawing: noise of given smoothness, as strong at each pixel as the network says.

A decoder that is asked for grain weaves a regular pattern, the same in every slice; noise that is only to be
scaled is the easier way. Magnitude images of the scanner are interpolated, so their noise is smooth over a
pixel or two.

A Gaussian blur that gradients pass through.
"""

import math
from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runtime.compute import send

_REACH = 5 / 1.5  # sigmas: the 11 pixels of Wang et al. 2004 for their 1.5


def blur(images: Tensor, sigma_px: float) -> Tensor:
    """Return images (N, 1, H, W) under a Gaussian, borders reflected."""
    kernel = _kernel(sigma_px, images.dtype, images.device)
    padded = F.pad(images, [len(kernel) // 2] * 4, mode="reflect")
    rows = F.conv2d(padded, kernel.view(1, 1, -1, 1))
    return F.conv2d(rows, kernel.view(1, 1, 1, -1))


@cache
def _kernel(sigma_px: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # else no gradient could pass where a drawing asked for it first
        return send(torch.tensor(gaussian(sigma_px), dtype=dtype), device)


def gaussian(sigma_px: float) -> list[float]:
    """Return the weights of a Gaussian, which sum to 1; their number is odd."""
    reach = math.ceil(_REACH * sigma_px)
    weights = [math.exp(-0.5 * (offset / sigma_px) ** 2) for offset in range(-reach, reach + 1)]
    total = sum(weights)
    return [weight / total for weight in weights]


_FIRST_STRENGTH = 0.05  # of an image in [-1, 1]


class GrainHead(nn.Module):
    """Says from features how strong noise of each smoothness is, and lays it on.

    Args:
        in_channels: Channels of the features.
        smoothness_px: Deviations of the Gaussians that smooth the noise; 0 leaves it white.
    """

    def __init__(self, in_channels: int, smoothness_px: Sequence[float]):
        super().__init__()
        self.smoothness_px = tuple(smoothness_px)
        self.strength = nn.Conv2d(in_channels, len(self.smoothness_px), kernel_size=3, padding=1)
        with torch.no_grad():
            self.strength.weight.mul_(0.1)
        nn.init.constant_(self.strength.bias, _inverse_softplus(_FIRST_STRENGTH))  # type: ignore[arg-type]

    def forward(self, features: Tensor, noise: Tensor) -> Tensor:
        """Return the grain (N, 1, H, W) for features (N, C, H, W) and Gaussian noise (N, 1, H, W) of deviation 1."""
        bands = torch.cat([smooth_noise(noise, sigma) for sigma in self.smoothness_px], dim=1)
        return (F.softplus(self.strength(features)) * bands).sum(dim=1, keepdim=True)


def smooth_noise(noise: Tensor, sigma_px: float) -> Tensor:
    """Return white noise (N, 1, H, W) smoothed and brought back to its deviation."""
    if sigma_px == 0:
        return noise
    return blur(noise, sigma_px) / sum(weight**2 for weight in gaussian(sigma_px))


def _inverse_softplus(value: float) -> float:
    return math.log(math.expm1(value))
