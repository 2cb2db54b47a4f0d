"""Coverage, false alarms and power of the comparison's intervals and verdicts, on simulated scores of known effect.

A data set holds both arms' Dice of P patients in F folds and S seeds: a patient's own level (beta distributed; in
some patients the tissue is missed altogether), the effect, which differs between patients, a fold's effect on all
its patients alike (they share a training set), a seed's effect on all patients alike, what a seed does in one fold
alone, and noise of each patient and seed, cut to 0 to 1. The true difference follows from these distributions by
quadrature. Under `pooled` patients count by their volume, which is log-normal and goes with the level.

`coverage` is that of the true difference of the methods; `these trainings` that of the difference between the
trainings that were run, which is all that one seed or one fold can tell. `false alarm` is `better` or `worse` from
equal arms; `power` the verdict `better` where the true difference is the mean `detectable`. `without folds` are the
false alarms and `width` the half width, as a multiple, of the interval that takes patients and seeds alone as
samples. The bars: at least 93 % covered and at most 6.5 % false alarms.

How much training sets vary: the same 20 patients had a Dice of no-reflow of 0.408, 0.493 and 0.538 from networks of
three training sets (standard deviation 0.066), of 0.389 to 0.432 by seed within one. Arms that had nothing in common
would differ by 0.093 from one training set to the next; arms that share the real patients, by less.

    python -m benchmarks.intervals --simulations 2000
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize, special

from common.seeds import random_generator
from segmentation.comparison.crossed_interval import Spread, pseudo_values
from segmentation.comparison.statistics import (
    BETTER,
    CONFIDENCE,
    WORSE,
    Contributions,
    Estimate,
    PairedDifference,
    estimate_score,
    paired_difference,
    verdict,
)

Floats = NDArray[np.float64]

_QUADRATURE = 801
_WITH_LEVEL = 0.6  # correlation of log volume with level: large lesions are segmented better


@dataclass(frozen=True)
class Design:
    """How many patients, folds and seeds, and how their Dice vary.

    Attributes:
        patients: P.
        seeds: S.
        mean: Of the patients' own levels.
        deviation: Standard deviation of the patients' own levels.
        own: Standard deviation of the effect between patients.
        seed: Standard deviation of a seed's effect on the difference, the same for all patients.
        noise: Standard deviation of the difference of one patient and seed.
        missed: Share of patients in whom neither arm finds the tissue, Dice 0.
        volume: Standard deviation of the logarithm of the patients' volumes; 0: all count alike.
        effect: Shift of the second arm's levels before they are cut to 0 to 1.
        folds: F, of about equally many patients.
        fold: Standard deviation of a fold's effect on the difference, the same for its patients and all seeds.
        fold_seed: Standard deviation of a seed's effect on the difference within one fold.
        shared: Share of the variance of fold effects that all folds have in common.
    """

    patients: int
    seeds: int
    mean: float
    deviation: float
    own: float
    seed: float
    noise: float
    missed: float = 0.0
    volume: float = 0.0
    effect: float = 0.0
    folds: int = 1
    fold: float = 0.0
    fold_seed: float = 0.0
    shared: float = 0.0

    @property
    def fold_of_patient(self) -> NDArray[np.int64]:
        """The fold of each patient (P,)."""
        return np.arange(self.patients) * self.folds // self.patients

    def levels(self, ranks: Floats) -> Floats:
        """Return the patients' own levels at these ranks (0 to 1) of their beta distribution."""
        total = self.mean * (1 - self.mean) / self.deviation**2 - 1
        return special.betaincinv(self.mean * total, (1 - self.mean) * total, ranks)

    @cached_property
    def patients_by_rank(self) -> tuple[Floats, Floats]:
        """Levels and mean volumes of all patients there could be."""
        ranks = (np.arange(_QUADRATURE) + 0.5) / _QUADRATURE
        return self.levels(ranks), np.exp(self.volume * _WITH_LEVEL * special.ndtri(ranks))

    def with_difference(self, difference: float) -> "Design":
        """Return the design whose true difference is this."""

        def beyond(effect: float) -> float:
            return self.score(effect / 2) - self.score(-effect / 2) - difference

        return replace(self, effect=float(optimize.brentq(beyond, -1, 1)))

    def score(self, shift: float) -> float:
        """Return the true score of an arm whose levels are shifted so, over all patients and seeds there could be."""
        variance = self.own**2 + self.fold**2 + self.seed**2 + self.fold_seed**2 + self.noise**2
        return float(self._mean_cut(np.array([shift]), np.sqrt(variance / 2))[0])

    def _mean_cut(self, shifts: Floats, spread: float) -> Floats:
        """Return the mean over patients, by volume, of levels that are shifted, spread normally and cut to 0 to 1."""
        levels, volumes = self.patients_by_rank
        centre = levels + shifts[:, None]
        below, above = (0 - centre) / spread, (1 - centre) / spread
        inside = special.ndtr(above) - special.ndtr(below)
        cut = centre * inside - spread * (_density(above) - _density(below)) + special.ndtr(-above)
        means: Floats = (1 - self.missed) * np.average(cut, axis=1, weights=volumes)
        return means

    def difference_with_moves(self, moves: tuple[Floats, Floats]) -> float:
        """Return the true difference of the trainings that moved the arms by these values (F, S)."""
        spread = np.sqrt((self.own**2 + self.noise**2) / 2)
        sizes = np.bincount(self.fold_of_patient, minlength=self.folds)
        arms = [
            np.average(
                self._mean_cut(side * self.effect / 2 + move.ravel(), spread), weights=np.repeat(sizes, self.seeds)
            )
            for side, move in zip((-1, 1), moves, strict=True)
        ]
        return float(arms[1] - arms[0])


