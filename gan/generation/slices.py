"""From masks to images with a trained generator: synthetic slices, and real slices drawn again.

What does not live here: the store itself, which is written in one go and is whole or not there.
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.progress import track
from common.seeds import random_generator
from gan.generation.hole import own_hole, soften_paint
from gan.generation.refusal import DrawAgain, Draws, Filter, draw_until_accepted, joined_draws, write_draws
from gan.generation.synthesiser import GROUP, Synthesiser, load_exportable, load_generator, noise_seeds, prepare
from gan.training.config import SynthesisConfig
from imaging.slices.balance import slice_categories
from imaging.slices.store import SliceStore, StoreAttributes
from runtime.compute import Compute
from runtime.model_card import ModelCard

__all__ = ["Synthesiser", "generate_slices", "load_exportable", "load_generator", "prepare", "redraw"]


def redraw(
    model_folder: Path,
    images: NDArray[np.floating],
    masks: NDArray[np.uint8],
    compute: Compute,
    seed: int,
    asked: SynthesisConfig | None = None,
) -> NDArray[np.float32]:
    """Draw real slices again from their own masks (and, with context, their own background).

    Where lesions alone are painted, a slice without any stays as it is.

    Args:
        model_folder: A trained generator.
        images: (N, H, W) in [0, 1].
        masks: (N, H, W).
        compute: What to run on.
        seed: Seed of the noise.
        asked: How soft what is painted into a wall shall be; None leaves it as it is.

    Returns:
        (N, H, W) in [0, 1], the image that pairs with each real slice.
    """
    synthesiser = load_generator(model_folder, compute)
    holes = own_hole(masks, synthesiser.config.paint, synthesiser.config.hole_margin_px)
    seeds = noise_seeds(seed, "redraw", range(len(masks)))
    return _softened(synthesiser, synthesiser.draw(masks, images, holes, seeds), masks, holes, seeds, asked)


def _softened(
    synthesiser: Synthesiser,
    drawn: NDArray[np.float32],
    masks: NDArray[np.uint8],
    holes: NDArray[np.uint8],
    seeds: list[int],
    asked: SynthesisConfig | None,
) -> NDArray[np.float32]:
    """Return what was drawn with soft paint, where lesions alone were painted and that is asked for."""
    if asked is None or not asked.softens or synthesiser.config.paint != "lesion":
        return drawn
    return soften_paint(drawn, masks, holes, seeds, asked.softness_px, asked.grain_share)


def generate_slices(
    model_folder: Path,
    masks: SliceStore,
    path: Path,
    count: int,
    compute: Compute,
    seed: int,
    code_version: str,
    batch: int = 256,
    chosen: Filter | None = None,
    asked: SynthesisConfig | None = None,
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
        chosen: Refuses draws. Those are drawn again with the next numbers, which are their replicas, each from another
            mask that bears the same lesions. All slices are then held in memory.
        asked: How soft what is painted into a wall shall be; None leaves it as it is.

    Raises:
        InputError: The masks belong to another label set, or lack the hole that a context model needs; or too many
            draws are refused.
    """
    synthesiser = load_generator(model_folder, compute)
    _check_masks(synthesiser, masks, model_folder)
    batch = max(GROUP, batch - batch % GROUP)  # whole groups, see gan.generation.synthesiser
    attributes = _attributes(model_folder, masks, seed, code_version, count)
    batches = [np.arange(start, min(start + batch, count)) for start in range(0, count, batch)]
    holed = synthesiser.config.paint == "lesion"
    made = (
        _as_draws(_drawn(synthesiser, masks, p, p % len(masks), seed, asked), masks, p, p % len(masks), holed)
        for p in track(batches, "drawing synthetic slices (batches)")
    )
    if chosen is None:
        return write_draws(path, attributes, made)
    drawn, again = joined_draws(list(made)), _drawing_again(synthesiser, masks, seed, asked)
    accepted, refused = draw_until_accepted(drawn, again, chosen)
    return write_draws(path, _with_parameters(attributes, refusal=chosen.told(count, refused)), [accepted])


def _drawing_again(synthesiser: Synthesiser, masks: SliceStore, seed: int, asked: SynthesisConfig | None) -> DrawAgain:
    """Return what draws places again, each from a mask of the same category that its draw's number chooses."""
    categories = slice_categories(masks.masks(), masks.label_set)
    holed = synthesiser.config.paint == "lesion"

    def draw_again(numbers: NDArray[np.intp], places: NDArray[np.intp]) -> Draws:
        wanted = categories[places % len(masks)]
        sources = np.array(
            [
                random_generator(seed, "masks drawn again", int(number)).choice(np.flatnonzero(categories == category))
                for number, category in zip(numbers, wanted, strict=True)
            ]
        )
        images = _drawn(synthesiser, masks, numbers, sources, seed, asked)
        return _as_draws(images, masks, numbers, sources, holed)

    return draw_again


def _drawn(
    synthesiser: Synthesiser,
    masks: SliceStore,
    numbers: NDArray[np.integer],
    sources: NDArray[np.integer],
    seed: int,
    asked: SynthesisConfig | None,
) -> NDArray[np.float16]:
    values, backgrounds = masks.masks(sources), masks.images(sources)
    # A slice store's further images, not Django's SQL.
    holes = masks.extra("hole", sources) if synthesiser.config.context else np.ones_like(values)  # noqa: S610
    seeds = noise_seeds(seed, "synthetic", numbers.tolist())
    drawn = synthesiser.draw(values, backgrounds, holes, seeds)
    drawn = _softened(synthesiser, drawn, values, holes, seeds, asked)
    return drawn.astype(np.float16)  # as the store keeps them


def _as_draws(
    images: NDArray[np.float16],
    masks: SliceStore,
    numbers: NDArray[np.integer],
    sources: NDArray[np.integer],
    holed: bool,
) -> Draws:
    rows = masks.rows.iloc[sources].reset_index(drop=True)
    rows = rows.assign(origin="synthetic", replica=numbers.astype(np.int32))
    # A slice store's further images, not Django's SQL.
    holes = masks.extra("hole", sources) if holed else None  # noqa: S610
    return Draws(images, masks.masks(sources), holes, rows)


def _with_parameters(attributes: StoreAttributes, **more: Any) -> StoreAttributes:
    return replace(attributes, parameters={**attributes.parameters, **more})


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
