"""The distributions of anatomies and of lesions, fitted on the training slices.

A ring is described by the logarithms of its outer radius and of its wall-to-cavity ratio along the angle, each as
a Fourier series. The constant terms are diameter and wall-to-cavity ratio, the second harmonics eccentricity, the
others the unevenness of real walls. The terms are drawn together from their fitted Gaussian. Masks without infarct
take real anatomies, varied a little.

The coronary territories are sectors of the short axis, seen as radiologists do, the anterior wall above and the septum
to the left (AHA's 17 segments, Cerqueira et al., Circulation 2002): angles grow clockwise on the screen from the
lateral wall. What is measured on a mask (shares, transmurality, thickness) is shared by fitting, acceptance and
comparison.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from gan.simulator.anatomy import RAYS, Anatomy, ray_angles, read_anatomy
from gan.simulator.config import SimulatorConfig
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


@dataclass(frozen=True)
class Territory:
    """A sector of the wall supplied by one artery, about `centre_deg`, `width_deg` wide."""

    centre_deg: float
    width_deg: float


TERRITORIES: Mapping[str, Territory] = MappingProxyType(
    {
        "left_anterior_descending": Territory(240.0, 120.0),
        "right_coronary": Territory(120.0, 120.0),
        "left_circumflex": Territory(0.0, 120.0),
    }
)


def angle_between(angle: NDArray[np.float64] | float, other: float) -> NDArray[np.float64]:
    """Return the signed angle from `other` to `angle` in [-pi, pi), in radians."""
    return np.asarray(np.mod(np.asarray(angle) - other + np.pi, 2 * np.pi) - np.pi)


def territory_of(angle: float) -> str:
    """Return the name of the territory whose centre is nearest to an angle in radians."""
    distance = {
        name: abs(float(angle_between(angle, np.radians(territory.centre_deg))))
        for name, territory in TERRITORIES.items()
    }
    return min(distance, key=lambda name: distance[name])


def draw_centre(territory: Territory, extent: float, rng: np.random.Generator) -> float:
    """Draw the direction of a lesion, in radians, that spans `extent` of the circumference.

    A lesion narrower than its territory stays inside it; a wider one reaches over both its edges alike.
    """
    room_deg = max(territory.width_deg - 360 * extent, 0.0) / 2
    return float(np.radians(territory.centre_deg + rng.uniform(-room_deg, room_deg)) % (2 * np.pi))


SECTORS = 36
_TOUCHED = 0.05


@dataclass(frozen=True)
class LesionMeasures:
    """One slice's lesion, no-reflow included.

    Attributes:
        infarct_share: Share of the myocardium.
        no_reflow_share: No-reflow's share of the lesion.
        transmurality: Mean share of the wall over the sectors that the lesion touches.
        extent: Share of the circumference that it touches.
        angle: Mean direction, in radians.
    """

    infarct_share: float
    no_reflow_share: float
    transmurality: float
    extent: float
    angle: float


def measure_lesion(anatomy: Anatomy, labels: NDArray[np.integer]) -> LesionMeasures:
    """Measure the lesion in a crop of labels (h, w) that lies on `anatomy`; zeros where there is none."""
    wall = anatomy.myocardium
    lesion = (labels >= Tissue.INFARCT) & wall
    count = int(lesion.sum())
    if not count:
        return LesionMeasures(0.0, 0.0, 0.0, 0.0, 0.0)
    no_reflow = float((labels == Tissue.NO_REFLOW).sum()) / count
    share = sector_shares(anatomy, lesion)
    touched = share > _TOUCHED
    angle = anatomy.angle[lesion]
    return LesionMeasures(
        infarct_share=count / float(wall.sum()),
        no_reflow_share=no_reflow,
        transmurality=float(share[touched].mean()) if touched.any() else 0.0,
        extent=float(touched.mean()),
        angle=float(np.arctan2(np.sin(angle).mean(), np.cos(angle).mean()) % (2 * np.pi)),
    )


def sector_shares(anatomy: Anatomy, lesion: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the share of each of `SECTORS` sectors of the wall that the lesion (h, w) fills."""
    wall = anatomy.myocardium
    sector = np.minimum((anatomy.angle[wall] * (SECTORS / (2 * np.pi))).astype(int), SECTORS - 1)
    total = np.bincount(sector, minlength=SECTORS)
    hit = np.bincount(sector, weights=lesion[wall].astype(float), minlength=SECTORS)
    return hit / np.maximum(total, 1)


