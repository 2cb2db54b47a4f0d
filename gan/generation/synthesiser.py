"""A generator ready to draw, and the noise it draws from.

Image `i` depends on the seed and `i` alone: its noise is derived from them, and the network always sees the
same groups of neighbours, so that neither the batch size nor the number of threads of the caller changes a
bit.

What the generator is given, and how its drawing is put into the slice.

Slices are [0, 1]; here they become [-1, 1], the gan's own range, and come back.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from common.errors import InputError
from common.seeds import derive_seed
from gan.generation.shades import ShadeBook, paint_shades, read_shades
from gan.networks.generator import Generator
from gan.training.config import Pix2PixConfig
from imaging.labels import LABEL_SETS, LabelSet, Tissue
from runtime.compute import Compute
from runtime.model_card import ModelCard
from runtime.model_folder import read_config, read_weights


@dataclass(frozen=True)
class Condition:
    """One batch of conditions.

    Attributes:
        labels: (N, K, H, W) one-hot tissues, or (N, 1, H, W) label values, as configured.
        context: (N, 1, H, W) in [-1, 1], 0 inside the hole; None without context.
        hole: (N, 1, H, W) 1 where the generator draws; None without context.
        noise: (N, noise_channels, H, W) Gaussian.
        shades: (N, 1, H, W) in [-1, 1] how bright each pixel's tissue shall be; None where it is not told.
        judged: The labels as the discriminator sees them; no channel where it does not.
        wall: (N, 1, H, W) 1 inside the wall where the hole is one of lesions, which fades towards the wall alone;
            else None.
    """

    labels: Tensor
    context: Tensor | None
    hole: Tensor | None
    noise: Tensor
    judged: Tensor
    shades: Tensor | None = None
    wall: Tensor | None = None

    def for_generator(self) -> Tensor:
        """Return everything as channels (N, C, H, W)."""
        parts = (self.labels, self.shades, self.context, self.hole, self.noise)
        return torch.cat([part for part in parts if part is not None], dim=1)

    def for_discriminator(self) -> Tensor:
        """Return what an image has to agree with: labels, if they are shown, and hole (the context is in the image)."""
        return self.judged if self.hole is None else torch.cat([self.judged, self.hole], dim=1)

    def place(self, drawn: Tensor, seam_px: int) -> Tensor:
        """Put a drawing (N, 1, H, W) into its context; without context it is the whole image.

        Outside the hole the result is the context itself. Just inside, over `seam_px` pixels, the drawing
        fades in over the context continued inwards; in a wall only over wall, or blood would shine into it.
        """
        if self.context is None or self.hole is None:
            return drawn
        faded = self.hole if self.wall is None else 1 - self.wall * (1 - self.hole)
        share = soft_share(faded, seam_px)
        inside = share * drawn + (1 - share) * continue_inwards(self.context, faded, seam_px)
        return torch.where(self.hole > 0, inside, self.context)


def generator_channels(config: Pix2PixConfig, labels: LabelSet) -> int:
    """Return how many channels `Condition.for_generator` has."""
    return _label_channels(config, labels) + int(config.shades) + 2 * int(config.context) + config.noise_channels


def discriminator_channels(config: Pix2PixConfig, labels: LabelSet) -> int:
    """Return how many channels `Condition.for_discriminator` and the image have together."""
    return int(config.discriminator_sees_mask) * _label_channels(config, labels) + int(config.context) + 1


def noise_planes(config: Pix2PixConfig) -> int:
    """Return how many planes of noise a condition takes: the generator's own, and one for the background."""
    return config.noise_channels + int(config.background_noise > 0)


