"""How uncertain a score is whose patients, folds and seeds are all a sample: variance components and intervals.

Each rule's score is a ratio of sums over patients. Its jackknife pseudo-values (Tukey 1958) turn it into a mean over
patients and seeds. Patients of one fold share a training set, so that they lie within folds, which seeds cross: the
layout tells patients, folds (their training sets), seeds and noise apart. The interval adds the squares of the t
intervals of patients (P - F degrees of freedom), of what folds vary beyond their patients (F - 1) and of seeds (S - 1)
(Howe, JASA 69, 1974, 789-794), so that five folds count as five, and three seeds as three.

With one fold nothing is known of training sets. What the training sets of a cross-validation have in common, as they
share most of their patients, no interval can tell (Bengio and Grandvalet, JMLR 5, 2004, 1089-1105).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

Floats = NDArray[np.float64]

_SMALLEST_TAIL = 1e-9
_PATIENT_POINTS, _FOLD_POINTS, _SEED_POINTS = 8, 24, 48  # what is few varies more
_POINTS = 512


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
    """Mean squares, each divided by the number of values; from P patients in F folds and S seeds.

    With one fold `between_folds` is 0, as nothing is known of folds; with one seed so are `between_seeds` and `rest`.

    Attributes:
        patients: P.
        folds: F.
        seeds: S.
        between_patients: Of patients within their folds.
        between_folds: Of the means of folds, which hold what patients and noise add to them.
        between_seeds: Of the means of seeds.
        rest: Of what seeds do otherwise in each fold; with one fold, in each patient.
        unevenness: By how much more folds move the mean than if all had equally many patients, at least 1.
    """

    patients: int
    folds: int
    seeds: int
    between_patients: float
    between_folds: float
    between_seeds: float
    rest: float
    unevenness: float = 1.0

    @classmethod
    def of(cls, values: Floats, folds: Sequence[int] = ()) -> "Spread":
        """Split the variation of values (P, S), P at least 2; `folds` are the patients' own, by default all of one."""
        patients, seeds = values.shape
        number, within = np.unique(np.asarray(folds if len(folds) else np.zeros(patients, int)), return_inverse=True)
        sizes = np.bincount(within)
        in_folds = np.stack([np.bincount(within, column) for column in values.T], axis=1) / sizes[:, None]
        patients_alone = values.mean(axis=1) - in_folds.mean(axis=1)[within]
        freedom = max(1, patients - len(number))  # where every fold has one patient, nothing is left to divide
        seeds_alone = values.mean(axis=0) - values.mean()
        folds_alone = in_folds.mean(axis=1) - values.mean() if len(number) > 1 else np.zeros(1)
        weight = float(((sizes / patients) ** 2).sum())
        return cls(
            patients=patients,
            folds=len(number),
            seeds=seeds,
            between_patients=float((patients_alone**2).sum()) / freedom / patients,
            between_folds=float(sizes @ folds_alone**2) / max(1, len(number) - 1) / patients,
            between_seeds=float((seeds_alone**2).sum()) / max(1, seeds - 1) / seeds,
            rest=_rest(values) if len(number) == 1 else _rest(in_folds, sizes.astype(np.float64)),
            unevenness=weight * (len(number) - 1) / (1 - weight) if len(number) > 1 else 1.0,
        )

    @property
    def deviation(self) -> float:
        """The standard deviation of the mean; noise, which all mean squares hold, counts once."""
        of_folds = self.unevenness * max(0.0, self.between_folds - self.between_patients)
        return float(np.sqrt(self.between_patients + of_folds + max(0.0, self.between_seeds - self.rest)))

    def half_width(self, tail: float) -> float:
        """Return how far an interval reaches to either side; `tail` is the chance beyond one of its ends."""
        squares = (self.between_patients, self.between_folds, self.between_seeds)
        return float(self._half_widths(tail, *map(np.array, squares)))

    def _half_widths(
        self, tail: float, between_patients: Floats, between_folds: Floats, between_seeds: Floats
    ) -> Floats:
        """Return the reach for these mean squares.

        That of folds holds what patients add to them, that of seeds what noise does, and both have been counted
        already. With so few folds, or with two seeds, only part of it is taken off: else nothing is left too often, by
        chance.
        """
        of_patients = special.stdtrit(max(1, self.patients - self.folds), 1 - tail)
        square = of_patients**2 * between_patients
        if self.folds > 1:
            of_folds = special.stdtrit(self.folds - 1, 1 - tail)
            beyond = of_folds * (of_folds * between_folds - of_patients * between_patients)
            square = square + self.unevenness * np.maximum(0.0, beyond)
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
        expected_of_folds = max(self.between_folds, self.between_patients)
        expected_of_seeds = max(self.between_seeds, self.rest)
        reaches = self._half_widths(
            tail,
            self.between_patients * _mean_squares(self.patients - self.folds, _PATIENT_POINTS)[:, None, None],
            expected_of_folds * _mean_squares(self.folds - 1, _FOLD_POINTS)[:, None],
            expected_of_seeds * _mean_squares(self.seeds - 1, _SEED_POINTS),
        )
        likely = np.sort(reaches, axis=None)[_evenly(min(_POINTS, reaches.size), reaches.size)]

        def lacking(difference: float) -> float:
            return float(special.ndtr((difference - likely) / self.deviation).mean()) - power

        return float(optimize.brentq(lacking, 0.0, likely[-1] + 10 * self.deviation))

    def tail_at(self, difference: float) -> float:
        """Return the tail of the interval that just reaches `difference` away, 0.5 for no difference at all."""
        distance = abs(difference)
        if distance == 0.0:
            return 0.5
        if self.half_width(_SMALLEST_TAIL) <= distance:
            return 0.0
        return float(optimize.brentq(lambda tail: self.half_width(tail) - distance, _SMALLEST_TAIL, 0.5, xtol=1e-12))


def _rest(values: Floats, sizes: Floats | None = None) -> float:
    """Return the mean square of what rows (R, S) and columns leave over, per value; rows count by their sizes."""
    rows, seeds = values.shape
    if seeds == 1:
        return 0.0
    weights = np.ones(rows) if sizes is None else sizes
    columns = weights @ values / weights.sum()
    residual = values - values.mean(axis=1)[:, None] - columns + columns.mean()
    return float((weights @ residual**2).sum()) / ((rows - 1) * (seeds - 1) * weights.sum() * seeds)


def _evenly(count: int, of: int) -> NDArray[np.int64]:
    """Return the places of so many values that lie evenly among sorted ones."""
    return ((np.arange(count) + 0.5) * of / count).astype(np.int64)


def _mean_squares(freedom: int, points: int) -> Floats:
    """Return evenly likely values of a mean square of expectation 1; none can be told without a degree of freedom."""
    if freedom == 0:
        return np.zeros(1)
    likely = (np.arange(points) + 0.5) / points
    return 2 * special.gammaincinv(freedom / 2, likely) / freedom
