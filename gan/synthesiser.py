"""A generator ready to draw, and the noise it draws from.

Image `i` depends on the seed and `i` alone: its noise is derived from them, and the network always sees the
same groups of neighbours, so that neither the batch size nor the number of threads of the caller changes a
bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gan.conditioning import build_condition, generator_channels, noise_planes, to_gan_range, to_slice_range
from gan.config import Pix2PixConfig
from gan.generator import Generator
from gan.shades import ShadeBook, read_shades
from imaging.errors import InputError
from imaging.labels import LABEL_SETS, LabelSet
from imaging.seeds import derive_seed
from training.compute import Compute
from training.model_folder import read_config, read_model_json, read_weights

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
            shades: (N, num_classes) how bright tissues shall be; None to borrow them, see `gan.shades`.

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
        return self.shades.choose(images, masks, holes, seeds, self.config.shade_neighbours)

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
    card = read_model_json(folder, "model_card.json")
    if card.get("label_set") not in LABEL_SETS:
        raise InputError(f"{folder}: label set {card.get('label_set')!r} is unknown; rematerialise pix2pix")
    labels = LABEL_SETS[card["label_set"]]
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
