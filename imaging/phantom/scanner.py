"""What the scanner makes of the patient: partial volume, coil shading, motion, Rician noise, scanner units."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from imaging.phantom.config import PhantomConfig
from imaging.phantom.fields import smooth_noise

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
