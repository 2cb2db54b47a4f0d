"""Masks simulated by one process or several, with the same result.

Every mask has its own seed, so it does not matter which process makes it. Each block of masks goes through a
pipe, which holds a worker back until the parent has read: memory does not grow with the number of masks. A
worker whose parent has died finds its pipe closed and ends.
"""

import multiprocessing
import signal
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection

import cv2
import numpy as np
from numpy.typing import NDArray

from gan.simulator.config import SimulatorConfig
from gan.simulator.simulator import Draft, MaskSimulator
from imaging.errors import InputError
from imaging.labels import LABEL_SETS, LabelSet
from imaging.seeds import random_generator

_BLOCK_MASKS = 64

Block = list[Draft]


@dataclass(frozen=True, eq=False)
class SimulationTask:
    """What every worker needs.

    Attributes:
        masks: (N, H, W) label maps of the training slices.
        patients: Their N patients.
        label_set: The name of the label set.
        config: The simulator's configuration.
        spacing_mm: In-plane pixel size.
        categories: (M,) what each mask shall hold.
        seed: Together with a mask's number it decides the mask.
    """

    masks: NDArray[np.uint8]
    patients: tuple[str, ...]
    label_set: str
    config: SimulatorConfig
    spacing_mm: float
    categories: NDArray[np.str_]
    seed: int

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return -(-len(self.categories) // _BLOCK_MASKS)

    def simulator(self) -> MaskSimulator:
        """Return the simulator fitted on the training slices."""
        return MaskSimulator(self.masks, self.patients, self.labels, self.config, self.spacing_mm)

    @property
    def labels(self) -> LabelSet:
        """The label set."""
        return LABEL_SETS[self.label_set]


def simulate_blocks(task: SimulationTask, processes: int) -> Generator[Block, None, None]:
    """Return all masks of a task block by block, in order, made by `processes` processes.

    Raises:
        InputError: A mask could not be simulated, or a process ended without a word.
    """
    processes = min(processes, task.blocks)
    if processes > 1:
        yield from _blocks_from_workers(task, processes)
        return
    simulator = task.simulator()
    for block in range(task.blocks):
        yield _make_block(task, simulator, block)


def _make_block(task: SimulationTask, simulator: MaskSimulator, block: int) -> Block:
    numbers = range(block * _BLOCK_MASKS, min((block + 1) * _BLOCK_MASKS, len(task.categories)))
    return [
        simulator.simulate(str(task.categories[number]), random_generator(task.seed, "lesion masks", number))
        for number in numbers
    ]


def _blocks_from_workers(task: SimulationTask, processes: int) -> Generator[Block, None, None]:
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
    except EOFError as error:
        raise InputError(
            "a simulation process ended without a word, as when memory runs out; use fewer processes"
        ) from error
    if isinstance(message, str):
        raise InputError(message)
    return message


def _work(pipe: "Connection[Block | str, None]", task: SimulationTask, number: int, processes: int) -> None:
    """Send every `processes`-th block, from `number` on; runs in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent closes the pipe when it is interrupted
    cv2.setNumThreads(1)
    try:
        simulator = task.simulator()
        for block in range(number, task.blocks, processes):
            pipe.send(_make_block(task, simulator, block))
    except BrokenPipeError:
        pass  # the parent has stopped or is gone
    except InputError as error:
        pipe.send(str(error))
    except (ArithmeticError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        pipe.send(f"a simulation process failed: {type(error).__name__}: {error}")
