"""Batches of the training set on the device: from memory where the set fits, else streamed from its file.

Which rows of the training set make up each step's batch.

They are a function of (seed, step), so that a resumed training sees the batches an uninterrupted one sees.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import InputError
from common.seeds import random_generator
from imaging.slices.balance import BalanceConfig, draw_balanced, rows_by_category, slice_categories
from imaging.slices.store import SliceStore
from runtime.compute import Compute, send

_ROWS_AT_ONCE = 1024


class RowSampler:
    """Gives the rows of each step's batch.

    With a `BalanceConfig` each batch is drawn anew with its class shares; without one, the rows are gone
    through in a random order, another for each epoch, and batches run over the ends of epochs.

    Args:
        training: The training set.
        batch: Rows a step.
        balance: Shares of the categories, or None.
        seed: The training's seed.
        part: Which of a batch's rows this process trains on; all of them where it trains alone.
        real_from: From this step on only real slices are drawn; None for never.

    Raises:
        InputError: There is nothing to draw.
    """

    def __init__(
        self,
        training: SliceStore,
        batch: int,
        balance: BalanceConfig | None,
        seed: int,
        part: slice = slice(None),
        real_from: int | None = None,
    ) -> None:
        if len(training) == 0:
            raise InputError(f"{training.path}: holds no slices to train on; rematerialise the training set")
        self._part, self._real_from = part, real_from
        categories = None if balance is None else read_categories(training)
        self._all = _Pool(np.arange(len(training)), 0, batch, balance, categories, seed, "order")
        if real_from is None:
            return
        real = np.flatnonzero(~are_synthetic(training))
        if not len(real):
            raise InputError(f"{training.path}: holds no real slices, which the last steps want; set real_last_share=0")
        self._real = _Pool(real, real_from, batch, balance, categories, seed, "order of real slices")

    def rows(self, step: int) -> NDArray[np.int64]:
        """Return the row numbers of this process's part of a step's batch; steps and rows are counted from 0."""
        return self.batch_rows(step)[self._part]

    def batch_rows(self, step: int) -> NDArray[np.int64]:
        """Return the row numbers of a step's whole batch."""
        real_alone = self._real_from is not None and step >= self._real_from
        return (self._real if real_alone else self._all).batch_rows(step)


class _Pool:
    """Rows of a training set from which batches are drawn, beginning at one step."""

    def __init__(
        self,
        rows: NDArray[np.int64],
        first_step: int,
        batch: int,
        balance: BalanceConfig | None,
        categories: NDArray[np.str_] | None,
        seed: int,
        purpose: str,
    ) -> None:
        self._rows, self._first_step, self._batch, self._balance = rows, first_step, batch, balance
        self._seed, self._purpose = seed, purpose
        self._orders: dict[int, NDArray[np.int64]] = {}
        self._by_category = None if categories is None else rows_by_category(categories[rows])

    def batch_rows(self, step: int) -> NDArray[np.int64]:
        if self._by_category is not None and self._balance is not None:
            rng = random_generator(self._seed, "rows", step)
            return self._rows[draw_balanced(self._by_category, self._batch, self._balance, rng)]
        positions = (step - self._first_step) * self._batch + np.arange(self._batch)
        epochs, places = np.divmod(positions, len(self._rows))
        self._orders = {epoch: self._order(epoch) for epoch in np.unique(epochs).tolist()}
        return np.array([self._orders[e][p] for e, p in zip(epochs.tolist(), places.tolist(), strict=True)])

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """Return the order of an epoch: that of the step before, mostly, which is not drawn again."""
        known = self._orders.get(epoch)
        if known is not None:
            return known
        return random_generator(self._seed, self._purpose, epoch).permutation(self._rows)


def are_synthetic(training: SliceStore) -> NDArray[np.bool_]:
    """Return which rows of a training set were drawn or transplanted."""
    return np.asarray(training.rows["origin"] == "synthetic")


def read_categories(training: SliceStore) -> NDArray[np.str_]:
    """Return each row's category for balanced sampling, reading the masks a part at a time."""
    parts = [
        slice_categories(
            training.masks(np.arange(start, min(start + _ROWS_AT_ONCE, len(training)))), training.label_set
        )
        for start in range(0, len(training), _ROWS_AT_ONCE)
    ]
    return np.concatenate(parts)


def count_pixels(training: SliceStore) -> NDArray[np.int64]:
    """Return the number of training pixels of each label value: (C,)."""
    total = np.zeros(training.label_set.num_classes, dtype=np.int64)
    for start in range(0, len(training), _ROWS_AT_ONCE):
        masks = training.masks(np.arange(start, min(start + _ROWS_AT_ONCE, len(training))))
        total += np.bincount(masks.ravel(), minlength=len(total))
    return total


Batch = tuple[Tensor, Tensor]
"""Images (N, 1, H, W) float32 in [0, 1] and masks (N, H, W) int64, on the device."""


class BatchSource(Protocol):
    """Gives the batch of any step."""

    def batch(self, step: int) -> Batch:
        """Return the batch of a step, counted from 0."""


def open_batches(training: SliceStore, sampler: RowSampler, compute: Compute, resident_limit_mb: int) -> BatchSource:
    """Choose resident batches where the set takes at most `resident_limit_mb`, else streamed ones."""
    side = training.attributes.region_px
    size_mb = len(training) * side * side * 3 / 1e6  # float16 image and uint8 mask
    if size_mb <= resident_limit_mb:
        return ResidentBatches(training, sampler, compute)
    return StreamedBatches(training, sampler, compute)


class ResidentBatches:
    """The whole training set on the device; a batch is one indexing there."""

    def __init__(self, training: SliceStore, sampler: RowSampler, compute: Compute) -> None:
        self._sampler = sampler
        self._device = compute.device
        self._images = torch.from_numpy(training.images()).to(compute.device)
        self._masks = torch.from_numpy(training.masks()).to(compute.device)

    def batch(self, step: int) -> Batch:
        """Return the batch of a step."""
        rows = send(torch.from_numpy(self._sampler.rows(step)), self._device)
        return self._images[rows].float().unsqueeze(1), self._masks[rows].long()


class StreamedBatches:
    """Batches read from the file; the next step's is read while the current one is trained on."""

    def __init__(self, training: SliceStore, sampler: RowSampler, compute: Compute) -> None:
        self._training, self._sampler, self._device = training, sampler, compute.device
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._next: tuple[int, Future[tuple[NDArray[np.float16], NDArray[np.uint8]]]] | None = None

    def batch(self, step: int) -> Batch:
        """Return the batch of a step and begin to read the next one's."""
        images, masks = self._take(step)
        self._next = (step + 1, self._reader.submit(self._read, step + 1))
        return (
            send(torch.from_numpy(images), self._device).float().unsqueeze(1),
            send(torch.from_numpy(masks), self._device).long(),
        )

    def _take(self, step: int) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        if self._next is not None and self._next[0] == step:
            return self._next[1].result()
        return self._read(step)

    def _read(self, step: int) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        rows = self._sampler.rows(step)
        return self._training.images(rows), self._training.masks(rows)
