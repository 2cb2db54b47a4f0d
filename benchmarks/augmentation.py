"""Augmented slices a second: one process and several, ten times the slices, and the peers' transforms.

Writes class-balanced augmented slices into stores and prints seconds, peak memory (resident, all processes
together) and ratios of one run. TorchIO and MONAI take part where they are installed, one slice at a time in
this process as our own recipe does in that comparison.

    python benchmarks/augmentation.py --slices 10000 --processes 2 [--store real_slices/fold_0/slices.h5]
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import psutil
from numpy.typing import NDArray

from imaging.augmentation.recipe import AugmentConfig, augment_slice, build_recipe
from imaging.augmentation.varied import write_augmented_slices
from imaging.slices.balance import BalanceConfig
from imaging.slices.store import SliceStore, SliceStoreWriter, StoreAttributes

SIZE = 128
Vary = Callable[[NDArray[np.float32], NDArray[np.uint8], int], object]


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Yield a list whose only entry ends as the peak resident memory in GB of this process and its children."""
    peak, stop = [0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.1):
            peak[0] = max(peak[0], sum(map(resident, [own, *own.children(recursive=True)])))

    own = psutil.Process()
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def resident(process: psutil.Process) -> float:
    """Return the resident memory in GB, 0 where the process has just ended."""
    try:
        return process.memory_info().rss / 1e9
    except psutil.NoSuchProcess:
        return 0.0


def write_rings(path: Path, count: int = 310) -> SliceStore:
    """Write a store of drawn rings, half of them with a lesion and a fifth with no-reflow in it."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices((SIZE, SIZE)) - SIZE / 2
    radius = np.hypot(rows, columns)
    masks = np.zeros((count, SIZE, SIZE), np.uint8)
    for number, mask in enumerate(masks):
        inner = rng.uniform(16, 26)
        mask[radius < inner + 10] = 2
        mask[radius < inner] = 1
        if number % 2:
            mask[(mask == 2) & (columns > 0)] = 3
        if number % 5 == 0:
            mask[(mask == 3) & (abs(rows) < 5)] = 4
    images = np.clip(masks / 5 + rng.normal(0.1, 0.03, masks.shape), 0, 1)
    attributes = StoreAttributes("emidec", SIZE, 1.0, "drawn", "drawn", {}, 0, "benchmark", {})
    columns_of_rows = {"case_id": "R1", "frame": "", "donor_ids": "", "replica": 0, "origin": "real", "group": "normal"}
    columns_of_rows |= {"part": "train"}
    with SliceStoreWriter(path, attributes) as writer:
        writer.append(images, masks, pd.DataFrame({"slice_index": np.arange(count)} | columns_of_rows))
    return SliceStore.open(path)


def timed_write(path: Path, real: SliceStore, count: int, processes: int) -> tuple[float, float]:
    """Return seconds and peak memory in GB of writing `count` slices."""
    start = time.perf_counter()
    with peak_memory() as peak:
        train = np.arange(len(real))
        write_augmented_slices(path, real, train, count, AugmentConfig(), BalanceConfig(), 0, processes, "benchmark")
    seconds = time.perf_counter() - start
    print(
        f"{count:6d} slices, {processes} processes: {seconds:6.1f} s, {count / seconds:5.0f} a second, {peak[0]:.2f} GB"
    )
    return seconds, peak[0]


def ours() -> Vary:
    """Return our recipe."""
    recipe = build_recipe(AugmentConfig())
    return lambda image, mask, seed: augment_slice(recipe, image, mask, seed)


def torchio() -> Vary:
    """Return TorchIO's transforms nearest to our recipe."""
    import torch
    import torchio as tio

    config = AugmentConfig()
    points, bend = 7, 3 * config.elastic_px
    steps = tio.Compose(
        [
            tio.RandomFlip(axes=(0, 1), flip_probability=config.flip_probability),
            tio.RandomAffine(
                scales=(*config.scale, *config.scale, 1, 1),
                degrees=(0, 0, 0, 0, -config.rotation_deg, config.rotation_deg),
                translation=(-config.shift_px, config.shift_px, -config.shift_px, config.shift_px, 0, 0),
                p=config.geometry_probability,
            ),
            tio.RandomElasticDeformation(
                num_control_points=(points, points, 5), max_displacement=(bend, bend, 0), p=config.elastic_probability
            ),
            tio.RandomBiasField(coefficients=config.shading, order=2, p=config.shading_probability),
            tio.RandomGamma(log_gamma=tuple(np.log(config.gamma)), p=config.gamma_probability),
            tio.RandomBlur(std=(*config.blur_px, *config.blur_px, 0, 0), p=config.blur_probability),
            tio.RandomGhosting(num_ghosts=2, axes=(0, 1), intensity=(0, config.ghost), p=config.ghost_probability),
            tio.RandomNoise(std=config.noise, p=config.noise_probability),
        ]
    )

    def vary(image: NDArray[np.float32], mask: NDArray[np.uint8], seed: int) -> object:
        torch.manual_seed(seed)
        return steps(
            tio.Subject(
                image=tio.ScalarImage(tensor=torch.from_numpy(image)[None, ..., None]),
                mask=tio.LabelMap(tensor=torch.from_numpy(mask)[None, ..., None]),
            )
        )

    return vary


