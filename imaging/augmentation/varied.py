"""Augmented slices: class-balanced ones of training patients, or one of each slice of a store.

The bytes are the same from one process or several.

The parent draws which slices are varied, the workers vary them block by block, and the parent writes the
blocks in order.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.errors import InputError
from common.processes import make_blocks
from common.progress import track
from common.seeds import derive_seed, random_generator
from imaging.augmentation.recipe import AugmentConfig, Recipe, augment_slice, build_recipe
from imaging.slices.balance import BalanceConfig, draw_balanced, rows_by_category, slice_categories
from imaging.slices.store import SliceStore, SliceStoreWriter, StoreAttributes

_BLOCK_SLICES = 64

Block = tuple[NDArray[np.float16], NDArray[np.uint8]]


@dataclass(frozen=True)
class _Task:
    """What every worker needs: the store to read, the rows to vary in order, the recipe and the seed."""

    source: SliceStore
    draws: NDArray[np.int64]
    augment: AugmentConfig
    seed: int

    @property
    def blocks(self) -> int:
        return -(-len(self.draws) // _BLOCK_SLICES)

    def rows_of(self, block: int) -> NDArray[np.int64]:
        return self.draws[block * _BLOCK_SLICES : (block + 1) * _BLOCK_SLICES]

    def maker(self) -> Callable[[int], Block]:
        recipe = build_recipe(self.augment)

        def make(block: int) -> Block:
            with _one_opencv_thread():
                return _make_block(self, recipe, block)

        return make


def write_augmented_slices(
    path: Path,
    real: SliceStore,
    train_index: NDArray[np.integer],
    count: int,
    augment: AugmentConfig,
    balance: BalanceConfig,
    seed: int,
    processes: int,
    code_version: str,
) -> None:
    """Write `count` random variants of the training slices into a store at `path`.

    Args:
        path: The slice store to write; every row's `case_id` is the patient whose slice was varied.
        real: The real slices.
        train_index: Rows of `real` that may be used: those of training patients.
        count: How many slices to write.
        augment: The recipe.
        balance: Shares of slices with infarct and with no-reflow.
        seed: Decides everything; the bytes do not depend on `processes`.
        processes: How many processes to use; 1 works in this one.
        code_version: Version of the code, for the store's attributes.

    Raises:
        InputError: No training slice, a count or number of processes below 1, or a full disk.
    """
    if count < 1 or processes < 1 or not len(train_index):
        raise InputError(
            f"{path}: asked for {count} slices from {len(train_index)} training slices in {processes} "
            "processes; each must be at least 1"
        )
    draws = _draw(real, np.asarray(train_index), count, balance, seed)
    rows = _rows(real, draws)
    task = _Task(real, draws, augment, seed)
    asked = {"count": count, "balance": balance.model_dump()}
    _write(path, task, rows, _attributes(task, {"real": real.digest}, asked, code_version), processes)


def write_varied_slices(
    path: Path,
    slices: SliceStore,
    augment: AugmentConfig,
    seed: int,
    processes: int,
    code_version: str,
    count: int | None = None,
) -> None:
    """Write one random variant of every row of `slices` into a store at `path`, rows kept as they are.

    Synthetic slices are trained on like this, so that the recipe is not what the arms of a comparison differ in.

    Args:
        path: The slice store to write.
        slices: What is varied, say synthetic slices.
        augment: The recipe.
        seed: Decides everything; the bytes do not depend on `processes`.
        processes: How many processes to use; 1 works in this one.
        code_version: Version of the code, for the store's attributes.
        count: How many variants; above the number of rows these are gone through again, each round with a further
            `replica`. None for one of each.

    Raises:
        InputError: No slices, fewer variants than these, a number of processes below 1, or a full disk.
    """
    asked = len(slices) if count is None else count
    if processes < 1 or not len(slices):
        raise InputError(
            f"{path}: asked to vary {len(slices)} slices in {processes} processes; each must be at least 1"
        )
    if asked < len(slices):
        raise InputError(f"{path}: {asked} variants of {len(slices)} slices leave some out; ask for as many at least")
    task = _Task(slices, np.arange(asked) % len(slices), augment, seed)
    _write(
        path,
        task,
        _again(slices.rows, asked),
        _attributes(task, {"slices": slices.digest}, {}, code_version),
        processes,
    )


def _again(rows: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return `count` rows, gone through round by round with further numbers of `replica`."""
    places = np.arange(count)
    found = rows.iloc[places % len(rows)].reset_index(drop=True)
    rounds = (places // len(rows)).astype(np.int32)
    return found.assign(replica=found["replica"] + rounds * np.int32(rows["replica"].max() + 1))


def _write(path: Path, task: _Task, rows: pd.DataFrame, attributes: StoreAttributes, processes: int) -> None:
    with SliceStoreWriter(path, attributes) as writer, closing(_make_blocks(task, processes)) as blocks:
        for number, (images, masks) in enumerate(track(blocks, "augmenting slices", task.blocks)):
            start = number * _BLOCK_SLICES
            writer.append(images, masks, rows.iloc[start : start + len(images)])


def _draw(
    real: SliceStore, train_index: NDArray[np.integer], count: int, balance: BalanceConfig, seed: int
) -> NDArray[np.int64]:
    categories = slice_categories(real.masks(train_index), real.label_set)
    rng = random_generator(seed, "augmented slices: draw")
    return train_index[draw_balanced(rows_by_category(categories), count, balance, rng)].astype(np.int64)


def _rows(real: SliceStore, draws: NDArray[np.int64]) -> pd.DataFrame:
    rows = real.rows.iloc[draws].reset_index(drop=True)
    # A running number for each source slice.
    return rows.assign(origin="augmented", donor_ids="", replica=pd.Series(draws).groupby(draws).cumcount())


def _attributes(task: _Task, parents: dict[str, str], asked: dict[str, Any], code_version: str) -> StoreAttributes:
    return replace(
        task.source.attributes,
        parent_digests=parents,
        seed=task.seed,
        code_version=code_version,
        parameters={**asked, "augment": task.augment.model_dump()},
    )


def _make_blocks(task: _Task, processes: int) -> Generator[Block, None, None]:
    """Return the varied slices block by block, in order."""
    return make_blocks(task, processes, "an augmentation process")


def _make_block(task: _Task, recipe: Recipe, block: int) -> Block:
    rows = task.rows_of(block)
    images, masks = task.source.images(rows), task.source.masks(rows)
    for place in range(len(rows)):
        seed = derive_seed(task.seed, "augmented slices: vary", block * _BLOCK_SLICES + place)
        images[place], masks[place] = augment_slice(recipe, images[place], masks[place], seed)
    return images, masks


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """Keep OpenCV from starting threads of its own: slices are small and processes share the cores."""
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