def build_condition(
    config: Pix2PixConfig,
    labels: LabelSet,
    masks: Tensor,
    images: Tensor,
    holes: Tensor,
    noise: Tensor,
    shades: Tensor | None = None,
) -> Condition:
    """Make the condition of one batch.

    Args:
        config: Which parts are given.
        labels: The label set of `masks`.
        masks: (N, H, W) label values, integers.
        images: (N, 1, H, W) in [-1, 1]; only pixels outside the hole are used.
        holes: (N, 1, H, W) 1 inside the hole.
        noise: (N, noise_planes, H, W).
        shades: (N, num_classes) in [0, 1], which `shades` needs.
    """
    encoded = encode_labels(config, labels, masks)
    judged = encoded if config.discriminator_sees_mask else encoded[:, :0]
    own = noise[:, : config.noise_channels]
    if config.background_noise > 0:
        strength = config.background_noise * (masks == 0).unsqueeze(1).to(noise.dtype)
        encoded = torch.cat([encoded[:, :1] + strength * noise[:, -1:], encoded[:, 1:]], dim=1)
    if not config.context:
        return Condition(encoded, None, None, own, judged)
    painted = None if shades is None else paint_shades(masks, shades)
    wall = (masks >= int(Tissue.NORMAL_MYOCARDIUM)).unsqueeze(1).to(images.dtype) if config.paint == "lesion" else None
    return Condition(encoded, images * (1 - holes), holes, own, judged, painted, wall)


def encode_labels(config: Pix2PixConfig, labels: LabelSet, masks: Tensor) -> Tensor:
    """Return label maps (N, H, W) as channels: one holding the values as published, or one a tissue."""
    if config.label_input == "scalar":
        return masks.unsqueeze(1).float()
    return F.one_hot(masks.long(), labels.num_classes).permute(0, 3, 1, 2).float()


def soft_share(hole: Tensor, seam_px: int) -> Tensor:
    """Return the drawing's share (N, 1, H, W): 0 outside the hole, rising over `seam_px` pixels to 1."""
    share = hole
    shrunk = hole
    for _ in range(seam_px):
        shrunk = -F.max_pool2d(-shrunk, kernel_size=3, stride=1, padding=1)
        share = share + shrunk
    return share / (seam_px + 1)


def continue_inwards(context: Tensor, hole: Tensor, seam_px: int) -> Tensor:
    """Return the context (0 in the hole) continued into the hole by local means of what lies outside it."""
    known, filled = 1 - hole, context
    for _ in range(seam_px):
        reach = F.avg_pool2d(known, kernel_size=3, stride=1, padding=1)
        local = F.avg_pool2d(filled * known, kernel_size=3, stride=1, padding=1) / reach.clamp_min(1e-6)
        filled = torch.where(known > 0, filled, local)
        known = torch.maximum(known, (reach > 0).to(known.dtype))
    return filled


def to_gan_range(images: Tensor) -> Tensor:
    """Return images of [0, 1] in [-1, 1]."""
    return images * 2 - 1


def to_slice_range(images: Tensor) -> Tensor:
    """Return images of [-1, 1] in [0, 1], clipped."""
    return ((images + 1) / 2).clamp(0, 1)


def _label_channels(config: Pix2PixConfig, labels: LabelSet) -> int:
    return 1 if config.label_input == "scalar" else labels.num_classes


# The network's own batch: fixed, since the last bit of a convolution may depend on it.
GROUP = 16