def _density(values: Floats) -> Floats:
    return np.exp(-(values**2) / 2) / np.sqrt(2 * np.pi)


_CAVITY = Design(65, 3, 0.92, 0.04, own=0.010, seed=0.004, noise=0.012, folds=5)
_INFARCT = Design(44, 3, 0.50, 0.22, own=0.05, seed=0.015, noise=0.06, folds=5)
_NO_REFLOW = Design(26, 3, 0.38, 0.26, own=0.08, seed=0.03, noise=0.10, missed=0.15, folds=5)
_ONE_FOLD = Design(13, 1, 0.83, 0.05, own=0.02, seed=0.01, noise=0.02)
_TRAINING_SETS = 0.066  # standard deviation, as measured on one arm
DESIGNS = {
    "cavity, 65 patients, 3 seeds": _CAVITY,
    "cavity, folds 0.005": replace(_CAVITY, fold=0.005),
    "cavity, folds 0.005, no seed effect": replace(_CAVITY, fold=0.005, seed=0.0),
    "cavity, seeds decide": replace(_CAVITY, seed=0.020),
    "infarct, 44 patients, 3 seeds": _INFARCT,
    "infarct, folds 0.03": replace(_INFARCT, fold=0.03),
    "infarct, folds 0.03, pooled": replace(_INFARCT, fold=0.03, volume=0.9),
    "no-reflow, 26 patients, 3 seeds": _NO_REFLOW,
    "no-reflow, folds 0.02": replace(_NO_REFLOW, fold=0.02),
    "no-reflow, folds 0.066": replace(_NO_REFLOW, fold=_TRAINING_SETS),
    "no-reflow, folds 0.093": replace(_NO_REFLOW, fold=_TRAINING_SETS * np.sqrt(2)),
    "no-reflow, folds 0.066, pooled": replace(_NO_REFLOW, fold=_TRAINING_SETS, volume=0.9),
    "no-reflow, folds 0.066, seeds by fold": replace(_NO_REFLOW, fold=_TRAINING_SETS, seed=0.0, fold_seed=0.03),
    "no-reflow, folds 0.066, 2 seeds": replace(_NO_REFLOW, fold=_TRAINING_SETS, seeds=2),
    "no-reflow, folds 0.066, 5 seeds": replace(_NO_REFLOW, fold=_TRAINING_SETS, seeds=5),
    "no-reflow, folds 0.066, 1 seed": replace(_NO_REFLOW, fold=_TRAINING_SETS, seeds=1),
    "no-reflow, folds 0.066, 3 folds": replace(_NO_REFLOW, fold=_TRAINING_SETS, folds=3),
    "no-reflow, folds 0.066, 2 folds": replace(_NO_REFLOW, fold=_TRAINING_SETS, folds=2),
    "no-reflow, folds 0.066, a fifth shared": replace(_NO_REFLOW, fold=_TRAINING_SETS, shared=0.2),
    "one fold, 13 patients, 1 seed": _ONE_FOLD,
    "one fold, no seed effect": replace(_ONE_FOLD, seed=0.0),
    "one fold, 3 seeds": replace(_ONE_FOLD, seeds=3),
    "one fold, 3 seeds, folds 0.02": replace(_ONE_FOLD, seeds=3, fold=0.02),
}


@dataclass(frozen=True)
class Simulated:
    """Both arms, and the true difference between the very trainings that were simulated."""

    without: Contributions
    with_gan: Contributions
    difference_of_trainings: float


def simulate(design: Design, rng: np.random.Generator) -> Simulated:
    """Draw one data set."""
    patients, seeds = design.patients, design.seeds
    rank = rng.uniform(size=(patients, 1))
    level = design.levels(rank)
    missed = rng.uniform(size=(patients, 1)) < design.missed
    free = np.sqrt(1 - _WITH_LEVEL**2) * rng.normal(size=(patients, 1))
    volume = np.exp(design.volume * (_WITH_LEVEL * special.ndtri(rank) + free))
    half = np.sqrt(0.5)  # of every variance, an arm
    moves = (_moves(design, rng), _moves(design, rng))
    arms = []
    for side, move in zip((-1, 1), moves, strict=True):
        own = half * design.own * rng.normal(size=(patients, 1))
        noise = half * design.noise * rng.normal(size=(patients, seeds))
        dice = np.clip(level + side * design.effect / 2 + move[design.fold_of_patient] + own + noise, 0, 1)
        weights = np.broadcast_to(volume, dice.shape)
        folds = tuple(design.fold_of_patient.tolist())
        arms.append(Contributions(np.where(missed, 0.0, dice) * weights, weights, folds))
    return Simulated(arms[0], arms[1], design.difference_with_moves(moves))


