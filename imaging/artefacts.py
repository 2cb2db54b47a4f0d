"""Artefacts of cardiac MR images, drawn at random: coil shading, motion ghosts and Rician noise.

Each function takes an image (H, W) float32 in [0, 1] and returns a new one; the caller clips.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]


def coil_shading(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Multiply by a smooth field, as the uneven sensitivity of a receiver coil does.

    The logarithm of the field is a random polynomial of second order whose largest value is `strength` (0.3
    makes the brightest place 1.35 times and the darkest no less than 0.74 times as bright).
    """
    field = rng.standard_normal(5).astype(np.float32) @ _polynomials(*image.shape)
    field *= strength / max(float(np.abs(field).max()), 1e-6)
    return image * np.exp(field).reshape(image.shape)


def motion_ghost(image: Image, strength: float, shift_px: int, axis: int) -> Image:
    """Add a pair of faint copies displaced along the phase-encoding axis, as breathing and pulsation do.

    Args:
        image: (H, W).
        strength: Share of the signal that goes into each copy.
        shift_px: Displacement of the copies to either side.
        axis: The phase-encoding axis, 0 rows or 1 columns.
    """
    copies = np.roll(image, shift_px, axis) + np.roll(image, -shift_px, axis)
    return (1 - 2 * strength) * image + strength * copies


def rician_noise(image: Image, sigma: float, rng: np.random.Generator) -> Image:
    """Return the magnitude of the image after complex Gaussian noise of deviation `sigma` in each channel."""
    real, imaginary = rng.standard_normal((2, *image.shape), dtype=np.float32) * np.float32(sigma)
    return np.hypot(image + real, imaginary)


@lru_cache(maxsize=8)
def _polynomials(height: int, width: int) -> NDArray[np.float32]:
    """Return the five polynomials up to second order, constant left out, as (5, H * W) on [-1, 1]²."""
    row, column = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    terms = [row, column, row * column, row**2 - 1 / 3, column**2 - 1 / 3]
    return np.stack(terms).reshape(5, -1).astype(np.float32)
