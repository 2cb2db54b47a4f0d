"""Random batches from a slice store against one `.npy` pair a slice and against h5py's own indexing.

Prints milliseconds a batch and ratios of one run, with the files in the page cache (warm) and thrown out of it
(cold), and what writing and verifying the store cost.

    python benchmarks/slice_store.py --slices 10000 --batch 64 [--folder DIR]
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from imaging.slices.store import SliceStore, SliceStoreWriter, StoreAttributes

SIZE = 128
BLOCK = 500
Read = Callable[[NDArray[np.int64]], object]


def slices_of(block: int) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """Return images and masks (BLOCK, SIZE, SIZE) of a block."""
    rng = np.random.default_rng(block)
    shape = (BLOCK, SIZE, SIZE)
    return rng.random(shape, dtype=np.float32).astype(np.float16), rng.integers(0, 5, shape, dtype=np.uint8)


def write_store(path: Path, count: int) -> None:
    """Write `count` slices, block by block."""
    attributes = StoreAttributes("emidec", SIZE, 1.0, "drawn", "drawn", {}, 0, "benchmark", {})
    plain = {"case_id": "R1", "frame": "", "donor_ids": "", "slice_index": 0, "origin": "augmented", "group": "normal"}
    plain |= {"part": "train"}
    with SliceStoreWriter(path, attributes) as writer:
        for block in range(count // BLOCK):
            images, masks = slices_of(block)
            writer.append(images, masks, pd.DataFrame({"replica": np.arange(BLOCK) + BLOCK * block} | plain))


def write_pairs(folder: Path, count: int) -> None:
    """Write the same slices as one pair of `.npy` files each."""
    folder.mkdir()
    for block in range(count // BLOCK):
        for number, (image, mask) in enumerate(zip(*slices_of(block), strict=True), start=BLOCK * block):
            np.save(folder / f"image_{number}.npy", image)
            np.save(folder / f"mask_{number}.npy", mask)


def from_store(path: Path) -> Read:
    """Return how a batch is read from the store."""
    store = SliceStore.open(path, verify=False)
    return lambda index: (store.images(index), store.masks(index))


def from_h5py(path: Path) -> Read:
    """Return how h5py's own indexing reads a batch: sorted, without repeats, then put in order."""
    file = h5py.File(path, "r")

    def read(index: NDArray[np.int64]) -> object:
        unique, back = np.unique(index, return_inverse=True)
        return file["images"][unique][back], file["masks"][unique][back]

    return read


def from_pairs(folder: Path) -> Read:
    """Return how a batch is read from the pairs."""

    def stack(kind: str, index: NDArray[np.int64]) -> NDArray[np.generic]:
        return np.stack([np.load(folder / f"{kind}_{number}.npy") for number in index])

    return lambda index: (stack("image", index), stack("mask", index))


def drop_from_cache(paths: Iterable[Path]) -> None:
    """Ask the kernel to forget the content of these files."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def milliseconds_a_batch(read: Read, count: int, batch: int, batches: int) -> float:
    """Return the median time of one random batch."""
    rng, times = np.random.default_rng(0), []
    for _ in range(batches):
        index = rng.integers(0, count, batch)
        start = time.perf_counter()
        read(index)
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))


def seconds(work: Callable[[], object]) -> float:
    """Return how long `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(folder: Path, count: int, batch: int) -> None:
    """Write both layouts, then print what a batch costs in each."""
    path, pairs = folder / "slices.h5", folder / "pairs"
    small = seconds(lambda: write_store(path, max(count // 10, BLOCK)))
    large = seconds(lambda: write_store(path, count))
    print(f"writing {count} slices: {large:.1f} s, {large / small:.1f} x the time of a tenth")
    print(f"opening and verifying: {seconds(lambda: SliceStore.open(path)):.2f} s")
    write_pairs(pairs, count)
    files = {"store": [path], "pairs": list(pairs.iterdir()), "h5py": [path]}
    readers = {"store": from_store(path), "pairs": from_pairs(pairs), "h5py": from_h5py(path)}
    for state, batches in (("cold", 20), ("warm", 200)):
        cost = {}
        for name, read in readers.items():
            if state == "cold":
                drop_from_cache(files[name])
            else:
                read(np.arange(count))
            cost[name] = milliseconds_a_batch(read, count, batch, batches)
        ratios = (
            f"pairs {cost['pairs'] / cost['store']:.1f} x, h5py {cost['h5py'] / cost['store']:.1f} x the store's time"
        )
        print(f"{state}: " + ", ".join(f"{name} {value:.2f} ms" for name, value in cost.items()) + f"; {ratios}")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--folder", type=Path, help="where to put the files (1 GB for 10,000 slices)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        compare(Path(folder), given.slices, given.batch)


if __name__ == "__main__":
    main()
