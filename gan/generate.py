"""From masks to images with a trained generator: synthetic slices, and real slices drawn again.

Image `i` depends on the seed and `i` alone: its noise is derived from them, and the network always sees the
same groups of neighbours, so that neither the batch size nor the number of threads of the caller changes a
bit.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gan.conditioning import build_condition, generator_channels, to_gan_range, to_slice_range
from gan.config import Pix2PixConfig
from gan.generator import Generator
from gan.hole import ventricle_hole
from imaging.errors import InputError
from imaging.labels import LABEL_SETS, LabelSet
from imaging.progress import track
from imaging.seeds import derive_seed
from imaging.slice_store import SliceStore, SliceStoreWriter, StoreAttributes
from training.compute import Compute
from training.model_folder import read_config, read_model_json, read_weights

# The network's own batch: fixed, since the last bit of a convolution may depend on it.
_GROUP = 16


@dataclass(frozen=True)
class Synthesiser:
    """A generator ready to draw.

    Attributes:
        generator: In evaluation mode, on the device, wrapped for its precision.
        config: Its configuration.
        labels: The label set it was trained on.
        compute: What it runs on.
    """

    generator: nn.Module
    config: Pix2PixConfig
    labels: LabelSet
    compute: Compute

    def draw(
        self,
        masks: NDArray[np.uint8],
        images: NDArray[np.floating],
        holes: NDArray[np.uint8],
        seeds: Sequence[int],
    ) -> NDArray[np.float32]:
        """Draw one image for each mask.

        Args:
            masks: (N, H, W) label values.
            images: (N, H, W) in [0, 1]: the real slices; with context, what lies outside the hole is kept as
                it is.
            holes: (N, H, W) 1 where to draw; not used without context.
            seeds: N seeds of the noise.

        Returns:
            (N, H, W) in [0, 1].
        """
        drawn = np.empty(masks.shape, np.float32)
        for start in range(0, len(masks), _GROUP):
            rows = slice(start, start + _GROUP)
            group = [np.asarray(part[rows]) for part in (masks, images, holes)]
            drawn[rows] = self._draw_group(group, seeds[rows])
        if self.config.context:
            return np.where(holes > 0, drawn, np.asarray(images, dtype=np.float32))
        return drawn

    @torch.inference_mode()
    def _draw_group(self, group: Sequence[NDArray[np.generic]], seeds: Sequence[int]) -> NDArray[np.float32]:
        count = len(seeds)
        masks, images, holes = (self._full_group(part) for part in group)
        size = (self.config.noise_channels, *masks.shape[1:])
        noise = torch.stack([row_noise(seed, size) for seed in [*seeds, *[0] * (_GROUP - count)]])
        condition = build_condition(
            self.config,
            self.labels,
            masks,
            to_gan_range(images.float()).unsqueeze(1),
            holes.float().unsqueeze(1),
            noise.to(self.compute.device),
        )
        given = condition.for_generator().contiguous(memory_format=self.compute.memory_format)
        placed = condition.place(self.generator(given).float(), self.config.seam_px)
        result: NDArray[np.float32] = to_slice_range(placed)[:count, 0].cpu().numpy()
        return result

    def _full_group(self, part: NDArray[np.generic]) -> Tensor:
        padding = [(0, _GROUP - len(part)), (0, 0), (0, 0)]
        return torch.from_numpy(np.pad(part, padding)).to(self.compute.device)


def row_noise(seed: int, size: tuple[int, ...]) -> Tensor:
    """Return Gaussian noise of `size` drawn on the CPU, so that it is the same on every device."""
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def load_generator(folder: Path, compute: Compute) -> Synthesiser:
    """Load a model folder's generator.

    Raises:
        InputError: A file is missing or broken, or the weights do not fit the configuration.
    """
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
    return prepare(generator, config, labels, compute)


def prepare(generator: Generator, config: Pix2PixConfig, labels: LabelSet, compute: Compute) -> Synthesiser:
    """Put a generator on the device, in evaluation mode and the device's precision."""
    network: nn.Module = generator.requires_grad_(False).eval().to(memory_format=compute.memory_format)
    return Synthesiser(compute.fabric.setup_module(network).eval(), config, labels, compute)


