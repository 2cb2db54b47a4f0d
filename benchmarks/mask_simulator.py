"""Simulated masks a second, in one process and in several, and what the strategies' tries cost.

The masks are simulated from a slice store of real slices where one is given, else from drawn
rings with lesions. The same seed is used for each number of processes, and the files are compared.

    python benchmarks/mask_simulator.py --masks 5000 --processes 1,2 --store workspace/.../real_slices/fold_0/slices.h5
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.seeds import random_generator
from gan.simulator import SimulatorConfig, write_lesion_masks
from imaging.labels import EMIDEC_LABELS, patient_group
from imaging.slices.balance import BalanceConfig
from imaging.slices.store import SliceStore, SliceStoreWriter, StoreAttributes

SIZE = 128


def draw_ring(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return a ring (H, W) with a lesion of random place and size."""
    rows, columns = np.indices((SIZE, SIZE)) - SIZE / 2
    radius, angle = np.hypot(rows * rng.uniform(0.9, 1.1), columns), np.arctan2(rows, columns)
    inner, wall = rng.uniform(16, 26), rng.uniform(7, 11)
    mask = np.where(radius < inner, 1, np.where(radius < inner + wall, 2, 0)).astype(np.uint8)
    away = np.abs(np.mod(angle - rng.uniform(-np.pi, np.pi) + np.pi, 2 * np.pi) - np.pi)
    mask[(mask == 2) & (away < rng.uniform(0.5, 1.2)) & (radius < inner + 0.7 * wall)] = 3
    mask[(mask == 3) & (away < 0.4) & (radius < inner + 0.4 * wall)] = 4
    return mask


def write_rings(path: Path, slices: int) -> SliceStore:
    """Write a store of rings, seven to a patient."""
    masks = np.stack([draw_ring(random_generator(0, "benchmark rings", index)) for index in range(slices)])
    rows = pd.DataFrame(
        {
            "case_id": [f"R{index // 7:03d}" for index in range(slices)],
            "frame": "",
            "donor_ids": "",
            "slice_index": np.arange(slices) % 7,
            "replica": 0,
            "origin": "real",
            "group": [patient_group(mask, EMIDEC_LABELS) for mask in masks],
            "part": "train",
        }
    )
    attributes = StoreAttributes("emidec", SIZE, 1.0, "benchmark", "benchmark", {}, 0, "1", {})
    with SliceStoreWriter(path, attributes) as writer:
        writer.append(np.full(masks.shape, 0.5, np.float16), masks, rows)
    return SliceStore.open(path)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=int, default=5000)
    parser.add_argument("--processes", default="1,2", help="numbers of processes to compare")
    parser.add_argument("--store", type=Path, help="a slice store of real slices; default: drawn rings")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = SliceStore.open(arguments.store) if arguments.store else write_rings(Path(folder, "real.h5"), 310)
        digests = set()
        for processes in map(int, arguments.processes.split(",")):
            path = Path(folder, f"masks_{processes}.h5")
            start = time.perf_counter()
            statistics = write_lesion_masks(
                path,
                store,
                np.arange(len(store)),
                arguments.masks,
                SimulatorConfig(),
                BalanceConfig(),
                0,
                processes,
                "1",
            )
            seconds = time.perf_counter() - start
            digests.add(SliceStore.open(path).digest)
            print(
                f"{processes} processes: {arguments.masks} masks in {seconds:.1f} s, {arguments.masks / seconds:.0f}/s"
            )
        print(statistics.drop(columns="refusals").round(3).to_string(index=False))
        print("the same content for every number of processes" if len(digests) == 1 else "CONTENTS DIFFER")


if __name__ == "__main__":
    main()
