"""Simulated masks written into a slice store, class-balanced, each with the background it will be drawn into.

Masks simulated by one process or several, with the same result.

Every mask has its own seed, so it does not matter which process makes it.
"""

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.errors import InputError
from common.processes import make_blocks
from common.progress import track
from common.seeds import random_generator
from gan.simulator.config import SimulatorConfig
from gan.simulator.simulator import Draft, MaskSimulator
from imaging.labels import LABEL_SETS, LabelSet, patient_group
from imaging.slices.balance import BalanceConfig, apportion, category_shares
from imaging.slices.store import SliceStore, SliceStoreWriter, StoreAttributes

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
        return MaskSimulator(self.masks, self.patients, self.labels, self.config, self.spacing_mm, self.seed)

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


STATISTICS_COLUMNS = ("strategy", "category", "masks", "refused", "accepted_share", "refusals")


@dataclass(frozen=True, eq=False)
class SimulatedMask:
    """A simulated mask and the slice it will be drawn into.

    Attributes:
        mask: (H, W) label map.
        context: (H, W) the recipient's slice in [0, 1] with the hole set to 0.
        hole: (H, W) 1 where the generator shall draw.
        case_id: The recipient, whose background it is.
        frame: The recipient's frame.
        slice_index: The recipient's slice.
        part: The recipient's part of the fold.
        donor_ids: Every patient that lent a lesion, an anatomy or the background, the recipient among them.
        strategy: How it was made.
    """

    mask: NDArray[np.uint8]
    context: NDArray[np.float16]
    hole: NDArray[np.uint8]
    case_id: str
    frame: str
    slice_index: int
    part: str
    donor_ids: tuple[str, ...]
    strategy: str


def write_lesion_masks(
    path: Path,
    real: SliceStore,
    train_index: NDArray[np.integer],
    count: int,
    config: SimulatorConfig,
    balance: BalanceConfig,
    seed: int,
    processes: int,
    code_version: str,
) -> pd.DataFrame:
    """Write `count` simulated masks into a store at `path`: images are contexts, the extra `hole` the holes.

    Args:
        path: The slice store to write.
        real: The real slices.
        train_index: Rows of `real` that may lend anything: those of training patients.
        count: How many masks to write.
        config: The simulator.
        balance: Shares of masks with infarct and with no-reflow.
        seed: Decides everything; the bytes do not depend on `processes`.
        processes: How many processes to use; 1 works in this one.
        code_version: Version of the code, for the store's attributes.

    Returns:
        One row for each strategy and category with `STATISTICS_COLUMNS`: accepted masks, refused tries and why.

    Raises:
        InputError: No training slice, a count or number of processes below 1, no ventricle in the training
            slices, no acceptable mask, or a full disk.
    """
    if count < 1 or processes < 1 or not len(train_index):
        raise InputError(
            f"{path}: asked for {count} masks from {len(train_index)} training slices in {processes} "
            "processes; each must be at least 1"
        )
    train_index = np.asarray(train_index)
    task = _task(real, train_index, count, config, balance, seed)
    attributes = _attributes(real, count, config, balance, seed, code_version)
    drafts: list[tuple[str, str, Counter[tuple[str, str]]]] = []
    with (
        SliceStoreWriter(path, attributes, extras=("hole",)) as writer,
        closing(simulate_blocks(task, processes)) as blocks,
    ):
        for block in track(blocks, "simulating masks", task.blocks):
            made = list(_with_context(block, real, train_index))
            _append(writer, made, first=len(drafts), labels=real.label_set)
            names = task.categories[len(drafts) : len(drafts) + len(block)].tolist()
            drafts.extend((d.strategy, name, d.refusals) for d, name in zip(block, names, strict=True))
    return _statistics(drafts)


