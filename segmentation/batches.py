"""Batches of the training set on the device: from memory where the set fits, else streamed from its file."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imaging.slice_store import SliceStore
from segmentation.sampling import RowSampler
from training.compute import Compute
from training.transfer import send

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
