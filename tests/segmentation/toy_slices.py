"""Small slices with an author: a bright disc in a ring with a lesion, easy enough to learn in seconds."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from imaging.labels import EMIDEC_LABELS, Tissue
from imaging.slices.part import PartSlices
from imaging.slices.store import ROW_COLUMNS, SliceStore, SliceStoreWriter, StoreAttributes
from tests.part_slices import part_slices

PATIENTS = 4


def draw_slices(count: int, size: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Draw images (N, S, S) and masks: every second slice has an infarct, every fourth no-reflow."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    masks = np.zeros((count, size, size), np.uint8)
    for number, mask in enumerate(masks):
        middle = size / 2 + rng.uniform(-size / 16, size / 16, 2)
        distance = np.hypot(rows - middle[0], columns - middle[1]) / size
        mask[distance < 0.38] = Tissue.NORMAL_MYOCARDIUM
        mask[distance < 0.2] = Tissue.CAVITY
        if number % 2:
            mask[(distance >= 0.2) & (distance < 0.38) & (rows < middle[0])] = Tissue.INFARCT
        if number % 4 == 3:
            mask[(distance >= 0.2) & (distance < 0.3) & (rows < middle[0])] = Tissue.NO_REFLOW
    shades = np.array([0.1, 0.7, 0.3, 0.95, 0.5], np.float32)
    images = shades[masks] + rng.normal(0, 0.02, masks.shape).astype(np.float32)
    return np.clip(images, 0, 1), masks


def write_toy_store(path: Path, count: int = 8, size: int = 32, seed: int = 0) -> SliceStore:
    """Write and open a store of toy slices."""
    return write_store(path, *draw_slices(count, size, seed))


def write_store(
    path: Path,
    images: NDArray[np.float32],
    masks: NDArray[np.uint8],
    first_patient: int = 0,
    origin: str | list[str] = "real",
    part: str = "train",
) -> SliceStore:
    """Write and open a store of these slices (N, S, S) of four patients."""
    count = len(images)
    rows = pd.DataFrame(
        {
            "case_id": [f"Case_P{first_patient + number % PATIENTS:03}" for number in range(count)],
            "frame": "",
            "donor_ids": "",
            "slice_index": np.arange(count),
            "replica": 0,
            "origin": origin,
            "group": "no_reflow",
            "part": part,
        }
    )
    attributes = StoreAttributes(
        label_set=EMIDEC_LABELS.name,
        region_px=images.shape[-1],
        spacing_mm=1.0,
        intensity_rule="toy shades",
        source_digest="toy",
        parent_digests={},
        seed=0,
        code_version="toy",
        parameters={},
    )
    with SliceStoreWriter(path, attributes) as writer:
        writer.append(images, masks, rows[list(ROW_COLUMNS)])
    return SliceStore.open(path)


def toy_validation(count: int = 4, size: int = 32, seed: int = 9) -> PartSlices:
    """Draw validation slices of two patients."""
    images, masks = draw_slices(count, size, seed)
    return part_slices(images, masks, [f"Case_V{number % 2}" for number in range(count)])
