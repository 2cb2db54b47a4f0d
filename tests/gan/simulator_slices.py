"""Miniature short-axis masks for the tests of the simulator: rings with lesions, an apex, an empty slice."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.seeds import random_generator
from imaging.labels import EMIDEC_LABELS, LabelSet, Tissue, patient_group
from imaging.slices.store import SliceStore, SliceStoreWriter, StoreAttributes

SIZE = 64


def ring(
    centre: tuple[float, float] = (32.0, 32.0),
    inner: float = 11.0,
    wall: float = 7.0,
    stretch: float = 1.0,
    size: int = SIZE,
) -> NDArray[np.uint8]:
    """A myocardial ring around a cavity."""
    rows, columns = np.indices((size, size))
    radius = np.hypot((rows - centre[0]) * stretch, columns - centre[1])
    return np.where(radius < inner, 1, np.where(radius < inner + wall, 2, 0)).astype(np.uint8)


def add_lesion(mask: NDArray[np.uint8], angle: float, half: float, no_reflow: bool) -> NDArray[np.uint8]:
    """Turn a sector of the ring's inner two thirds into infarct, its innermost part into no-reflow."""
    mask = mask.copy()
    centre = np.argwhere(mask == 1).mean(axis=0)
    inner = np.sqrt((mask == 1).sum() / np.pi)
    wall = np.sqrt((mask > 0).sum() / np.pi) - inner
    rows, columns = np.indices(mask.shape)
    radius = np.hypot(rows - centre[0], columns - centre[1])
    turn = np.arctan2(rows - centre[0], columns - centre[1]) - angle
    away = np.abs(np.mod(turn + np.pi, 2 * np.pi) - np.pi)
    mask[(mask == 2) & (away < half) & (radius < inner + 0.7 * wall)] = Tissue.INFARCT
    if no_reflow:
        core = (mask == 3) & (away < half * 0.6) & (radius < inner + 0.4 * wall)
        mask[core] = Tissue.NO_REFLOW
    return mask


def draw_masks(patients: int = 8, lesions: bool = True) -> tuple[NDArray[np.uint8], list[str]]:
    """Three slices a patient: patients in turn normal, with infarct, with no-reflow."""
    masks, names = [], []
    for patient in range(patients):
        rng = random_generator(0, "simulator test slices", patient)
        centre = (rng.uniform(29, 35), rng.uniform(29, 35))
        for part in (1.0, 0.9, 0.7):
            mask = ring(centre, rng.uniform(9, 13) * part, rng.uniform(6, 8) * part, rng.uniform(0.85, 1.15))
            if lesions and patient % 3:
                mask = add_lesion(mask, rng.uniform(-3, 3), rng.uniform(0.8, 1.3), patient % 3 == 2)
            masks.append(mask)
            names.append(f"P{patient:03d}")
    return np.stack(masks), names


def write_store(
    path: Path, masks: NDArray[np.uint8], patients: list[str], labels: LabelSet = EMIDEC_LABELS
) -> SliceStore:
    """Write masks with bright noisy images, so that every pixel outside a hole is above 0."""
    rng = random_generator(0, "simulator test images")
    images = rng.uniform(0.2, 1.0, masks.shape).astype(np.float16)
    attributes = StoreAttributes(labels.name, masks.shape[1], 1.0, "test", "source", {}, 0, "1", {})
    rows = pd.DataFrame(
        {
            "case_id": patients,
            "frame": "",
            "donor_ids": "",
            "slice_index": np.arange(len(masks)),
            "replica": 0,
            "origin": "real",
            "group": [patient_group(mask, labels) for mask in masks],
            "part": "train",
        }
    )
    with SliceStoreWriter(path, attributes) as writer:
        writer.append(images, masks, rows)
    return SliceStore.open(path)
