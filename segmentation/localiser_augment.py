"""Random views of slices for the localiser, drawn and applied a batch at a time on the device."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

from segmentation.localiser_config import LocaliserConfig


class Views(NamedTuple):
    """What is done to each slice of a batch: values drawn once, so that image and box move together."""

    turn: torch.Tensor  # (N, 2, 2): output coordinates to input coordinates
    shift: torch.Tensor  # (N, 2): place in the input of the output's centre
    gamma: torch.Tensor  # (N, 1, 1, 1)
    noise: torch.Tensor  # (N, 1, P, P)


def draw_views(config: LocaliserConfig, count: int, seed: int) -> Views:
    """Draw `count` views; the same seed gives the same views on every device."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator) * 2 - 1

    zoom = torch.exp(uniform(count, 1, 1) * math.log(config.scale))
    angle = uniform(count) * math.radians(config.rotation_degrees)
    mirror = torch.ones(count, 2)
    if config.flips:
        angle = angle + torch.randint(4, (count,), generator=generator) * (math.pi / 2)
        mirror[:, 0] = torch.randint(2, (count,), generator=generator) * 2.0 - 1.0
    cosine, sine = torch.cos(angle), torch.sin(angle)
    rotation = torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)
    gamma = torch.exp(uniform(count, 1, 1, 1) * math.log(config.gamma))
    strength = torch.rand((count, 1, 1, 1), generator=generator) * config.noise
    noise = torch.randn((count, 1, config.input_px, config.input_px), generator=generator) * strength
    # Coordinates run from -1 to 1, so a share of the field is twice as much there.
    return Views(rotation * mirror[:, None, :] * zoom, uniform(count, 2) * 2 * config.shift, gamma, noise)


def view_images(views: Views, images: torch.Tensor) -> torch.Tensor:
    """Return the slices (N, 1, P, P) as seen in the views; outside, they are mirrored: no edge tells the shift."""
    theta = torch.cat([views.turn, views.shift[:, :, None]], dim=2).to(images.device)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    seen = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False).clamp(0.0, 1.0)
    return (seen ** views.gamma.to(images.device) + views.noise.to(images.device)).clamp(0.0, 1.0)


def view_boxes(views: Views, points: torch.Tensor) -> torch.Tensor:
    """Return the boxes (N, 4) in shares, clipped, around outermost points (N, K, 2) as seen in the views."""
    turn, shift = views.turn.to(points.device), views.shift.to(points.device)
    seen = torch.linalg.solve(turn, (points - shift[:, None]).transpose(1, 2))  # (N, 2, K)
    boxes = torch.cat([seen.amin(dim=2), seen.amax(dim=2)], dim=1)
    return ((boxes + 1) / 2).clamp(0.0, 1.0)
