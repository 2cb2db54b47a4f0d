"""How uncertain a score is whose patients and seeds are both a sample: variance components and intervals.

Each rule's score is a ratio of sums over patients. Its jackknife pseudo-values (Tukey 1958) turn it into a mean over
patients and seeds, whose two-way layout tells patients, seeds and noise apart. The interval adds the squares of the t
intervals of patients (P - 1 degrees of freedom) and of seeds (S - 1) (Howe, JASA 69, 1974, 789-794), so that three
seeds count as three and not as many.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

Floats = NDArray[np.float64]

_SMALLEST_TAIL = 1e-9
_PATIENT_POINTS, _SEED_POINTS = 16, 128  # few seeds vary more


def pseudo_values(numerator: Floats, denominator: Floats) -> Floats:
    """Return the jackknife pseudo-values (P, S) of one ratio a seed; NaN where a score hangs on a single patient.

    Where every denominator is 1 they are the numerators themselves.
    """
    patients = len(numerator)
    above, below = numerator.sum(axis=0), denominator.sum(axis=0)
    others = below - denominator
    without = np.divide(above - numerator, others, where=others > 0, out=np.full_like(numerator, np.nan))
    score = np.divide(above, below, where=below > 0, out=np.full_like(above, np.nan))
    values: Floats = patients * score - (patients - 1) * without
    return values


@dataclass(frozen=True)
class Spread:
    """Mean squares of patients, seeds and the rest, each divided by their number of values; from P patients, S seeds.

    With one seed `between_seeds` and `rest` are 0: nothing is known of seeds.
    """

    patients: int
    seeds: int
    between_patients: float
    between_seeds: float
    rest: float

    @classmethod
    def of(cls, values: Floats) -> "Spread":
        """Split the variation of values (P, S), P at least 2."""
        patients, seeds = values.shape
        rows, columns = values.mean(axis=1), values.mean(axis=0)
        between_patients = float(rows.var(ddof=1)) / patients
        if seeds == 1:
            return cls(patients, seeds, between_patients, 0.0, 0.0)
        residual = values - rows[:, None] - columns + values.mean()
        rest = float((residual**2).sum()) / ((patients - 1) * (seeds - 1) * patients * seeds)
        return cls(patients, seeds, between_patients, float(columns.var(ddof=1)) / seeds, rest)

    @property
    def deviation(self) -> float:
        """The standard deviation of the mean; noise, which both mean squares hold, counts once."""
        return float(np.sqrt(self.between_patients + max(0.0, self.between_seeds - self.rest)))

    def half_width(self, tail: float) -> float:
        """Return how far an interval reaches to either side; `tail` is the chance beyond one of its ends."""
        return float(self._half_widths(tail, np.array(self.between_patients), np.array(self.between_seeds)))

    def _half_widths(self, tail: float, between_patients: Floats, between_seeds: Floats) -> Floats:
        """Return the reach for these mean squares.

        That of seeds holds noise, which that of patients has counted already. With two seeds (one degree of freedom)
        only part of it is taken off: else nothing is left too often, by chance.
        """
        of_patients = special.stdtrit(self.patients - 1, 1 - tail)
        square = of_patients**2 * between_patients
        if self.seeds > 1:
            of_seeds = special.stdtrit(self.seeds - 1, 1 - tail)
            counted = of_seeds if self.seeds > 2 else of_patients
            square = square + np.maximum(0.0, of_seeds * (of_seeds * between_seeds - counted * self.rest))
        return np.sqrt(square)

    def detectable(self, tail: float, power: float) -> float:
        """Return the true difference that an interval leaves 0 behind for, with this power, on its own side.

        What the mean squares will be in another such study is as uncertain as their degrees of freedom make it; the
        power is the mean over that. NaN where nothing varies, which tells nothing of another study.
        """
        if self.deviation == 0:
            return float("nan")
        expected_of_seeds = max(self.between_seeds, self.rest)
        reaches = self._half_widths(
            tail,
            self.between_patients * _mean_squares(self.patients - 1, _PATIENT_POINTS)[:, None],
            expected_of_seeds * _mean_squares(self.seeds - 1, _SEED_POINTS)[None, :],
        )

        def lacking(difference: float) -> float:
            return float(special.ndtr((difference - reaches) / self.deviation).mean()) - power

        return float(optimize.brentq(lacking, 0.0, reaches.max() + 10 * self.deviation))

    def tail_at(self, difference: float) -> float:
        """Return the tail of the interval that just reaches `difference` away, 0.5 for no difference at all."""
        distance = abs(difference)
        if distance == 0.0:
            return 0.5
        if self.half_width(_SMALLEST_TAIL) <= distance:
            return 0.0
        return float(optimize.brentq(lambda tail: self.half_width(tail) - distance, _SMALLEST_TAIL, 0.5, xtol=1e-12))


def _mean_squares(freedom: int, points: int) -> Floats:
    """Return evenly likely values of a mean square of expectation 1; none can be told without a degree of freedom."""
    if freedom == 0:
        return np.zeros(1)
    likely = (np.arange(points) + 0.5) / points
    return 2 * special.gammaincinv(freedom / 2, likely) / freedom
