"""From masks to images with a trained generator: synthetic slices, and real slices drawn again.

What does not live here: the store itself, which is written in one go and is whole or not there.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.progress import track
from gan.generation.hole import own_hole
from gan.generation.synthesiser import GROUP, Synthesiser, load_exportable, load_generator, noise_seeds, prepare
from imaging.slices.store import SliceStore, SliceStoreWriter, StoreAttributes
from runtime.compute import Compute
from runtime.model_card import ModelCard

__all__ = ["Synthesiser", "generate_slices", "load_exportable", "load_generator", "prepare", "redraw"]


def redraw(
    model_folder: Path,
    images: NDArray[np.floating],
    masks: NDArray[np.uint8],
    compute: Compute,
    seed: int,
) -> NDArray[np.float32]:
    """Draw real slices again from their own masks (and, with context, their own background).

    Where lesions alone are painted, a slice without any stays as it is.

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
    holes = own_hole(masks, synthesiser.config.paint, synthesiser.config.hole_margin_px)
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
        path: The slice store to write. Image `i` has replica `i`; donors and group are its mask's. Where lesions alone
            are painted, the extra `hole` says where.
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
    batch = max(GROUP, batch - batch % GROUP)  # whole groups, see gan.generation.synthesiser
    attributes = _attributes(model_folder, masks, seed, code_version, count)
    extras = ("hole",) if synthesiser.config.paint == "lesion" else ()
    with SliceStoreWriter(path, attributes, extras) as writer:
        for start in track(range(0, count, batch), "drawing synthetic slices (batches)"):
            positions = np.arange(start, min(start + batch, count))
            _append(writer, _drawn(synthesiser, masks, positions, seed), masks, positions, extras)


def _drawn(
    synthesiser: Synthesiser, masks: SliceStore, positions: NDArray[np.integer], seed: int
) -> NDArray[np.float32]:
    sources = positions % len(masks)
    values, backgrounds = masks.masks(sources), masks.images(sources)
    # A slice store's further images, not Django's SQL.
    holes = masks.extra("hole", sources) if synthesiser.config.context else np.ones_like(values)  # noqa: S610
    return synthesiser.draw(values, backgrounds, holes, noise_seeds(seed, "synthetic", positions.tolist()))


def _append(
    writer: SliceStoreWriter,
    drawn: NDArray[np.float32],
    masks: SliceStore,
    positions: NDArray[np.integer],
    extras: Sequence[str],
) -> None:
    sources = positions % len(masks)
    rows = masks.rows.iloc[sources].reset_index(drop=True)
    rows = rows.assign(origin="synthetic", replica=positions.astype(np.int32))
    # A slice store's further images, not Django's SQL.
    kept = {name: masks.extra(name, sources) for name in extras}  # noqa: S610
    writer.append(drawn, masks.masks(sources), rows, **kept)


def _check_masks(synthesiser: Synthesiser, masks: SliceStore, model_folder: Path) -> None:
    if masks.label_set.name != synthesiser.labels.name:
        raise InputError(
            f"{masks.path}: label set {masks.label_set.name!r}, but {model_folder} draws "
            f"{synthesiser.labels.name!r}; use masks and a generator of the same source"
        )
    if synthesiser.config.context and "hole" not in masks.extras:
        raise InputError(f"{masks.path}: lacks the extra 'hole' that a context generator needs; rematerialise it")


def _attributes(model_folder: Path, masks: SliceStore, seed: int, code_version: str, count: int) -> StoreAttributes:
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
        parameters={"count": count, "selected_step": ModelCard.read(model_folder).selected_step},
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
