"""Training sets: the asked number of rows from each part, balanced as the part is, in shuffled order."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.errors import InputError
from common.progress import track
from common.seeds import random_generator
from imaging.slices.balance import CATEGORIES, apportion, slice_categories
from imaging.slices.store import SliceStore, SliceStoreWriter, StoreAttributes

_BLOCK_SLICES = 256

Part = tuple[SliceStore, int]


def write_training_set(path: Path, parts: Sequence[Part], seed: int, code_version: str) -> None:
    """Copy rows of several stores into one training set at `path`.

    Of each part as many rows are taken without replacement as asked for, in each category of slice content
    (no infarct, infarct, no-reflow) in proportion to the part. Extra images of a part are left behind.

    Args:
        path: The slice store to write.
        parts: Pairs of store and number of rows.
        seed: Decides the choice and the order.
        code_version: Version of the code, for the store's attributes.

    Raises:
        InputError: A part has fewer rows than asked for, the parts do not belong together, or the
            disk is full.
    """
    _check_parts(path, parts)
    chosen = [_choose(store, count, seed, number) for number, (store, count) in enumerate(parts)]
    part = np.repeat(np.arange(len(parts)), [len(rows) for rows in chosen])
    row = np.concatenate(chosen)
    order = random_generator(seed, "training set: order").permutation(len(row))
    starts = range(0, len(order), _BLOCK_SLICES)
    with SliceStoreWriter(path, _attributes(parts, seed, code_version)) as writer:
        for start in track(starts, "writing the training set"):
            block = order[start : start + _BLOCK_SLICES]
            writer.append(*_gather([store for store, _ in parts], part[block], row[block]))


def _check_parts(path: Path, parts: Sequence[Part]) -> None:
    if sum(count for _, count in parts) < 1:
        raise InputError(f"{path}: a training set of no slices was asked for; give at least one part and one row")
    for store, count in parts:
        if not 0 <= count <= len(store):
            raise InputError(
                f"{path}: {count} slices asked for, but {store.path} has {len(store)}; ask for fewer or make more"
            )
    for name in ("label_set", "region_px", "spacing_mm", "source_digest"):
        values = [getattr(store.attributes, name) for store, _ in parts]
        if len(set(values)) > 1:
            raise InputError(
                f"{path}: the parts differ in {name} ({values}); rematerialise them all from the same studies"
            )


def _choose(store: SliceStore, count: int, seed: int, number: int) -> NDArray[np.int64]:
    """Return `count` distinct rows with the category shares of the whole store."""
    categories = _categories(store)
    rng = random_generator(seed, "training set: choose", number)
    groups = {name: np.flatnonzero(categories == name) for name in CATEGORIES}
    counts = apportion(count, {name: len(rows) / len(store) for name, rows in groups.items()})
    return np.concatenate([rng.permutation(rows)[: counts[name]] for name, rows in groups.items()])


def _categories(store: SliceStore) -> NDArray[np.str_]:
    blocks = range(0, len(store), _BLOCK_SLICES)
    return np.concatenate([slice_categories(store.masks(slice(b, b + _BLOCK_SLICES)), store.label_set) for b in blocks])


def _gather(
    stores: Sequence[SliceStore], part: NDArray[np.int64], row: NDArray[np.int64]
) -> tuple[NDArray[np.float16], NDArray[np.uint8], pd.DataFrame]:
    size = stores[0].attributes.region_px
    images = np.empty((len(row), size, size), dtype=np.float16)
    masks = np.empty((len(row), size, size), dtype=np.uint8)
    rows = []
    for number, store in enumerate(stores):
        here = np.flatnonzero(part == number)
        images[here], masks[here] = store.images(row[here]), store.masks(row[here])
        rows.append(store.rows.iloc[row[here]].set_index(here))
    return images, masks, pd.concat(rows).sort_index()


def _attributes(parts: Sequence[Part], seed: int, code_version: str) -> StoreAttributes:
    names = _part_names([store for store, _ in parts])
    return replace(
        parts[0][0].attributes,
        intensity_rule="; ".join(dict.fromkeys(store.attributes.intensity_rule for store, _ in parts)),
        parent_digests={name: store.digest for name, (store, _) in zip(names, parts, strict=True)},
        seed=seed,
        code_version=code_version,
        parameters={"rows": {name: count for name, (_, count) in zip(names, parts, strict=True)}},
    )


def _part_names(stores: Sequence[SliceStore]) -> list[str]:
    """Name each part by the origin of its slices, numbered where two are alike."""
    seen: Counter[str] = Counter()
    names = []
    for store in stores:
        name = "+".join(sorted(set(store.rows["origin"])))
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    return names
