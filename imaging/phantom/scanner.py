"""The simulated patients, and what the scanner makes of them: partial volume, shading, motion, Rician noise, its units.

From a patient's anatomy to a noise-free volume and its label map, both averaged from a finer grid.

Patients come one after another; each depends on the configuration and its index alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from common.seeds import random_generator
from imaging.labels import EMIDEC_LABELS, PATIENT_GROUPS, Tissue, patient_group
from imaging.phantom.anatomy import (
    Chest,
    Heart,
    Lesion,
    draw_chest,
    draw_heart,
    draw_lesion,
    paint_chest,
    paint_heart,
    paint_lesion,
)
from imaging.phantom.config import PhantomConfig
from imaging.phantom.materials import LABEL_OF, Material, Polar, draw_signals, polar_grid, smooth_noise
from imaging.studies.study import Study

Volume = NDArray[np.float32]

_ZERO_SIGNAL = 2048.0  # where a 12-bit scanner puts zero in images that keep the signal's sign
_LARGEST = 4095.0
_COIL_BEYOND_MM = 90.0


@dataclass(frozen=True)
class Scanner:
    """How one patient is measured.

    Attributes:
        keeps_sign: Phase-sensitive reconstruction; otherwise magnitudes.
        noise: Standard deviation of either channel, fat's signal being 1.
        shading_mm: Distance over which the coil's sensitivity falls to 37 %.
        correction: How much of the shading is undone, 0 to 1; noise far from the coil is raised with it.
        point_spread_px: Standard deviation, native pixels.
        ghost: Strength of the breathing ghost, half a field away.
        gain: Scanner units for fat's signal.
    """

    keeps_sign: bool
    noise: float
    shading_mm: float
    correction: float
    point_spread_px: float
    ghost: float
    gain: float


def draw_scanner(config: PhantomConfig, rng: np.random.Generator) -> Scanner:
    """Draw how one patient is measured."""
    return Scanner(
        keeps_sign=bool(rng.random() < config.polarity_share),
        noise=rng.uniform(*config.noise),
        shading_mm=rng.uniform(*config.shading),
        correction=rng.uniform(0.4, 1.0),
        point_spread_px=rng.uniform(0.4, 0.75),
        ghost=max(rng.uniform(-0.05, 0.06), 0.0),
        gain=rng.uniform(700, 1600),
    )


def block_mean(fine: NDArray[np.generic], factor: int) -> Volume:
    """Return the mean (S, H / factor, W / factor) over blocks of a fine grid (S, H, W)."""
    size = (fine.shape[2] // factor, fine.shape[1] // factor)
    coarse = [cv2.resize(plane.astype(np.float32), size, interpolation=cv2.INTER_AREA) for plane in fine]
    return np.stack(coarse)


def coil_sensitivity(
    shape: tuple[int, int], pixel_mm: float, centre_mm: tuple[float, float], direction: float, fall_mm: float
) -> NDArray[np.float32]:
    """Return the sensitivity (H, W) of a coil on the chest, 1 at the heart's centre."""
    row, column = centre_mm
    coil = (row + _COIL_BEYOND_MM * np.sin(direction), column + _COIL_BEYOND_MM * np.cos(direction))
    rows = ((np.arange(shape[0]) + 0.5) * pixel_mm - coil[0])[:, None]
    columns = ((np.arange(shape[1]) + 0.5) * pixel_mm - coil[1])[None]
    away = np.hypot(rows, columns) - _COIL_BEYOND_MM
    return np.exp(-away / fall_mm).astype(np.float32)


