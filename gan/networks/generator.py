"""The generator: a U-Net from a condition (labels, context, noise) to an image in [-1, 1].

Architecture: Isola et al. 2017 as the infarct-synthesis study configured it, with upsampling, normalisation
and a last layer at full resolution selectable. What does not live here: how the condition is made
(`gan.generation.synthesiser`).

Grain is laid on a drawing: noise of given smoothness, as strong at each pixel as the network says. A decoder that is
asked for grain weaves a regular pattern, the same in every slice; noise that is only to be scaled is the easier way.
Magnitude images of the scanner are interpolated, so their noise is smooth over a pixel or two.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import InputError
from gan.training.config import Pix2PixConfig
from runtime.compute import send
from runtime.operations import EnlargedConvolution, reflected

_FIRST_NOISE = 0.1  # of normalised features; from 0 it would take a thousand steps to be heard


class Generator(nn.Module):
    """A U-Net of stride-2 stages with a skip at every size.

    Args:
        in_channels: Channels of the condition; its last `noise_channels` are the noise.
        config: Widths, upsampling, normalisation, dropout, and what the decoder is given again.
    """

    def __init__(self, in_channels: int, config: Pix2PixConfig):
        super().__init__()
        widths = config.widths
        self.depth = len(widths)
        self.down = nn.ModuleList(
            _down(before, after, config, stage > 0 and (config.normalise_innermost or stage < self.depth - 1))
            for stage, (before, after) in enumerate(zip((in_channels, *widths[:-1]), widths, strict=True))
        )
        ups = tuple(reversed(widths[:-1]))
        # Labels and shades come first in a condition.
        self.labels = in_channels - config.noise_channels - 2 * int(config.context) if config.decoder_labels else 0
        inputs = (widths[-1], *(2 * width + self.labels for width in ups[:-1]))
        self.up = nn.ModuleList(
            _up(before, after, config, dropout=config.dropout if stage < 2 else 0.0)
            for stage, (before, after) in enumerate(zip(inputs, ups, strict=True))
        )
        strengths = ups if config.decoder_noise else ()
        self.noise_strength = nn.ParameterList(torch.full((width, 1, 1), _FIRST_NOISE) for width in strengths)
        self.noise_channels = config.noise_channels
        self.head = _Head(2 * widths[0] + self.labels, in_channels, config)

    def forward(self, condition: Tensor, apart: bool = False) -> Tensor:
        """Draw images.

        Args:
            condition: (N, C, H, W); H and W are multiples of 2 ** depth.
            apart: Return what is drawn and the grain laid on it side by side, for `together`.

        Returns:
            (N, 1, H, W) in [-1, 1]; (N, 2, H, W) with `apart` and `grain_px`.
        """
        _check_size(condition, self.depth)
        features = condition
        skips = []
        for stage in self.down:
            features = stage(features)
            skips.append(features)
        features = skips.pop()
        for number, stage in enumerate(self.up):
            features = self._with_noise(stage(features), condition, number)
            features = torch.cat([features, skips.pop(), *self._labels_again(condition, features)], dim=1)
        parts: Tensor = self.head(features, condition)
        return parts if apart else together(parts)

    def _with_noise(self, features: Tensor, condition: Tensor, stage: int) -> Tensor:
        """Add noise by a learned strength a channel (Karras et al. 2019); each size takes pixels of its own."""
        if not len(self.noise_strength):
            return features
        stride = condition.shape[-1] // features.shape[-1]
        plane = condition.shape[1] - 1 - stage % self.noise_channels
        noise = condition[:, plane : plane + 1, stride // 2 :: stride, stride // 2 :: stride]
        return features + self.noise_strength[stage] * noise

    def _labels_again(self, condition: Tensor, features: Tensor) -> list[Tensor]:
        """Return the share of each label in the pixels of this size, or nothing where it is not given."""
        if not self.labels:
            return []
        stride = condition.shape[-1] // features.shape[-1]
        return [F.avg_pool2d(condition[:, : self.labels], stride)]


def together(parts: Tensor) -> Tensor:
    """Lay grain on a drawing: (N, 1 or 2, H, W) to (N, 1, H, W) in [-1, 1]."""
    return parts.sum(dim=1, keepdim=True).clamp(-1, 1) if parts.shape[1] > 1 else parts


class _Head(nn.Module):
    """The last upsampling, to one channel; with `full_resolution_width` it also sees the condition itself."""

    def __init__(self, in_channels: int, condition_channels: int, config: Pix2PixConfig):
        super().__init__()
        width = config.full_resolution_width
        self.sees_condition = width > 0
        self.steep = 1.0 if config.output == "tanh" else 0.5  # 2 sigmoid(x) - 1 = tanh(x / 2)
        self.upsample = upsampling(in_channels, width or 1, config.upsampling)
        self.refine = nn.Sequential(
            nn.LeakyReLU(0.2),
            nn.Conv2d(width + condition_channels, width, kernel_size=3, padding=1),
            nn.LeakyReLU(0.2),
        ) if width else nn.Identity()  # fmt: skip
        self.draw = nn.Conv2d(width, 1, kernel_size=3, padding=1) if width else nn.Identity()
        self.grain = GrainHead(width, config.grain_px) if config.grain_px else None

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        features = self.upsample(features)
        if self.sees_condition:
            features = torch.cat([features, condition], dim=1)
        features = self.refine(features)
        drawn = torch.tanh(self.steep * self.draw(features))
        return drawn if self.grain is None else torch.cat([drawn, self.grain(features, condition[:, -1:])], dim=1)


def upsampling(in_channels: int, out_channels: int, kind: str, bias: bool = True) -> nn.Module:
    """Return a layer that doubles height and width.

    `transposed` is the published 4 x 4 stride-2 convolution. `resize` (nearest neighbour, then 3 x 3; Odena
    et al. 2016) treats the four pixels of a block alike and so leaves no grid.
    """
    if kind == "transposed":
        return nn.ConvTranspose2d(in_channels, out_channels, kernel_size=4, stride=2, padding=1, bias=bias)
    # "1": what trained models call its weights.
    return nn.Sequential(OrderedDict({"1": EnlargedConvolution(in_channels, out_channels, bias)}))


def normalisation(channels: int, kind: str) -> nn.Module:
    """Return a normalisation layer with a learned scale and shift."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.InstanceNorm2d(channels, affine=True)


