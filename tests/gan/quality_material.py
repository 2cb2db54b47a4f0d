"""Slices, stores and stand-ins for the instruments, for the tests of the proof of quality."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import binary_fill_holes, uniform_filter

from common.seeds import random_generator
from gan.quality.proof import Extractor, Instruments, Material
from imaging.slices.part import PartSlices
from imaging.slices.store import SliceStore, SliceStoreWriter, StoreAttributes
from tests.gan.conftest import SIZE, draw_slices
from tests.part_slices import part_slices

LEVELS = np.array([0.5, 0.6, 0.15, 0.9, 0.3])


def patients(count: int, seed: int, slices_each: int = 3) -> PartSlices:
    """Slices of `count` patients named after the seed."""
    images, masks = draw_slices(count * slices_each, seed)
    cases = np.repeat([f"S{seed}P{number:03d}" for number in range(count)], slices_each)
    return part_slices(images, masks, cases.tolist(), np.tile(np.arange(slices_each), count))


def drawn_well(masks, seed):
    """Fresh images of masks, as the test's patients have them."""
    rng = random_generator(seed, "drawn well")
    shades = LEVELS * rng.uniform(0.8, 1.1, size=(len(masks), 1, 5))[:, 0]
    images = np.stack([shade[mask] for shade, mask in zip(shades, masks, strict=True)])
    return np.clip(images + rng.normal(0, 0.03, masks.shape), 0, 1).astype(np.float32)


def mean_painted(masks):
    return (0.95 * LEVELS).astype(np.float32)[masks]


def store_of(slices: PartSlices, path: Path, holes=None) -> SliceStore:
    extras = {} if holes is None else {"hole": holes}
    attributes = StoreAttributes("emidec", SIZE, 1.0, "test", "source", {}, 0, "test", {})
    rows = pd.DataFrame(
        {
            "case_id": slices.case_ids,
            "frame": "",
            "donor_ids": slices.case_ids,
            "slice_index": slices.slice_index,
            "replica": np.arange(len(slices)),
            "origin": "synthetic",
            "group": "no_reflow",
            "part": "train",
        }
    )
    with SliceStoreWriter(path, attributes, tuple(extras)) as writer:
        writer.append(slices.images, slices.masks, rows, **extras)
    return SliceStore.open(path)


def summary_features(images):
    """Mean, deviation and grain (N, 3)."""
    images = np.asarray(images, np.float64)
    grain = images - uniform_filter(images, (0, 3, 3))
    return np.stack([images.mean(axis=(1, 2)), images.std(axis=(1, 2)), grain.std(axis=(1, 2))], axis=1)


def segment_by_shade(images):
    """Dark is myocardium, bright is infarct, and what they enclose is cavity."""
    found = np.zeros(images.shape, np.uint8)
    for image, mask in zip(uniform_filter(np.asarray(images, np.float32), (0, 2, 2)), found, strict=True):
        wall = (image < 0.38) | (image > 0.7)
        mask[binary_fill_holes(wall)] = 1
        mask[wall] = 2
        mask[image > 0.7] = 3
    return found


def instruments(validation: PartSlices, **more) -> Instruments:
    def draw(rows, seeds):
        return np.concatenate(
            [drawn_well(validation.masks[[row]], seed) for row, seed in zip(rows, seeds, strict=True)]
        )

    return Instruments(
        [Extractor("summary", summary_features)], segment_by_shade, draw, **{"classifier_steps": 4, **more}
    )


def material(path: Path, synthetic=None, redrawn=None) -> Material:
    """Material of a faithful generator; `synthetic` (images, of the training masks) and `redrawn` replace its work."""
    training, validation = patients(30, seed=1), patients(8, seed=2)
    images = drawn_well(training.masks, 3) if synthetic is None else synthetic(training)
    return Material(
        store_of(training.painted_as(images), path / "synthetic.h5"),
        training,
        validation,
        drawn_well(validation.masks, 4) if redrawn is None else redrawn(validation),
        mean_painted(validation.masks),
    )
