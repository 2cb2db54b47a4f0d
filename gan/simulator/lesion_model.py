"""The distribution of lesions, fitted on the training slices."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gan.simulator.config import SimulatorConfig
from gan.simulator.measures import LesionMeasures
from gan.simulator.territories import TERRITORIES, draw_centre, territory_of

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