# How far a drawn value may lie from the training slice's (standard deviation of the log-odds).
_SHARE_SPREAD = 0.2
_EXTENT_SPREAD = 0.15
_FEWEST_RECORDS = 5


@dataclass(frozen=True)
class LesionPlan:
    """What to grow: shares as in `LesionMeasures`, `angle` the direction in radians."""

    infarct_share: float
    no_reflow_share: float
    extent: float
    angle: float


@dataclass(frozen=True)
class LesionModel:
    """A smoothed bootstrap of the training lesions within the limits.

    Attributes:
        records: The training lesions within the limits.
        config: The limits.
    """

    records: tuple[LesionMeasures, ...]
    config: SimulatorConfig

    @classmethod
    def fit(cls, records: Sequence[LesionMeasures], config: SimulatorConfig) -> "LesionModel":
        """Keep the lesions within the limits; with fewer than five, physiological defaults are drawn."""
        low, high = config.infarct_limits
        return cls(tuple(r for r in records if low <= r.infarct_share <= high), config)

    def draw(self, with_no_reflow: bool, rng: np.random.Generator) -> LesionPlan:
        """Draw a lesion's size, spread and place."""
        no_reflow_low, no_reflow_high = self.config.no_reflow_limits
        records = [r for r in self.records if not with_no_reflow or self._accepts_no_reflow(r)]
        if len(records) < _FEWEST_RECORDS:
            return self._draw_without_training(with_no_reflow, rng)
        record = records[rng.integers(len(records))]
        share = _jitter(record.infarct_share, _SHARE_SPREAD, self.config.infarct_limits, rng)
        extent = _jitter(record.extent, _EXTENT_SPREAD, (0.05, 1.0), rng)
        no_reflow = 0.0
        if with_no_reflow:
            no_reflow = _jitter(record.no_reflow_share, _SHARE_SPREAD, (no_reflow_low, no_reflow_high), rng)
        territory = TERRITORIES[territory_of(record.angle)]
        return LesionPlan(share, no_reflow, extent, draw_centre(territory, extent, rng))

    def _accepts_no_reflow(self, record: LesionMeasures) -> bool:
        low, high = self.config.no_reflow_limits
        return low <= record.no_reflow_share <= high

    def _draw_without_training(self, with_no_reflow: bool, rng: np.random.Generator) -> LesionPlan:
        """Draw as most public infarcts are: small ones more often, half to three quarters of the wall deep."""
        low, high = self.config.infarct_limits
        share = low + (high - low) * rng.beta(1.5, 2.5)
        extent = min(share / rng.uniform(0.45, 0.75), 1.0)
        low, high = self.config.no_reflow_limits
        no_reflow = low + (high - low) * rng.beta(1.5, 2.5) if with_no_reflow else 0.0
        territory = list(TERRITORIES.values())[rng.integers(len(TERRITORIES))]
        return LesionPlan(share, no_reflow, extent, draw_centre(territory, extent, rng))


def _jitter(share: float, spread: float, limits: tuple[float, float], rng: np.random.Generator) -> float:
    """Return a share moved on the log-odds scale and kept within limits."""
    share = float(np.clip(share, 0.01, 0.99))
    moved = np.log(share / (1 - share)) + spread * rng.standard_normal()
    return float(np.clip(1 / (1 + np.exp(-moved)), *limits))
