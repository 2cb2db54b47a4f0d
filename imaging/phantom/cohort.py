"""The simulated patients, one after another; each depends on the configuration and its index alone."""

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from imaging.labels import EMIDEC_LABELS, Tissue
from imaging.phantom.anatomy import Anatomy, Field2D, Wall, draw_anatomy, wall_at
from imaging.phantom.config import PhantomConfig
from imaging.phantom.lesion import Lesion, draw_lesion, lesion_masks
from imaging.phantom.scanner import Contrast, acquire, draw_contrast, paint_chest, paint_tissues
from imaging.seeds import random_generator
from imaging.study import Study

_FINE = 3  # rendered so many times finer in plane than the native grid: partial volume
_SUBSLICES = 2  # and at so many levels within a slice: partial volume through the plane


def read_phantom(config: PhantomConfig) -> Iterator[Study]:
    """Yield every patient of the cohort."""
    for index in range(config.patients):
        yield simulate_patient(config, index)


def simulate_patient(config: PhantomConfig, index: int) -> Study:
    """Simulate one patient's stack of short-axis slices with its label map.

    Returns:
        A study whose image and mask are (S, H, W), base first, on its own native grid.
    """
    rng = random_generator(config.seed, "phantom patient", index)
    group = _groups(config)[index]
    anatomy, contrast = draw_anatomy(config, rng), draw_contrast(rng)
    lesion = draw_lesion(anatomy, group, rng)
    pixel_mm, slice_mm = rng.uniform(*config.pixel_mm), rng.uniform(*config.slice_mm)
    slices = int(rng.integers(config.slices[0], config.slices[1] + 1))
    signal, mask = _render(config, anatomy, contrast, lesion, pixel_mm, slices, rng)
    return Study(
        case_id=f"Phantom_{index + 1:03d}",
        frame="",
        group=group,
        image=acquire(signal, config, contrast, rng),
        mask=mask,
        spacing_mm=(slice_mm, pixel_mm, pixel_mm),
        affine=np.diag([pixel_mm, pixel_mm, slice_mm, 1.0]),
        label_set=EMIDEC_LABELS.name,
        path=f"phantom patient {index}",
    )


def _groups(config: PhantomConfig) -> list[str]:
    """Return every patient's group: exact shares, in a seeded order."""
    normal = round(config.normal_share * config.patients)
    no_reflow = min(round(config.no_reflow_share * config.patients), config.patients - normal)
    infarct = config.patients - normal - no_reflow
    groups = ["normal"] * normal + ["infarct"] * infarct + ["no_reflow"] * no_reflow
    random_generator(config.seed, "phantom groups").shuffle(groups)
    return groups


def _render(
    config: PhantomConfig,
    anatomy: Anatomy,
    contrast: Contrast,
    lesion: Lesion | None,
    pixel_mm: float,
    slices: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return noise-free signal and labels (S, H, W), both averaged from a finer grid."""
    side = round(config.field_mm / pixel_mm)
    rows_mm, columns_mm = _positions(side * _FINE, pixel_mm / _FINE)
    chest = paint_chest(anatomy, contrast, rows_mm, columns_mm, rng)
    signal = np.zeros((slices, side, side), np.float32)
    shares = np.zeros((EMIDEC_LABELS.num_classes, slices, side, side), np.float32)
    for place in range(slices):
        for part in range(_SUBSLICES):
            level = (place + (part + 0.5) / _SUBSLICES) / slices
            wall = wall_at(anatomy, level, rows_mm, columns_mm)
            infarct, no_reflow = _lesion(lesion, wall, level)
            fine = paint_tissues(anatomy, contrast, wall, level, infarct, no_reflow, chest)
            signal[place] += _coarser(fine, side) / _SUBSLICES
            labels = _labels(wall, infarct, no_reflow)
            for value in range(EMIDEC_LABELS.num_classes):
                shares[value, place] += _coarser((labels == value).astype(np.float32), side)
    return signal, shares.argmax(axis=0).astype(np.uint8)


def _lesion(lesion: Lesion | None, wall: Wall, level: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    if lesion is None:
        nothing = np.zeros(wall.depth.shape, bool)
        return nothing, nothing
    return lesion_masks(lesion, wall, level)


def _labels(wall: Wall, infarct: NDArray[np.bool_], no_reflow: NDArray[np.bool_]) -> NDArray[np.uint8]:
    labels = np.zeros(wall.depth.shape, np.uint8)
    labels[wall.cavity] = Tissue.CAVITY
    labels[wall.myocardium] = Tissue.NORMAL_MYOCARDIUM
    labels[infarct] = Tissue.INFARCT
    labels[no_reflow] = Tissue.NO_REFLOW
    return labels


def _positions(side: int, step_mm: float) -> tuple[Field2D, Field2D]:
    along = ((np.arange(side) + 0.5) * step_mm).astype(np.float32)
    rows, columns = np.meshgrid(along, along, indexing="ij")
    return rows, columns


def _coarser(plane: NDArray[np.float32], side: int) -> Field2D:
    return np.asarray(cv2.resize(plane, (side, side), interpolation=cv2.INTER_AREA), np.float32)