@dataclass(frozen=True)
class Synthesiser:
    """A generator ready to draw.

    Attributes:
        generator: In evaluation mode, on the device, wrapped for its precision.
        config: Its configuration.
        labels: The label set it was trained on.
        compute: What it runs on.
        shades: What masks borrow their shades from; None without `shades`.
    """

    generator: nn.Module
    config: Pix2PixConfig
    labels: LabelSet
    compute: Compute
    shades: ShadeBook | None = None

    def draw(
        self,
        masks: NDArray[np.uint8],
        images: NDArray[np.floating],
        holes: NDArray[np.uint8],
        seeds: Sequence[int],
        shades: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Draw one image for each mask.

        Args:
            masks: (N, H, W) label values.
            images: (N, H, W) in [0, 1]: the real slices; with context, what lies outside the hole is kept as
                it is.
            holes: (N, H, W) 1 where to draw; not used without context.
            seeds: N seeds of the noise.
            shades: (N, num_classes) how bright tissues shall be; None to borrow them, see `gan.generation.shades`.

        Returns:
            (N, H, W) in [0, 1].
        """
        drawn = np.empty(masks.shape, np.float32)
        if shades is None:
            shades = self._borrowed(masks, images, holes, seeds)
        for start in range(0, len(masks), GROUP):
            rows = slice(start, start + GROUP)
            group = [np.asarray(part[rows]) for part in (masks, images, holes, shades)]
            drawn[rows] = self._draw_group(group, seeds[rows])
        if self.config.context:
            return np.where(holes > 0, drawn, np.asarray(images, dtype=np.float32))
        return drawn

    @torch.inference_mode()
    def _draw_group(self, group: Sequence[NDArray[np.generic]], seeds: Sequence[int]) -> NDArray[np.float32]:
        count = len(seeds)
        masks, images, holes, shades = (self._full_group(part) for part in group)
        size = (noise_planes(self.config), *masks.shape[1:])
        noise = torch.stack([row_noise(seed, size) for seed in [*seeds, *[0] * (GROUP - count)]])
        condition = build_condition(
            self.config,
            self.labels,
            masks,
            to_gan_range(images.float()).unsqueeze(1),
            holes.float().unsqueeze(1),
            noise.to(self.compute.device),
            shades.float() if self.shades is not None else None,
        )
        given = condition.for_generator().contiguous(memory_format=self.compute.memory_format)
        placed = condition.place(self.generator(given).float(), self.config.seam_px)
        result: NDArray[np.float32] = to_slice_range(placed)[:count, 0].cpu().numpy()
        return result

    def _borrowed(
        self,
        masks: NDArray[np.uint8],
        images: NDArray[np.floating],
        holes: NDArray[np.uint8],
        seeds: Sequence[int],
    ) -> NDArray[np.float32]:
        if self.shades is None:
            return np.zeros((len(masks), self.labels.num_classes), np.float32)
        choose = self.shades.choose if self.config.paint == "ventricle" else self.shades.choose_for_lesions
        return choose(images, masks, holes, seeds, self.config.shade_neighbours)

    def _full_group(self, part: NDArray[np.generic]) -> Tensor:
        padding = [(0, GROUP - len(part)), *[(0, 0)] * (part.ndim - 1)]
        return torch.from_numpy(np.pad(part, padding)).to(self.compute.device)


def row_noise(seed: int, size: tuple[int, ...]) -> Tensor:
    """Return Gaussian noise of `size` drawn on the CPU, so that it is the same on every device."""
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def load_generator(folder: Path, compute: Compute) -> Synthesiser:
    """Load a model folder's generator, ready to draw.

    Raises:
        InputError: A file is missing or broken, or the weights do not fit the configuration.
    """
    network, config, labels = _read(folder)
    return prepare(network, config, labels, compute, read_shades(folder) if config.shades else None)


def load_exportable(folder: Path) -> Generator:
    """Load a model folder's generator as a plain CPU module in evaluation mode: condition in, image out.

    Raises:
        InputError: As `load_generator`.
    """
    return _read(folder)[0].requires_grad_(False).eval()


def _read(folder: Path) -> tuple[Generator, Pix2PixConfig, LabelSet]:
    config = read_config(folder, Pix2PixConfig)
    name = ModelCard.read(folder).label_set
    if name not in LABEL_SETS:
        raise InputError(f"{folder}: label set {name!r} is unknown; rematerialise pix2pix")
    labels = LABEL_SETS[name]
    generator = Generator(generator_channels(config, labels), config)
    try:
        generator.load_state_dict(read_weights(folder))
    except RuntimeError as error:
        raise InputError(f"{folder}: the weights do not fit config.json; rematerialise pix2pix") from error
    return generator, config, labels


def prepare(
    generator: Generator, config: Pix2PixConfig, labels: LabelSet, compute: Compute, shades: ShadeBook | None = None
) -> Synthesiser:
    """Put a generator on the device, in evaluation mode and the device's precision."""
    network: nn.Module = generator.requires_grad_(False).eval().to(memory_format=compute.memory_format)
    return Synthesiser(compute.fabric.setup_module(network).eval(), config, labels, compute, shades)


def noise_seeds(seed: int, purpose: str, positions: Sequence[int]) -> list[int]:
    """Return the noise seed of each position."""
    return [derive_seed(seed, f"pix2pix {purpose} noise", int(position)) for position in positions]
