"""Masks simulated by one process or several, with the same result.

Every mask has its own seed, so it does not matter which process makes it.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from gan.simulator.config import SimulatorConfig
from gan.simulator.simulator import Draft, MaskSimulator
from imaging.labels import LABEL_SETS, LabelSet
from imaging.seeds import random_generator
from imaging.worker_pool import make_blocks

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

    def maker(self) -> Callable[[int], Block]:
        """Return what makes a block; fitted once in each process."""
        cv2.setNumThreads(1)  # masks are small and processes share the cores
        simulator = self.simulator()
        return lambda block: _make_block(self, simulator, block)

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
    return make_blocks(task, processes, "a simulation process")


def _make_block(task: SimulationTask, simulator: MaskSimulator, block: int) -> Block:
    numbers = range(block * _BLOCK_MASKS, min((block + 1) * _BLOCK_MASKS, len(task.categories)))
    return [
        simulator.simulate(str(task.categories[number]), random_generator(task.seed, "lesion masks", number))
        for number in numbers
    ]