def _down(before: int, after: int, config: Pix2PixConfig, normalised: bool) -> nn.Module:
    convolution = nn.Conv2d(before, after, kernel_size=4, stride=2, padding=1, bias=not normalised)
    layers: list[nn.Module] = [convolution]
    if normalised:
        layers.append(normalisation(after, config.normalisation))
    return nn.Sequential(*layers, nn.LeakyReLU(0.2))


def _up(before: int, after: int, config: Pix2PixConfig, dropout: float) -> nn.Module:
    layers: list[nn.Module] = [
        upsampling(before, after, config.upsampling, bias=False),
        normalisation(after, config.normalisation),
    ]
    if dropout > 0:
        layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.ReLU())


def _check_size(condition: Tensor, depth: int) -> None:
    height, width = condition.shape[-2:]
    if height % 2**depth or width % 2**depth:
        raise InputError(
            f"generator: {height} x {width} pixels cannot be halved {depth} times; "
            f"use a region that is a multiple of {2**depth} or fewer widths"
        )


_REACH = 5 / 1.5  # sigmas: the 11 pixels of Wang et al. 2004 for their 1.5


def blur(images: Tensor, sigma_px: float) -> Tensor:
    """Return images (N, 1, H, W) under a Gaussian, borders reflected."""
    kernel = _kernel(sigma_px, images.dtype, images.device)
    padded = reflected(images, len(kernel) // 2)
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