def acquire(
    signal: Volume,
    sensitivity: NDArray[np.float32],
    scanner: Scanner,
    blur_px: NDArray[np.floating],
    rng: np.random.Generator,
) -> Volume:
    """Return what is measured of a noise-free volume (S, H, W), in whole scanner units from 0 to 4095.

    Args:
        signal: Fat being 1; negative before the signal's null.
        sensitivity: (H, W).
        scanner: How it is measured.
        blur_px: Motion along rows and columns (S, 2), standard deviations in native pixels.
        rng: Of texture and noise.
    """
    texture = 1 + 0.05 * smooth_noise(rng, signal.shape, 7) + 0.04 * smooth_noise(rng, signal.shape, 2.5)
    moved = _blur(signal * texture * sensitivity, np.hypot(blur_px, scanner.point_spread_px))
    moved += scanner.ghost * np.roll(moved, signal.shape[1] // 2, axis=1)
    real, imaginary = moved + _noise(moved, scanner, rng), _noise(moved, scanner, rng)
    measured = np.hypot(real, imaginary)  # Rician (Gudbjartsson and Patz, MRM 1995)
    if scanner.keeps_sign:
        measured = np.copysign(measured, real)
    evened = measured / sensitivity**scanner.correction
    return np.clip(np.rint(_ZERO_SIGNAL * scanner.keeps_sign + scanner.gain * evened), 0, _LARGEST)


def _noise(signal: Volume, scanner: Scanner, rng: np.random.Generator) -> Volume:
    return np.float32(scanner.noise) * rng.standard_normal(signal.shape, dtype=np.float32)


def _blur(volume: Volume, spread_px: NDArray[np.floating]) -> Volume:
    blurred = (
        cv2.GaussianBlur(plane, (0, 0), sigmaX=float(columns), sigmaY=float(rows))
        for plane, (rows, columns) in zip(volume, spread_px, strict=True)
    )
    return np.stack(list(blurred))


FINE = 2  # times finer in plane than the native grid: partial volume
_ROUGH_MM = 3.5  # size of the irregularities of borders
LEVELS = 2  # levels within a slice: partial volume through the plane


@dataclass(frozen=True)
class Patient:
    """Everything that was drawn of one patient before the scan.

    Attributes:
        shape: (S, H, W) of the native grid.
        pixel_mm: In-plane spacing.
        slice_mm: Slice spacing.
        centres_mm: The ventricle's centre in each slice (S, 2), rows and columns from the first corner.
        heart: At LEVELS levels a slice.
        lesion: At the same levels; None for a normal patient.
        chest: At one level a slice.
        signals: Of each material.
    """

    shape: tuple[int, int, int]
    pixel_mm: float
    slice_mm: float
    centres_mm: NDArray[np.float64]
    heart: Heart
    lesion: Lesion | None
    chest: Chest
    signals: NDArray[np.float32]

    @classmethod
    def draw(cls, config: PhantomConfig, group: str, rng: np.random.Generator) -> "Patient":
        """Draw one patient of `group`."""
        slices = int(rng.integers(config.slices[0], config.slices[1] + 1))
        height, width = (int(n) for n in rng.integers(config.matrix_px[0], config.matrix_px[1] + 1, 2))
        pixel_mm = float(rng.uniform(*config.pixel_mm))
        levels = ((np.arange(slices * LEVELS) + 0.5) / (slices * LEVELS)).astype(np.float32)
        heart = draw_heart(config, levels, group != "normal", rng)
        middle = pixel_mm / 2 * np.array([height, width])
        return cls(
            shape=(slices, height, width),
            pixel_mm=pixel_mm,
            slice_mm=float(rng.uniform(*config.slice_mm)),
            centres_mm=_centres(middle, slices, config.off_centre_mm, rng),
            heart=heart,
            lesion=None if group == "normal" else draw_lesion(heart.septum, levels, group == "no_reflow", rng),
            chest=draw_chest(levels.reshape(slices, LEVELS).mean(axis=1), rng),
            signals=draw_signals(rng.uniform(*config.inversion_error), rng),
        )


def render(patient: Patient, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return the noise-free signal and the labels, both (S, H, W) on the native grid."""
    fine_shape = (patient.shape[1] * FINE, patient.shape[2] * FINE)
    polar = polar_grid(patient.centres_mm, fine_shape, patient.pixel_mm / FINE)
    rough = smooth_noise(rng, polar.radius.shape, _ROUGH_MM * FINE / patient.pixel_mm)
    chest = paint_chest(patient.chest, polar, rough)
    signal = block_mean(patient.signals[chest], FINE)
    mask = np.zeros(patient.shape, np.uint8)
    window = _window(patient)
    fine = tuple(slice(side.start * FINE, side.stop * FINE) for side in window)
    levels = _paint_levels(patient, polar.window(*fine), chest[:, *fine], np.ascontiguousarray(rough[:, *fine]))
    signal[:, *window] = _average([patient.signals[level] for level in levels])
    mask[:, *window] = _majority([LABEL_OF[level] for level in levels])
    return signal, mask


def _centres(
    middle_mm: NDArray[np.float64], slices: int, off_centre_mm: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return the centre of each slice: off the middle, along a tilted axis, with unequal breath-holds."""
    tilt = rng.uniform(-7, 7, 2) * np.linspace(-1, 1, slices)[:, None] if slices > 1 else 0.0
    return middle_mm + rng.uniform(-off_centre_mm, off_centre_mm, 2) + tilt + rng.normal(0, 0.7, (slices, 2))


def _window(patient: Patient) -> tuple[slice, slice]:
    """Return the native rows and columns that hold the heart in every slice."""
    reach = float(patient.heart.fat.max()) + 2 * patient.pixel_mm
    first = np.floor((patient.centres_mm.min(axis=0) - reach) / patient.pixel_mm).astype(int)
    last = np.ceil((patient.centres_mm.max(axis=0) + reach) / patient.pixel_mm).astype(int)
    rows, columns = (slice(max(a, 0), min(b, n)) for a, b, n in zip(first, last, patient.shape[1:], strict=True))
    return rows, columns


def _paint_levels(
    patient: Patient, polar: Polar, chest: NDArray[np.uint8], rough: NDArray[np.float32]
) -> list[NDArray[np.uint8]]:
    """Return the materials (S, H, W) of heart and chest at each level within the slices."""
    inside = polar.radius < polar.look_up(patient.chest.inner)
    painted = []
    for first in range(LEVELS):
        levels = slice(first, None, LEVELS)
        heart = paint_heart(patient.heart, polar, levels, rough)
        if patient.lesion is not None:
            paint_lesion(heart, patient.heart, patient.lesion, polar, levels, rough)
        painted.append(np.where((heart != Material.AIR) & inside, heart, chest))
    return painted


def _average(levels: list[NDArray[np.generic]]) -> NDArray[np.float32]:
    """Return the mean of fine volumes (S, H, W) over levels and over each native voxel."""
    return np.mean([block_mean(level, FINE) for level in levels], axis=0, dtype=np.float32)


def _majority(levels: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return the label that fills most of each native voxel; a tie goes to the lower label."""
    shares = [_average([level == value for level in levels]) for value in range(EMIDEC_LABELS.num_classes)]
    return np.argmax(shares, axis=0).astype(np.uint8)


_ATTEMPTS = 20
# Fewer voxels than these would not have been drawn by an expert.
_SMALLEST_VOXELS = {Tissue.INFARCT: 40, Tissue.NO_REFLOW: 10}


def read_phantom(config: PhantomConfig) -> Iterator[Study]:
    """Yield every patient of the cohort, in order."""
    for index in range(config.patients):
        yield simulate_patient(config, index)


def simulate_patient(config: PhantomConfig, index: int) -> Study:
    """Simulate one patient's stack of short-axis slices with its label map.

    Args:
        config: The cohort; `patients` has no influence on a single patient.
        index: From 0.

    Returns:
        A study whose image and mask are (S, H, W), apex first, on its own native grid. Its group is that of its mask.
    """
    group = group_of(config, index)
    for attempt in range(_ATTEMPTS):
        rng = random_generator(config.seed, "phantom patient", index, attempt)
        patient = Patient.draw(config, group, rng)
        signal, mask = render(patient, rng)
        if _has_group(mask, group):
            return _study(f"Phantom_{index + 1:03d}", group, patient, _measure(config, patient, signal, rng), mask)
    raise AssertionError(f"patient {index}: no {group} in {_ATTEMPTS} attempts; the lesions' spans are too small")


def group_of(config: PhantomConfig, index: int) -> str:
    """Return the group of patient `index`: always the one that lags furthest behind its share."""
    rest = 1 - config.normal_share - config.no_reflow_share
    shares = np.array([config.normal_share, rest, config.no_reflow_share])
    counts = np.zeros(len(PATIENT_GROUPS))
    chosen = 0
    for place in range(index + 1):
        chosen = int(np.argmax(np.round(shares * (place + 1) - counts, 9)))
        counts[chosen] += 1
    return PATIENT_GROUPS[chosen]


def _has_group(mask: NDArray[np.uint8], group: str) -> bool:
    counts = np.bincount(mask.ravel(), minlength=EMIDEC_LABELS.num_classes)
    enough = all(counts[tissue] == 0 or counts[tissue] >= least for tissue, least in _SMALLEST_VOXELS.items())
    return enough and patient_group(mask, EMIDEC_LABELS) == group


def _measure(
    config: PhantomConfig, patient: Patient, signal: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float32]:
    scanner = draw_scanner(config, rng)
    row, column = patient.centres_mm.mean(axis=0).tolist()
    sensitivity = coil_sensitivity(
        signal.shape[1:], patient.pixel_mm, (row, column), patient.chest.direction, scanner.shading_mm
    )
    blur_px = rng.uniform(0, config.breathing_mm, (len(signal), 2)) / patient.pixel_mm
    return acquire(signal, sensitivity, scanner, blur_px, rng)


def _study(case_id: str, group: str, patient: Patient, image: NDArray[np.float32], mask: NDArray[np.uint8]) -> Study:
    return Study(
        case_id=case_id,
        frame="",
        group=group,
        image=image,
        mask=mask,
        spacing_mm=(patient.slice_mm, patient.pixel_mm, patient.pixel_mm),
        affine=np.diag([patient.pixel_mm, patient.pixel_mm, patient.slice_mm, 1.0]),
        label_set=EMIDEC_LABELS.name,
        path=f"phantom:{case_id}",
    )