def _moves(design: Design, rng: np.random.Generator) -> Floats:
    """Draw by how much each fold's trainings (F, S) move one arm."""
    seed = design.seed * rng.normal(size=(1, design.seeds))
    common = design.fold * np.sqrt(design.shared) * rng.normal()
    fold = design.fold * np.sqrt(1 - design.shared) * rng.normal(size=(design.folds, 1))
    by_fold = design.fold_seed * rng.normal(size=(design.folds, design.seeds))
    moves: Floats = np.sqrt(0.5) * (seed + common + fold + by_fold)
    return moves


def study(design: Design, simulations: int, seed: int = 0) -> dict[str, float]:
    """Return, in %, coverage and alarms where the arms are equal, and power at the mean detectable difference."""
    equal = judge_all(design, 0.0, simulations, seed)
    detectable = float(equal["detectable"].mean())
    apart = judge_all(design.with_difference(detectable), detectable, simulations, seed + 1)
    return {
        "coverage": 100 * float(equal["covered"].mean()),
        "with effect": 100 * float(apart["covered"].mean()),
        "these trainings": 100 * float(equal["covered_trainings"].mean()),
        "one arm": 100 * float(equal["covered_arm"].mean()),
        "false alarm": 100 * float(equal["alarm"].mean()),
        "of these trainings": 100 * float(equal["alarm_of_trainings"].mean()),
        "without folds": 100 * float(equal["alarm_without_folds"].mean()),
        "width": float(equal["half_width"].mean() / equal["half_width_without_folds"].mean()),
        "half width": float(equal["half_width"].median()),
        "detectable": detectable,
        "power": 100 * float(apart["found"].mean()),
    }


def judge_all(design: Design, true: float, simulations: int, seed: int) -> pd.DataFrame:
    """Return one row a data set: what its intervals cover and what its verdict says; `true` is the difference."""
    level = design.score(-design.effect / 2)
    data = (simulate(design, random_generator(seed, "intervals", index)) for index in range(simulations))
    return pd.DataFrame([_judge(design, each, true, level) for each in data])


def _judge(design: Design, data: Simulated, true: float, level: float) -> dict[str, float]:
    found, arm = paired_difference(data.with_gan, data.without), estimate_score(data.without)
    reach_alone = _reach_without_folds(data)
    low, high = found.estimate.low, found.estimate.high
    words = _verdict(design, found)
    alone = replace(found, estimate=_around(found.estimate.value, reach_alone), p_interval=0.0)
    wrong = (words.startswith(BETTER) and data.difference_of_trainings <= 0) or (
        words.startswith(WORSE) and data.difference_of_trainings >= 0
    )
    return {
        "difference": found.estimate.value,
        "arm": arm.value,
        "covered": low <= true <= high,
        "covered_trainings": low <= data.difference_of_trainings <= high,
        "covered_arm": arm.low <= level <= arm.high,
        "alarm": words in (BETTER, WORSE),
        "alarm_of_trainings": wrong,
        "alarm_without_folds": _verdict(design, alone) in (BETTER, WORSE),
        "found": words.startswith(BETTER),
        "half_width": (high - low) / 2,
        "half_width_without_folds": reach_alone,
        "detectable": found.detectable,
    }


def _reach_without_folds(data: Simulated) -> float:
    """Return the half width of the interval that takes patients and seeds alone as samples."""
    first, second = (pseudo_values(arm.numerator, arm.denominator) for arm in (data.with_gan, data.without))
    return Spread.of(first - second).half_width((1 - CONFIDENCE) / 2)


def _around(value: float, reach: float) -> Estimate:
    return Estimate(value, value - reach, value + reach)


def _verdict(design: Design, found: PairedDifference) -> str:
    # The pooled rule has no test of unweighted patients (see `comparison`).
    p_value = found.p_interval if design.volume else max(found.p_value, found.p_interval)
    return verdict(found.estimate, p_value, design.patients, design.seeds, design.folds == 1)


def tabulate(designs: Sequence[str], simulations: int, seed: int = 0) -> pd.DataFrame:
    """Return one row a design."""
    return pd.DataFrame({name: study(DESIGNS[name], simulations, seed) for name in designs}).T


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--design", choices=list(DESIGNS), nargs="*", default=list(DESIGNS))
    options = parser.parse_args()
    start = time.perf_counter()
    table = tabulate(options.design, options.simulations, options.seed)
    print(f"{options.simulations} data sets a design; %, for width a multiple, for half width and detectable Dice")
    formats = dict.fromkeys(("half width", "detectable"), "{:.4f}".format) | {"width": "{:.2f}".format}
    print(table.to_string(float_format="{:.1f}".format, formatters=formats))
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
