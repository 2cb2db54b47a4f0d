"""The distribution of walls without lesion, fitted on the training slices; and real anatomies, varied a little.

A ring is described by the logarithms of its outer radius and of its wall-to-cavity ratio along the angle, each as
a Fourier series. The constant terms are diameter and wall-to-cavity ratio, the second harmonics eccentricity, the
others the unevenness of real walls. The terms are drawn together from their fitted Gaussian. Masks without infarct
take real anatomies, varied a little.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from gan.simulator.anatomy import RAYS, Anatomy, ray_angles, read_anatomy
from imaging.labels import Tissue

Floats = NDArray[np.float64]

_ORDERS = 6
# Weight of the uncorrelated Gaussian, in training rings: keeps small training sets usable.
_PRIOR_RINGS = 10.0
_FARTHEST = 2.0
_THINNEST_WALL_PX = 2.0
_BORDER_PX = 2


@dataclass(frozen=True, eq=False)
class RingModel:
    """A Gaussian of ring descriptions, cut off where no training ring lies.

    Attributes:
        mean: (D,) terms.
        factor: (D, D) lower root of their covariance.
        lowest: (D,) least value of each term among the training rings.
        highest: (D,) greatest value.
    """

    mean: Floats
    factor: Floats
    lowest: Floats
    highest: Floats

    @classmethod
    def fit(cls, anatomies: Sequence[Anatomy]) -> "RingModel | None":
        """Fit closed rings; None where there are fewer than three."""
        rings = [describe_ring(anatomy) for anatomy in anatomies if anatomy.closed and anatomy.bears_lesions]
        if len(rings) < 3:
            return None
        terms = np.stack(rings)
        covariance = np.cov(terms.T)
        diagonal = np.diag(np.diag(covariance) + 1e-8)
        weight = len(rings) / (len(rings) + _PRIOR_RINGS)
        factor = np.linalg.cholesky(weight * covariance + (1 - weight) * diagonal)
        return cls(terms.mean(axis=0), np.asarray(factor, np.float64), terms.min(axis=0), terms.max(axis=0))

    def draw(
        self, centre: tuple[float, float], size: tuple[int, int], spacing_mm: float, rng: np.random.Generator
    ) -> Anatomy | None:
        """Draw a ring about `centre` (row, column) in a slice (H, W); None where it does not fit in."""
        steps = np.clip(rng.standard_normal(len(self.mean)), -_FARTHEST, _FARTHEST)
        inner, outer = _radii(np.clip(self.mean + self.factor @ steps, self.lowest, self.highest))
        rows, columns = (outer * f(ray_angles()) + c for f, c in zip((np.sin, np.cos), centre, strict=True))
        for places, length in ((rows, size[0]), (columns, size[1])):
            if places.min() < _BORDER_PX or places.max() > length - 1 - _BORDER_PX:
                return None
        anatomy = read_anatomy(_raster(inner, outer, centre, size), spacing_mm)
        return anatomy if anatomy is not None and anatomy.closed and anatomy.bears_lesions else None


def describe_ring(anatomy: Anatomy) -> Floats:
    """Return the Fourier terms of log outer radius and log wall-to-cavity ratio, radii in pixels."""
    inner, outer = anatomy.radii
    inner = np.maximum(inner, 1.0)
    ratio = np.maximum(outer - inner, 1.0) / inner
    return np.concatenate([_terms(np.log(np.maximum(outer, 2.0))), _terms(np.log(ratio))])


def _terms(curve: Floats) -> Floats:
    spectrum = np.fft.rfft(curve)[: _ORDERS + 1] / RAYS
    return np.concatenate([spectrum.real, spectrum.imag[1:]])


def _curve(terms: Floats) -> Floats:
    spectrum = np.zeros(RAYS // 2 + 1, dtype=complex)
    spectrum.real[: _ORDERS + 1] = terms[: _ORDERS + 1]
    spectrum.imag[1 : _ORDERS + 1] = terms[_ORDERS + 1 :]
    return np.asarray(np.fft.irfft(spectrum * RAYS, RAYS))


def _radii(terms: Floats) -> tuple[Floats, Floats]:
    half = len(terms) // 2
    outer, ratio = np.exp(_curve(terms[:half])), np.exp(_curve(terms[half:]))
    inner = np.maximum(np.minimum(outer / (1 + ratio), outer - _THINNEST_WALL_PX), 1.0)
    return inner, outer


def _raster(inner: Floats, outer: Floats, centre: tuple[float, float], size: tuple[int, int]) -> NDArray[np.uint8]:
    rows = np.arange(size[0], dtype=np.float64)[:, None] - centre[0]
    columns = np.arange(size[1], dtype=np.float64) - centre[1]
    radius, angle = np.hypot(rows, columns), np.arctan2(rows, columns)
    mask = np.zeros(size, dtype=np.uint8)
    mask[radius <= np.interp(angle, ray_angles(), outer, period=2 * np.pi)] = Tissue.NORMAL_MYOCARDIUM
    mask[radius <= np.interp(angle, ray_angles(), inner, period=2 * np.pi)] = Tissue.CAVITY
    return mask


_HARMONICS = (2, 3, 4)
_MOST_ROTATION_DEG = 15.0
_SMOOTH_PX = 1.0


def warp_anatomy(anatomy: Anatomy, amount: float, rng: np.random.Generator) -> Anatomy | None:
    """Return the anatomy scaled, turned and bent about its centre.

    Args:
        anatomy: What to vary.
        amount: Standard deviation of the relative change of size; each harmonic of the outline gets a share.
        rng: Source of the random choices.

    Returns:
        The varied anatomy; None where its ring has opened or it has left the slice.
    """
    if not amount:
        return anatomy
    centre = anatomy.centre_in_slice
    rows = np.arange(anatomy.size[0], dtype=np.float64)[:, None] - centre[0]
    columns = np.arange(anatomy.size[1], dtype=np.float64) - centre[1]
    angle = np.arctan2(rows, columns)
    stretch = np.exp(amount * rng.standard_normal() + _bend(angle, amount, rng))
    turn = np.radians(rng.uniform(-_MOST_ROTATION_DEG, _MOST_ROTATION_DEG))
    radius = np.hypot(rows, columns) / stretch
    source_rows = radius * np.sin(angle - turn) + centre[0]
    source_columns = radius * np.cos(angle - turn) + centre[1]
    warped = read_anatomy(_look_up(anatomy.paste(anatomy.labels), source_rows, source_columns), 1.0)
    if warped is None or (anatomy.closed and not warped.closed):
        return None
    return Anatomy(warped.labels, warped.box, warped.size, anatomy.spacing_mm)


def _bend(angle: NDArray[np.float64], amount: float, rng: np.random.Generator) -> NDArray[np.float64]:
    bend = np.zeros_like(angle)
    for order in _HARMONICS:
        size, phase = amount * rng.standard_normal() / order, rng.uniform(0, 2 * np.pi)
        bend += size * np.cos(order * angle + phase)
    return bend


def _look_up(mask: NDArray[np.uint8], rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return the label of each place (H, W), outlines interpolated; what lies outside the slice is background."""
    places = np.broadcast_arrays(rows, columns)
    # Turning an outline of pixels leaves it jagged, so smoothed regions are looked up.
    ventricle, cavity = (
        map_coordinates(gaussian_filter(region.astype(np.float32), _SMOOTH_PX), places, order=1, mode="constant") > 0.5
        for region in (mask > 0, mask == Tissue.CAVITY)
    )
    return np.where(cavity, Tissue.CAVITY, np.where(ventricle, Tissue.NORMAL_MYOCARDIUM, 0)).astype(np.uint8)