def draw_categories(simulator: MaskSimulator, count: int, balance: BalanceConfig, seed: int) -> NDArray[np.str_]:
    """Return what each of `count` masks shall hold, in random order; lesions only where they can be made."""
    possible = {name for name in ("no_infarct", "infarct", "no_reflow") if simulator.possible(name)}
    counts = apportion(count, category_shares(balance, possible))
    return random_generator(seed, "lesion masks: categories").permutation(
        np.repeat(list(counts), list(counts.values()))
    )


def _task(
    real: SliceStore,
    train_index: NDArray[np.integer],
    count: int,
    config: SimulatorConfig,
    balance: BalanceConfig,
    seed: int,
) -> SimulationTask:
    patients = tuple(real.rows["case_id"].iloc[train_index])
    spacing_mm = real.attributes.spacing_mm
    none = np.array([], dtype=str)
    task = SimulationTask(real.masks(train_index), patients, real.label_set.name, config, spacing_mm, none, seed)
    return replace(task, categories=draw_categories(task.simulator(), count, balance, seed))


def _with_context(
    block: Sequence[Draft], real: SliceStore, train_index: NDArray[np.integer]
) -> Iterator[SimulatedMask]:
    """Yield the block's masks with their backgrounds, read from the store."""
    images = real.images(train_index[[draft.row for draft in block]])
    patients = real.rows["case_id"].to_numpy()
    for draft, image in zip(block, images, strict=True):
        source = real.rows.iloc[int(train_index[draft.row])]
        yield SimulatedMask(
            mask=draft.mask,
            context=np.where(draft.hole > 0, np.float16(0), image),
            hole=draft.hole,
            case_id=str(source["case_id"]),
            frame=str(source["frame"]),
            slice_index=int(source["slice_index"]),
            part=str(source["part"]),
            donor_ids=tuple(sorted({str(patients[train_index[row]]) for row in draft.lenders})),
            strategy=draft.strategy,
        )


def _append(writer: SliceStoreWriter, made: Sequence[SimulatedMask], first: int, labels: LabelSet) -> None:
    rows = pd.DataFrame(
        {
            "case_id": [mask.case_id for mask in made],
            "frame": [mask.frame for mask in made],
            "donor_ids": [";".join(mask.donor_ids) for mask in made],
            "slice_index": [mask.slice_index for mask in made],
            "replica": np.arange(first, first + len(made)),
            "origin": "synthetic",
            "group": [patient_group(mask.mask, labels) for mask in made],
            "part": [mask.part for mask in made],
        }
    )
    stacked = [np.stack([getattr(mask, name) for mask in made]) for name in ("context", "mask", "hole")]
    writer.append(stacked[0], stacked[1], rows, hole=stacked[2])


def _attributes(
    real: SliceStore, count: int, config: SimulatorConfig, balance: BalanceConfig, seed: int, code_version: str
) -> StoreAttributes:
    return replace(
        real.attributes,
        parent_digests={"real": real.digest},
        seed=seed,
        code_version=code_version,
        parameters={
            "count": count,
            "simulator": config.model_dump(mode="json"),
            "balance": balance.model_dump(mode="json"),
        },
    )


def _statistics(drafts: Sequence[tuple[str, str, Counter[tuple[str, str]]]]) -> pd.DataFrame:
    """Count accepted masks and refused tries for each strategy and category."""
    accepted = Counter((strategy, category) for strategy, category, _ in drafts)
    refused: dict[tuple[str, str], Counter[str]] = {}
    for _, category, refusals in drafts:
        for (strategy, reason), times in refusals.items():
            refused.setdefault((strategy, category), Counter())[reason] += times
    rows = []
    for key in sorted(set(accepted) | set(refused)):
        reasons = refused.get(key, Counter())
        tries = accepted[key] + reasons.total()
        text = "; ".join(f"{reason}: {times}" for reason, times in reasons.most_common())
        rows.append((*key, accepted[key], reasons.total(), accepted[key] / tries, text))
    return pd.DataFrame(rows, columns=list(STATISTICS_COLUMNS))
