"""Several processes that train one network together: which rows are whose, and what they tell each other.

`torchrun` starts the processes (ranks). Each step's batch is cut into equal parts, one a rank, and the loss is that of
the whole batch: every rank gathers the others' outputs, so that losses which pool over the batch, such as Dice, are
those of one process. What does not live here: the choice of device and precision (`runtime.compute`).
"""

import os
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from common.errors import InputError
from runtime.compute import Fabric, TorchElasticEnvironment

Value = TypeVar("Value")


def launched_ranks() -> int:
    """Return how many processes `torchrun` started together with this one, on all nodes; 1 without it."""
    return TorchElasticEnvironment().world_size() if TorchElasticEnvironment.detect() else 1


def launched_nodes() -> int:
    """Return on how many nodes `torchrun` started them; 1 without it.

    Raises:
        InputError: Nodes have different numbers of processes.
    """
    if not TorchElasticEnvironment.detect():
        return 1
    ranks, here, nodes = (int(os.environ[name]) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"))
    if ranks != here * nodes:
        raise InputError(
            f"torchrun started {ranks} processes on {nodes} nodes and {here} of them here; give every node the same "
            "--nproc-per-node"
        )
    return nodes


@dataclass(frozen=True)
class Ranks:
    """The processes of one training; one process alone is the usual case and costs nothing.

    Attributes:
        fabric: Launched, where there are several.
    """

    fabric: Fabric

    @property
    def count(self) -> int:
        """How many there are."""
        return self.fabric.world_size

    @property
    def index(self) -> int:
        """Which one this is, counted from 0."""
        return self.fabric.global_rank

    @property
    def is_first(self) -> bool:
        """Whether this one validates, writes and reports."""
        return self.index == 0

    def part_of(self, batch: int) -> slice:
        """Return this rank's places in a batch; the parts are disjoint, equal and make up the batch.

        Raises:
            InputError: The batch cannot be cut into equal parts.
        """
        if batch % self.count:
            raise InputError(
                f"a batch of {batch} cannot be shared by {self.count} processes; "
                f"set batch to a multiple of {self.count} or start another number of processes"
            )
        size = batch // self.count
        return slice(self.index * size, (self.index + 1) * size)

    def gather(self, own: Tensor) -> Tensor:
        """Return the parts (n, ...) of all ranks as the whole batch (N, ...); gradients flow into the own part only."""
        if self.count == 1:
            return own
        with torch.no_grad():
            parts = list(self.fabric.all_gather(own.detach().contiguous()))
        parts[self.index] = own
        return torch.cat(parts)

    def join_norms(self, network: nn.Module) -> nn.Module:
        """Let batch normalisation take the statistics of the whole batch, where ranks train on GPUs.

        PyTorch has that for GPUs alone: on CPUs each rank normalises its own part.
        """
        if self.count == 1 or self.fabric.device.type != "cuda":
            return network
        joined: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return joined

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass of a loss of the whole batch.

        Each rank has the gradient of its own part, and data parallel training averages over ranks: the factor makes
        the sum of it.
        """
        self.fabric.backward(loss if self.count == 1 else loss * self.count)

    def of_first(self, value: Value) -> Value:
        """Return the first rank's value on every rank."""
        return value if self.count == 1 else self.fabric.broadcast(value)

    def wait(self) -> None:
        """Wait until every rank has come here."""
        if self.count > 1:
            self.fabric.barrier()