def redraw(
    model_folder: Path,
    images: NDArray[np.floating],
    masks: NDArray[np.uint8],
    compute: Compute,
    seed: int,
) -> NDArray[np.float32]:
    """Draw real slices again from their own masks (and, with context, their own background).

    Args:
        model_folder: A trained generator.
        images: (N, H, W) in [0, 1].
        masks: (N, H, W).
        compute: What to run on.
        seed: Seed of the noise.

    Returns:
        (N, H, W) in [0, 1], the image that pairs with each real slice.
    """
    synthesiser = load_generator(model_folder, compute)
    holes = ventricle_hole(masks, synthesiser.config.hole_margin_px)
    return synthesiser.draw(masks, images, holes, noise_seeds(seed, "redraw", range(len(masks))))


def generate_slices(
    model_folder: Path,
    masks: SliceStore,
    path: Path,
    count: int,
    compute: Compute,
    seed: int,
    code_version: str,
    batch: int = 256,
) -> None:
    """Write `count` synthetic slices, one for each mask in turn; after the last mask the first comes again.

    Args:
        model_folder: A trained generator.
        masks: Simulated masks; their images are the backgrounds, and their extra `hole` says where to draw.
        path: The slice store to write. Image `i` has replica `i`; donors and group are its mask's.
        count: How many slices to draw.
        compute: What to run on.
        seed: Seed of the noise.
        code_version: Recorded in the store.
        batch: How many slices are held in memory; does not change the result.

    Raises:
        InputError: The masks belong to another label set, or lack the hole that a context model needs.
    """
    synthesiser = load_generator(model_folder, compute)
    _check_masks(synthesiser, masks, model_folder)
    batch = max(_GROUP, batch - batch % _GROUP)  # whole groups, see the module's first lines
    with SliceStoreWriter(path, _attributes(model_folder, masks, seed, code_version, count)) as writer:
        starts = range(0, count, batch)
        for start in track(starts, "drawing synthetic slices (batches)"):
            positions = np.arange(start, min(start + batch, count))
            _append(writer, synthesiser, masks, positions, seed)


def noise_seeds(seed: int, purpose: str, positions: Sequence[int]) -> list[int]:
    """Return the noise seed of each position."""
    return [derive_seed(seed, f"pix2pix {purpose} noise", int(position)) for position in positions]


def _append(
    writer: SliceStoreWriter,
    synthesiser: Synthesiser,
    masks: SliceStore,
    positions: NDArray[np.integer],
    seed: int,
) -> None:
    sources = positions % len(masks)
    values, backgrounds = masks.masks(sources), masks.images(sources)
    # A slice store's further images, not Django's SQL.
    holes = masks.extra("hole", sources) if synthesiser.config.context else np.ones_like(values)  # noqa: S610
    drawn = synthesiser.draw(values, backgrounds, holes, noise_seeds(seed, "synthetic", positions.tolist()))
    rows = masks.rows.iloc[sources].reset_index(drop=True)
    writer.append(drawn, values, rows.assign(origin="synthetic", replica=positions.astype(np.int32)))


def _check_masks(synthesiser: Synthesiser, masks: SliceStore, model_folder: Path) -> None:
    if masks.label_set.name != synthesiser.labels.name:
        raise InputError(
            f"{masks.path}: label set {masks.label_set.name!r}, but {model_folder} draws "
            f"{synthesiser.labels.name!r}; use masks and a generator of the same source"
        )
    if synthesiser.config.context and "hole" not in masks.extras:
        raise InputError(f"{masks.path}: lacks the extra 'hole' that a context generator needs; rematerialise it")


def _attributes(model_folder: Path, masks: SliceStore, seed: int, code_version: str, count: int) -> StoreAttributes:
    card = read_model_json(model_folder, "model_card.json")
    return StoreAttributes(
        label_set=masks.attributes.label_set,
        region_px=masks.attributes.region_px,
        spacing_mm=masks.attributes.spacing_mm,
        intensity_rule=masks.attributes.intensity_rule,
        source_digest=masks.attributes.source_digest,
        parent_digests={
            "lesion_masks": masks.digest,
            "pix2pix": _digest(model_folder / "weights.safetensors"),
        },
        seed=seed,
        code_version=code_version,
        parameters={"count": count, "selected_step": card["selected_step"]},
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