def monai() -> Vary:
    """Return MONAI's transforms nearest to our recipe."""
    import torch
    from monai import transforms as mt
    from monai.data import set_track_meta

    set_track_meta(False)  # plain tensors: quicker, and its two-dimensional blur needs them
    config, both = AugmentConfig(), ["image", "mask"]
    turn, shift = np.deg2rad(config.rotation_deg), config.shift_px
    modes = {"mode": ("bilinear", "nearest"), "padding_mode": "reflection"}
    steps = mt.Compose(
        [
            mt.RandFlipd(both, prob=config.flip_probability, spatial_axis=0),
            mt.RandFlipd(both, prob=config.flip_probability, spatial_axis=1),
            mt.RandAffined(
                both,
                prob=config.geometry_probability,
                rotate_range=turn,
                translate_range=shift,
                scale_range=0.13,
                **modes,
            ),
            mt.Rand2DElasticd(both, spacing=(10, 10), magnitude_range=(0, 3), prob=config.elastic_probability, **modes),
            mt.RandBiasFieldd("image", degree=2, coeff_range=(0, config.shading), prob=config.shading_probability),
            mt.RandShiftIntensityd("image", offsets=config.brightness, prob=config.contrast_probability),
            mt.RandScaleIntensityd("image", factors=config.contrast, prob=config.contrast_probability),
            mt.RandAdjustContrastd("image", gamma=config.gamma, prob=config.gamma_probability),
            mt.RandGaussianSmoothd(
                "image", sigma_x=config.blur_px, sigma_y=config.blur_px, prob=config.blur_probability
            ),
            mt.RandRicianNoised("image", std=config.noise[1], sample_std=True, prob=config.noise_probability),
        ]
    )

    def vary(image: NDArray[np.float32], mask: NDArray[np.uint8], seed: int) -> object:
        steps.set_random_state(seed)
        return steps({"image": torch.from_numpy(image)[None], "mask": torch.from_numpy(mask)[None]})

    return vary


def milliseconds_a_slice(make: Callable[[], Vary], real: SliceStore, count: int) -> float | None:
    """Return the time to vary one slice, or None where the library is not installed."""
    try:
        vary = make()
    except ImportError:
        return None
    images, masks = real.images().astype(np.float32), real.masks()
    for seed in range(5):
        vary(images[seed], masks[seed], seed)
    start = time.perf_counter()
    for seed in range(count):
        vary(images[seed % len(images)], masks[seed % len(masks)], seed)
    return 1000 * (time.perf_counter() - start) / count


def compare_with_peers(real: SliceStore, count: int) -> None:
    """Print the time of a slice in each library, and how many times ours that is."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    own = milliseconds_a_slice(ours, real, count)
    cv2.setNumThreads(threads)
    assert own is not None
    print(f"one slice, this recipe: {own:.2f} ms")
    for name, make in {"TorchIO": torchio, "MONAI": monai}.items():
        peer = milliseconds_a_slice(make, real, count)
        print(f"one slice, {name}: " + ("not installed" if peer is None else f"{peer:.2f} ms, {peer / own:.1f} x ours"))


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--peer-slices", type=int, default=300)
    parser.add_argument("--store", type=Path, help="real slices; drawn rings where not given")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "augmented.h5"
        real = SliceStore.open(given.store) if given.store else write_rings(Path(folder) / "real.h5")
        small, small_memory = timed_write(target, real, given.slices // 10, given.processes)
        several, memory = timed_write(target, real, given.slices, given.processes)
        alone, _ = timed_write(target, real, given.slices, 1)
        print(f"{given.processes} processes against 1: {alone / several:.2f} x as fast")
        print(f"ten times the slices: {several / small:.1f} x the time, {memory / small_memory:.2f} x the memory")
        compare_with_peers(real, given.peer_slices)


if __name__ == "__main__":
    main()
