"""What the scanner makes of it: inversion-recovery contrast, coil shading, point spread, Rician noise."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from imaging.phantom.anatomy import Anatomy, Field2D, Wall, papillary_muscles, right_ventricle
from imaging.phantom.config import PhantomConfig
from imaging.phantom.lesion import smooth_noise


@dataclass(frozen=True)
class Contrast:
    """Signals of one patient's tissues, blood about 0.6; a wrong inversion time lifts the normal myocardium."""

    blood: float
    myocardium: float
    infarct: float
    no_reflow: float
    fat: float
    muscle: float
    lung: float
    liver: float


def draw_contrast(rng: np.random.Generator) -> Contrast:
    """Draw one patient's signals."""
    myocardium = rng.uniform(0.08, 0.26)
    infarct = rng.uniform(0.72, 1.0)
    return Contrast(
        blood=rng.uniform(0.48, 0.68),
        myocardium=myocardium,
        infarct=infarct,
        no_reflow=rng.uniform(0.12, 0.32),
        fat=rng.uniform(0.8, 1.1),
        muscle=rng.uniform(0.18, 0.3),
        lung=rng.uniform(0.02, 0.08),
        liver=rng.uniform(0.22, 0.42),
    )


def paint_tissues(
    anatomy: Anatomy,
    contrast: Contrast,
    wall: Wall,
    level: float,
    infarct: NDArray[np.bool_],
    no_reflow: NDArray[np.bool_],
    chest: Field2D,
) -> Field2D:
    """Return the noise-free signal (H, W) of one slice: the heart over the chest."""
    signal = chest.copy()
    around = np.cos(2 * wall.angle + 7 * anatomy.flattening_angle) + np.cos(3 * wall.angle + anatomy.septum_angle)
    fat = (wall.depth >= 1) & (wall.radius < wall.outer + 3 * around)
    signal[fat] = 0.6 * contrast.fat  # pericardial, thick here and absent there
    blood, rv_wall = right_ventricle(anatomy, wall, level)
    signal[rv_wall] = contrast.myocardium
    signal[blood] = contrast.blood
    signal[wall.myocardium] = contrast.myocardium
    signal[infarct] = contrast.infarct
    signal[no_reflow] = contrast.no_reflow
    signal[wall.cavity] = contrast.blood
    signal[papillary_muscles(anatomy, wall, level)] = contrast.myocardium
    return signal


def paint_chest(
    anatomy: Anatomy, contrast: Contrast, rows_mm: Field2D, columns_mm: Field2D, rng: np.random.Generator
) -> Field2D:
    """Return chest wall, lungs and liver (H, W) without the heart."""
    height, width = float(rows_mm.max()), float(columns_mm.max())
    half_width, half_height = anatomy.chest_mm
    body = np.hypot((rows_mm - height / 2) / half_height, (columns_mm - width / 2) / half_width)
    wobble = 0.04 * smooth_noise(rows_mm.shape, 6, rng)
    skin = anatomy.fat_mm / half_height
    signal = np.zeros(rows_mm.shape, np.float32)
    signal[body + wobble < 1] = contrast.fat
    signal[body + wobble < 1 - skin] = contrast.muscle
    signal[body + wobble < 1 - skin - 0.12] = contrast.lung
    row, column = anatomy.centre_mm
    diaphragm = rows_mm - row - 38 + 0.25 * np.abs(columns_mm - column) + 60 * wobble
    signal[(diaphragm > 0) & (body + wobble < 1 - skin - 0.12)] = contrast.liver
    return signal


def acquire(
    signal: NDArray[np.float32], config: PhantomConfig, contrast: Contrast, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return what is measured of a noise-free volume (S, H, W): shaded, blurred, noisy, in scanner units."""
    shading = _coil_shading(signal.shape[1:], config.shading, rng)
    sigma = rng.uniform(*config.noise) * contrast.blood
    spread = rng.uniform(*config.blur_px)
    gain = rng.uniform(300, 1500)
    volume = np.empty_like(signal)
    for place, plane in enumerate(signal):
        texture = 1 + 0.05 * smooth_noise(plane.shape, 24, rng)
        blurred = cv2.GaussianBlur(plane * texture * shading, (0, 0), spread)
        noise = rng.normal(0, sigma, (2, *plane.shape)).astype(np.float32)
        volume[place] = gain * np.hypot(blurred + noise[0], noise[1])
    return volume


def _coil_shading(shape: tuple[int, ...], strength: float, rng: np.random.Generator) -> Field2D:
    rows, columns = np.meshgrid(np.linspace(-1, 1, shape[0]), np.linspace(-1, 1, shape[1]), indexing="ij")
    tilt = rng.uniform(-1, 1, 3)
    field = tilt[0] * rows + tilt[1] * columns + 0.5 * tilt[2] * (rows**2 + columns**2 - 1)
    return np.asarray(1 + strength * field / max(np.abs(field).max(), 1e-6), np.float32)
