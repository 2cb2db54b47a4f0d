"""Where infarcts lie and how large they are: coronary territories, what is measured, and what was fitted to it.

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

from gan.simulator.anatomy import Anatomy
from gan.simulator.config import SimulatorConfig
from imaging.labels import Tissue

Floats = NDArray[np.float64]


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
