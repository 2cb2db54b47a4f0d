"""Intervals and tests for scores that are paired by patient, fold and seed.

Every rule's score is a ratio of sums over patients: `Contributions` holds what each patient and seed adds to
the numerator and to the denominator, so that one way to an interval (`crossed_interval`) serves all rules.
`benchmarks/intervals.py` measures coverage, false alarms and power on data with a known effect.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from imaging.errors import InputError
from segmentation.crossed_interval import Floats, Spread, pseudo_values

MINIMUM_PAIRS = 8
CONFIDENCE = 0.95
POWER = 0.80

BETTER, WORSE, NO_EVIDENCE, TOO_FEW = "better", "worse", "no evidence", "too few patients"
# One training of each arm cannot tell what the arm adds from what the seed does.
BETTER_WITH_THIS_SEED, WORSE_WITH_THIS_SEED = "better with this seed", "worse with this seed"
# Nor can several trainings on one fold's training set tell it from what that training set does.
BETTER_IN_THIS_FOLD, WORSE_IN_THIS_FOLD = "better in this fold", "worse in this fold"

_TAIL = (1 - CONFIDENCE) / 2


@dataclass(frozen=True)
class Contributions:
    """Numerators and denominators (P patients, S seeds) whose sums over patients give one score a seed.

    `folds` tells by whose training set each patient (P,) was tested; by default all by one.
    """

    numerator: Floats
    denominator: Floats
    folds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.numerator.ndim != 2 or self.numerator.shape != self.denominator.shape:
            raise InputError(
                f"numerators {self.numerator.shape} and denominators {self.denominator.shape} must both be "
                "(patients, seeds)"
            )
        if self.folds and len(self.folds) != len(self.numerator):
            raise InputError(f"{len(self.folds)} folds for {len(self.numerator)} patients; name one fold a patient")

    @property
    def number_of_folds(self) -> int:
        """How many folds, and so training sets, the patients were tested by."""
        return max(1, len(set(self.folds)))

    def score(self) -> float:
        """Return the score, the mean over seeds; NaN where a seed has no patient that counts."""
        above, below = self.numerator.sum(axis=0), self.denominator.sum(axis=0)
        return float(np.divide(above, below, where=below > 0, out=np.full_like(above, np.nan)).mean())

    def of_patients(self) -> Floats:
        """Return each patient's own score, the mean over seeds (P,); NaN where no seed has one."""
        defined = self.denominator > 0
        values = np.divide(self.numerator, self.denominator, where=defined, out=np.zeros_like(self.numerator))
        seeds = defined.sum(axis=1)
        return np.divide(values.sum(axis=1), seeds, where=seeds > 0, out=np.full(len(values), np.nan))


@dataclass(frozen=True)
class Estimate:
    """A score with its 95 % interval over patients and, where there are several, folds (training sets) and seeds."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """One arm's score minus the other's, over the same patients and seeds.

    Attributes:
        estimate: The difference and its interval.
        probability_better: Confidence that the true difference is above 0: over 0.975 where the interval is.
        p_interval: The two-sided p that belongs to the interval: below 0.05 where it leaves out 0.
        p_value: Of Wilcoxon's signed-rank test of the patients' own differences, which knows nothing of seeds.
        effect_size: Matched-pairs rank-biserial correlation, -1 to 1.
        detectable: The smallest true difference that this design finds with 80 % power, tested on one tissue alone.
    """

    estimate: Estimate
    probability_better: float
    p_interval: float
    p_value: float
    effect_size: float
    detectable: float


def estimate_score(arm: Contributions, bounds: tuple[float, float] = (0.0, 1.0)) -> Estimate:
    """Return a score, the mean over seeds, with its interval over patients, folds and seeds.

    Args:
        arm: What patients and seeds contribute.
        bounds: What the score cannot leave; the interval is cut there.
    """
    estimate, _ = _estimate(arm.score(), pseudo_values(arm.numerator, arm.denominator), arm.folds, bounds)
    return estimate


def paired_difference(arm: Contributions, against: Contributions) -> PairedDifference:
    """Compare two arms on the same patients, folds and seeds: `arm` minus `against`, two scores from 0 to 1.

    Raises:
        InputError: The arms do not have the same patients, folds and seeds.
    """
    if arm.numerator.shape != against.numerator.shape or arm.folds != against.folds:
        raise InputError(
            f"arms of {arm.numerator.shape} and {against.numerator.shape} (patients, seeds) cannot be "
            "paired; give both the same patients, folds and seeds"
        )
    first, second = (pseudo_values(each.numerator, each.denominator) for each in (arm, against))
    estimate, spread = _estimate(arm.score() - against.score(), first - second, arm.folds, (-1.0, 1.0))
    tail = float("nan") if spread is None else spread.tail_at(estimate.value)
    of_patients = arm.of_patients() - against.of_patients()
    of_patients = of_patients[np.isfinite(of_patients)]
    return PairedDifference(
        estimate,
        probability_better=1 - tail if estimate.value > 0 else tail,
        p_interval=2 * tail,
        p_value=signed_rank_test(of_patients),
        effect_size=rank_biserial(of_patients),
        detectable=float("nan") if spread is None else spread.detectable(_TAIL, POWER),
    )


def signed_rank_test(differences: Floats) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test; 1 if nothing differs, NaN without patients."""
    if len(differences) == 0:
        return float("nan")
    changed = differences[differences != 0]
    return float(stats.wilcoxon(changed).pvalue) if len(changed) else 1.0


