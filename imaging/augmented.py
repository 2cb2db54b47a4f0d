"""Augmented slices of training patients, class-balanced: the same bytes from one process or several.

The parent draws which slices are varied, the workers vary them block by block, and the parent writes the
blocks in order. Each block goes through a pipe, which holds a worker back until the parent has read: memory
does not grow with the number of slices. A worker whose parent has died finds its pipe closed and ends.
"""

import multiprocessing
import signal
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from imaging.augment import AugmentConfig, Recipe, augment_slice, build_recipe
from imaging.balance import BalanceConfig, draw_balanced, slice_categories
from imaging.errors import InputError
from imaging.progress import track
from imaging.seeds import derive_seed, random_generator
from imaging.slice_store import SliceStore, SliceStoreWriter, StoreAttributes

_BLOCK_SLICES = 64

Block = tuple[NDArray[np.float16], NDArray[np.uint8]]


@dataclass(frozen=True)
class _Task:
    """What every worker needs: the store to read, the rows to vary in order, the recipe and the seed."""

    real: SliceStore
    draws: NDArray[np.int64]
    augment: AugmentConfig
    seed: int

    @property
    def blocks(self) -> int:
        return -(-len(self.draws) // _BLOCK_SLICES)

    def rows_of(self, block: int) -> NDArray[np.int64]:
        return self.draws[block * _BLOCK_SLICES : (block + 1) * _BLOCK_SLICES]


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
    attributes = _attributes(real, count, augment, balance, seed, code_version)
    with SliceStoreWriter(path, attributes) as writer, closing(_make_blocks(task, processes)) as blocks:
        for number, (images, masks) in enumerate(track(blocks, "augmenting slices", task.blocks)):
            start = number * _BLOCK_SLICES
            writer.append(images, masks, rows.iloc[start : start + len(images)])


def _draw(
    real: SliceStore, train_index: NDArray[np.integer], count: int, balance: BalanceConfig, seed: int
) -> NDArray[np.int64]:
    categories = slice_categories(real.masks(train_index), real.label_set)
    rng = random_generator(seed, "augmented slices: draw")
    return train_index[draw_balanced(categories, count, balance, rng)].astype(np.int64)


def _rows(real: SliceStore, draws: NDArray[np.int64]) -> pd.DataFrame:
    rows = real.rows.iloc[draws].reset_index(drop=True)
    # A running number for each source slice.
    return rows.assign(origin="augmented", donor_ids="", replica=pd.Series(draws).groupby(draws).cumcount())


def _attributes(
    real: SliceStore, count: int, augment: AugmentConfig, balance: BalanceConfig, seed: int, code_version: str
) -> StoreAttributes:
    return replace(
        real.attributes,
        parent_digests={"real": real.digest},
        seed=seed,
        code_version=code_version,
        parameters={"count": count, "augment": augment.model_dump(), "balance": balance.model_dump()},
    )


def _make_blocks(task: _Task, processes: int) -> Generator[Block, None, None]:
    """Return the varied slices block by block, in order."""
    processes = min(processes, task.blocks)
    return _blocks_from_workers(task, processes) if processes > 1 else _blocks_here(task)


def _blocks_here(task: _Task) -> Generator[Block, None, None]:
    recipe = build_recipe(task.augment)
    for block in range(task.blocks):
        with _one_opencv_thread():
            made = _make_block(task, recipe, block)
        yield made


def _make_block(task: _Task, recipe: Recipe, block: int) -> Block:
    rows = task.rows_of(block)
    images, masks = task.real.images(rows), task.real.masks(rows)
    for place in range(len(rows)):
        seed = derive_seed(task.seed, "augmented slices: vary", block * _BLOCK_SLICES + place)
        images[place], masks[place] = augment_slice(recipe, images[place], masks[place], seed)
    return images, masks


def _blocks_from_workers(task: _Task, processes: int) -> Generator[Block, None, None]:
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        pipes = []
        for number in range(processes):
            ours, theirs = context.Pipe(duplex=False)
            worker = context.Process(target=_work, args=(theirs, task, number, processes), daemon=True)
            worker.start()
            theirs.close()  # so that the end of the worker is the end of the pipe
            stack.callback(worker.join)
            stack.callback(ours.close)  # runs before the join: a worker that still writes is told to stop
            pipes.append(ours)
        for block in range(task.blocks):
            yield _receive(pipes[block % processes])


def _receive(pipe: "Connection[None, Block | str]") -> Block:
    try:
        message = pipe.recv()
    except (EOFError, OSError) as error:  # between two messages, or within one
        raise InputError(
            "an augmentation process ended without a word, as when memory runs out; use fewer processes"
        ) from error
    if isinstance(message, str):
        raise InputError(f"an augmentation process failed: {message}")
    return message


def _work(pipe: "Connection[Block | str, None]", task: _Task, number: int, processes: int) -> None:
    """Send every `processes`-th block, from `number` on; runs in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent closes the pipe when it is interrupted
    # albumentations imports torch only for a converter not used here: 1.5 s and 500 MB for each worker.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type] # None makes the import fail at once
    try:
        recipe = build_recipe(task.augment)
        for block in range(number, task.blocks, processes):
            with _one_opencv_thread():
                made = _make_block(task, recipe, block)
            pipe.send(made)
    except BrokenPipeError:
        pass  # the parent has stopped or is gone
    except (InputError, ArithmeticError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        pipe.send(f"{type(error).__name__}: {error}")


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
