"""Miniature slices and configurations for the tests of the gan."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from common.seeds import random_generator
from gan.generation.hole import ventricle_hole
from gan.training.config import Pix2PixConfig
from imaging.slices.store import SliceStore, SliceStoreWriter, StoreAttributes
from runtime.compute import Compute, choose_compute

SIZE = 32


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def compute() -> Compute:
    return choose_compute("cpu", "fp32")


@pytest.fixture
def tiny_config() -> Pix2PixConfig:
    return Pix2PixConfig(
        widths=(8, 16, 16),
        full_resolution_width=8,
        discriminator_widths=(8, 16),
        batch=2,
        steps=4,
        validate_every=2,
        hole_margin_px=2,
        validation_slices=4,
    )


def draw_slices(count: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Rings with a lesion on a bright background, each at its own place and contrast, with grain."""
    images, masks = [], []
    for index in range(count):
        rng = random_generator(seed, "gan test slices", index)
        row, column = rng.uniform(14, 18, size=2)
        y, x = np.mgrid[:SIZE, :SIZE]
        radius, angle = np.hypot(y - row, x - column), np.arctan2(y - row, x - column)
        mask = np.where(radius < 5, 1, np.where(radius < 9, 2, 0)).astype(np.uint8)
        mask[(mask == 2) & (np.abs(angle) < 1)] = 3
        mask[(mask == 3) & (np.abs(angle) < 0.4) & (radius < 7)] = 4
        levels = np.array([0.5, 0.6, 0.15, 0.9, 0.3]) * rng.uniform(0.8, 1.1)
        images.append(np.clip(levels[mask] + rng.normal(0, 0.03, mask.shape), 0, 1))
        masks.append(mask)
    return np.stack(images).astype(np.float32), np.stack(masks)


@pytest.fixture
def make_slices() -> Callable[..., tuple[NDArray[np.float32], NDArray[np.uint8]]]:
    return draw_slices


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., SliceStore]:
    """Write a store of `count` slices; as simulated masks it has the extra `hole` and no ventricle in its images."""

    def make(count: int = 6, seed: int = 0, origin: str = "augmented", part: str | list[str] = "train") -> SliceStore:
        images, masks = draw_slices(count, seed)
        path = tmp_path / f"{origin}_{seed}.h5"
        attributes = StoreAttributes("emidec", SIZE, 1.0, "test", "source", {}, seed, "test", {})
        rows = pd.DataFrame(
            {
                "case_id": [f"P{index:03d}" for index in range(count)],
                "frame": "",
                "donor_ids": "P900;P901" if origin == "synthetic" else "",
                "slice_index": 0,
                "replica": 0,
                "origin": origin,
                "group": "no_reflow",
                "part": part,
            }
        )
        holes = ventricle_hole(masks, 2)
        simulated = origin == "synthetic"
        with SliceStoreWriter(path, attributes, ("hole",) if simulated else ()) as writer:
            extras = {"hole": holes} if simulated else {}
            writer.append(np.where(holes > 0, 0, images) if simulated else images, masks, rows, **extras)
        return SliceStore.open(path)

    return make