def rank_biserial(differences: Floats) -> float:
    """Return the matched-pairs rank-biserial correlation: 1 if every patient gained, -1 if every one lost."""
    changed = differences[differences != 0]
    if len(changed) == 0:
        return 0.0
    ranks = stats.rankdata(np.abs(changed))
    return float((ranks * np.sign(changed)).sum() / ranks.sum())


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p values in the given order; NaN stays NaN and does not count."""
    adjusted = [float("nan")] * len(p_values)
    known = sorted((p, place) for place, p in enumerate(p_values) if np.isfinite(p))
    running = 0.0
    for rank, (p, place) in enumerate(known):
        running = max(running, min(1.0, p * (len(known) - rank)))
        adjusted[place] = running
    return adjusted


def sources_of_variation(folds: int, seeds: int) -> str:
    """Say in words what an interval over patients, so many folds and seeds takes as a sample."""
    parts = ["patients", *(["training sets (folds)"] if folds > 1 else []), *(["seeds"] if seeds > 1 else [])]
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def one_training_set(folds: int) -> str:
    """Return the clause that an interval of one fold needs, nothing for several."""
    return "; this fold's training set only" if folds == 1 else ""


def verdict(difference: Estimate, adjusted_p: float, pairs: int, seeds: int, one_training_set: bool = False) -> str:
    """Put the evidence into words.

    `better` and `worse` need an interval without 0 and, where there is a test, an adjusted p below 0.05. With one seed
    they hold for that one training of each arm, with one fold for that fold's training set, and the words say so.
    """
    if pairs < MINIMUM_PAIRS:
        return TOO_FEW
    if np.isfinite(adjusted_p) and adjusted_p >= 1 - CONFIDENCE:
        return NO_EVIDENCE
    if difference.low > 0:
        return _qualified(BETTER, BETTER_WITH_THIS_SEED, BETTER_IN_THIS_FOLD, seeds, one_training_set)
    if difference.high < 0:
        return _qualified(WORSE, WORSE_WITH_THIS_SEED, WORSE_IN_THIS_FOLD, seeds, one_training_set)
    return NO_EVIDENCE


def _qualified(always: str, with_this_seed: str, in_this_fold: str, seeds: int, one_training_set: bool) -> str:
    if seeds == 1:
        return with_this_seed
    return in_this_fold if one_training_set else always


def _estimate(
    value: float, values: Floats, folds: tuple[int, ...], bounds: tuple[float, float]
) -> tuple[Estimate, Spread | None]:
    """Return the estimate and the spread of its pseudo-values (P, S); no interval where they do not tell one."""
    if len(values) < 2 or not np.isfinite(values).all():
        return Estimate(value, float("nan"), float("nan")), None
    spread = Spread.of(values, folds)
    reach = spread.half_width(_TAIL)
    low, high = (float(np.clip(side, *bounds)) for side in (value - reach, value + reach))
    return Estimate(value, low, high), spread
