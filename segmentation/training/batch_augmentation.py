"""Random changes of a training batch on the device: geometry in one resampling, then intensities.

Parameters are drawn in one function and applied in another, so that a batch can be repeated. They are drawn
on the CPU from a seed, so that they are the same on every device; what runs on the device is arithmetic.
Images are sampled bilinearly and masks at the nearest pixel of the same grid, so that both always move
together; beyond the border both are mirrored.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from runtime.compute import send_together
from segmentation.training.config import DeviceAugmentConfig

_ELASTIC_NODES = 5


class BatchChanges(NamedTuple):
    """What happens to each slice of a batch.

    Attributes:
        matrix: (N, 2, 2) from offsets (x, y) of the result to offsets in the source, both from the middle.
        shift_px: (N, 2) x and y added in the source.
        elastic_px: (N, 2, K, K) displacements x and y at the nodes of a coarse grid.
        gamma, contrast, brightness, noise: (N,) exponent, factor, summand, standard deviation.
        size: Side of the result in pixels.
        first, of: Where these slices begin in a batch that several processes share, and its length; None where they
            are the whole batch.
    """

    matrix: Tensor
    shift_px: Tensor
    elastic_px: Tensor
    gamma: Tensor
    contrast: Tensor
    brightness: Tensor
    noise: Tensor
    size: int
    first: int = 0
    of: int | None = None

    def part(self, rows: slice) -> "BatchChanges":
        """Return the changes of some slices of the batch, which then turn out as they do in the whole batch."""
        cut: dict[str, Any] = {name: part[rows] for name, part in self._asdict().items() if isinstance(part, Tensor)}
        return self._replace(**cut, first=rows.indices(len(self.gamma))[0], of=len(self.gamma))


def draw_changes(
    config: DeviceAugmentConfig | None, count: int, region_px: int, crop_px: int | None, seed: int
) -> BatchChanges:
    """Draw the changes of `count` slices of side `region_px`.

    Args:
        config: Ranges; None changes nothing but the window.
        count: Slices in the batch.
        region_px: Side of the stored slices.
        crop_px: Side of a randomly placed window; None takes the whole region.
        seed: Decides everything.
    """
    generator = torch.Generator().manual_seed(seed)
    size = crop_px or region_px
    changes = _window_only(count, region_px, size, generator)
    if config is None:
        return changes
    return _with_intensities(_with_geometry(changes, config, generator), config, generator)


def apply_changes(images: Tensor, masks: Tensor, changes: BatchChanges, seed: int) -> tuple[Tensor, Tensor]:
    """Apply the changes to a batch.

    Args:
        images: (N, 1, H, W) float32 in [0, 1].
        masks: (N, H, W) label values.
        changes: What `draw_changes` gave.
        seed: Of the noise, drawn on the device.

    Returns:
        Images (N, 1, S, S) in [0, 1] and masks (N, S, S) with `S = changes.size`.
    """
    noise_seed = seed if bool((changes.noise > 0).any()) else None  # asked before the move: no waiting for a GPU
    changes = _to_device(changes, images.device)
    grid = sampling_grid(changes, images.shape[-1])
    moved = F.grid_sample(images, grid, "bilinear", "reflection", align_corners=False)
    labels = F.grid_sample(masks.unsqueeze(1).to(images.dtype), grid, "nearest", "reflection", align_corners=False)
    return _change_intensities(moved, changes, noise_seed), labels.squeeze(1).to(masks.dtype)


def sampling_grid(changes: BatchChanges, region_px: int) -> Tensor:
    """Return (N, S, S, 2): for each result pixel, x and y in the source, -1 to 1 from edge to edge.

    Elastic displacement, matrix and shift are each a sum of products of a function of the row and one of the column,
    so the whole grid is two small matrix products, which a CPU does faster than it enlarges the nodes.
    """
    functions = _functions_of_place(changes.size, changes.matrix.device)  # (S, K + 2)
    factors = F.pad(changes.elastic_px, (0, 2, 0, 2))  # (N, 2, K + 2, K + 2): of each row's with each column's
    factors[:, :, -1, -2] = changes.matrix[:, :, 0]
    factors[:, :, -2, -1] = changes.matrix[:, :, 1]
    factors[:, :, -1, -1] = changes.shift_px
    return (functions @ (factors * (2 / region_px)) @ functions.T).permute(0, 2, 3, 1)


def _to_device(changes: BatchChanges, device: torch.device) -> BatchChanges:
    parts = {name: part for name, part in changes._asdict().items() if isinstance(part, Tensor)}
    moved: dict[str, Any] = dict(zip(parts, send_together(list(parts.values()), device), strict=True))
    return changes._replace(**moved)


def _window_only(count: int, region_px: int, size: int, generator: torch.Generator) -> BatchChanges:
    room = region_px - size
    corner = torch.randint(0, room + 1, (count, 2), generator=generator).float()
    return BatchChanges(
        matrix=torch.eye(2).expand(count, 2, 2),
        shift_px=corner - room / 2,
        elastic_px=torch.zeros(count, 2, _ELASTIC_NODES, _ELASTIC_NODES),
        gamma=torch.ones(count),
        contrast=torch.ones(count),
        brightness=torch.zeros(count),
        noise=torch.zeros(count),
        size=size,
    )


def _with_geometry(changes: BatchChanges, config: DeviceAugmentConfig, generator: torch.Generator) -> BatchChanges:
    count = len(changes.gamma)
    on = _coin(count, config.probability, generator)
    angle = on * torch.deg2rad(_uniform(count, -config.rotation_degrees, config.rotation_degrees, generator))
    scale = _log_uniform(count, *config.scale, generator) ** on
    matrix = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(count, 2, 2)
    mirrors = 1 - 2 * torch.stack([_coin(count, 0.5 * config.flips, generator) for _ in range(2)], dim=1)
    shift = torch.stack([on * _uniform(count, -config.shift_px, config.shift_px, generator) for _ in range(2)], dim=1)
    bend = torch.randn(changes.elastic_px.shape, generator=generator) * config.elastic_px
    return changes._replace(
        matrix=matrix / scale.view(-1, 1, 1) * mirrors.unsqueeze(1),
        shift_px=changes.shift_px + shift,
        elastic_px=bend * on.view(-1, 1, 1, 1),
    )


def _with_intensities(changes: BatchChanges, config: DeviceAugmentConfig, generator: torch.Generator) -> BatchChanges:
    count = len(changes.gamma)
    on = _coin(count, config.probability, generator)
    return changes._replace(
        gamma=_log_uniform(count, *config.gamma, generator) ** on,
        contrast=1 + on * _uniform(count, -config.contrast, config.contrast, generator),
        brightness=on * _uniform(count, -config.brightness, config.brightness, generator),
        noise=on * _uniform(count, 0.0, config.noise, generator),
    )


def _functions_of_place(size: int, device: torch.device) -> Tensor:
    """Return (S, K + 2): for each place along a side the nodes' bicubic weights, the offset from the middle, one."""
    nodes = torch.eye(_ELASTIC_NODES, device=device)[None, None]
    weights = F.interpolate(nodes, size=(size, _ELASTIC_NODES), mode="bicubic", align_corners=True)[0, 0]
    offsets = torch.arange(size, device=device, dtype=torch.float32) - (size - 1) / 2
    return torch.cat([weights, offsets.unsqueeze(1), torch.ones_like(offsets).unsqueeze(1)], dim=1)


def _change_intensities(images: Tensor, changes: BatchChanges, noise_seed: int | None) -> Tensor:
    gamma, contrast, brightness, noise = (
        part.view(-1, 1, 1, 1) for part in (changes.gamma, changes.contrast, changes.brightness, changes.noise)
    )
    # In place from here on: less memory to go through. `pow` with an exponent a slice takes four times as long.
    images = images.clamp(0, 1).log_().mul_(gamma).exp_()
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images.mul_(contrast).add_(mean * (1 - contrast) + brightness)  # contrast about the mean
    if noise_seed is not None:
        generator = torch.Generator(images.device).manual_seed(noise_seed)
        shape = (changes.of or len(images), *images.shape[1:])
        drawn = torch.randn(shape, generator=generator, device=images.device)
        images.addcmul_(noise, drawn[changes.first : changes.first + len(images)])
    return images.clamp_(0, 1)


def _coin(count: int, probability: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(count, generator=generator) < probability).float()


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def _log_uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    ends = torch.tensor([low, high]).log()
    return torch.exp(ends[0] + (ends[1] - ends[0]) * torch.rand(count, generator=generator))
