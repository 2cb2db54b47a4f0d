"""Intervals and tests for scores that are paired by patient and seed.

Every rule's score is a ratio of sums over patients: `Contributions` holds what each patient and seed adds to
the numerator and to the denominator, so that one bootstrap serves all rules.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from imaging.errors import InputError
from imaging.seeds import random_generator

MINIMUM_PAIRS = 8
CONFIDENCE = 0.95
POWER = 0.80

BETTER, WORSE, NO_EVIDENCE, TOO_FEW = "better", "worse", "no evidence", "too few patients"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Contributions:
    """Numerators and denominators (P patients, S seeds) whose sums over patients give one score a seed."""

    numerator: Floats
    denominator: Floats

    def __post_init__(self) -> None:
        if self.numerator.ndim != 2 or self.numerator.shape != self.denominator.shape:
            raise InputError(
                f"numerators {self.numerator.shape} and denominators {self.denominator.shape} must both be "
                "(patients, seeds)"
            )

    def score(self) -> float:
        """Return the score, the mean over seeds; NaN where no patient counts."""
        patients, seeds = self.numerator.shape
        everyone_once = Resamples(np.ones((1, patients)), np.full((1, seeds), 1 / seeds))
        return float(_scores(self, everyone_once)[0])

    def of_patients(self) -> Floats:
        """Return each patient's own score, the mean over seeds (P,); NaN where no seed has one."""
        defined = self.denominator > 0
        values = np.divide(self.numerator, self.denominator, where=defined, out=np.zeros_like(self.numerator))
        seeds = defined.sum(axis=1)
        return np.divide(values.sum(axis=1), seeds, where=seeds > 0, out=np.full(len(values), np.nan))


@dataclass(frozen=True)
class Resamples:
    """Weights of a crossed bootstrap: patients (B, P) and, jointly for all patients, seeds (B, S)."""

    patients: Floats
    seeds: Floats


@dataclass(frozen=True)
class Estimate:
    """A score with its 95 % interval over patients and seeds."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """One arm's score minus the other's, over the same patients and seeds.

    `p_value` is Wilcoxon's signed-rank test of the patients' own differences, `effect_size` its matched-pairs
    rank-biserial correlation (-1 to 1), `detectable` the smallest true difference that this design would have
    found with 80 % power.
    """

    estimate: Estimate
    probability_better: float
    p_value: float
    effect_size: float
    detectable: float


def draw_resamples(patients: int, seeds: int, count: int, seed: int) -> Resamples:
    """Draw the weights of a crossed bootstrap, in which patients and seeds are resampled independently.

    Few seeds resampled plainly understate their variance by (S - 1) / S; their weights are therefore spread
    by sqrt(S / (S - 1)) (Rao and Wu, JASA 1988). With one seed, the interval says nothing about seeds.
    """
    rng = random_generator(seed, "crossed bootstrap", patients, seeds)
    patient_weights = rng.multinomial(patients, np.full(patients, 1 / patients), size=count)
    seed_weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=count) / seeds
    spread = np.sqrt(seeds / (seeds - 1)) if seeds > 1 else 0.0
    return Resamples(patient_weights.astype(float), 1 / seeds + spread * (seed_weights - 1 / seeds))


def estimate_score(arm: Contributions, resamples: int = 4000, seed: int = 0) -> Estimate:
    """Return a score between 0 and 1, the mean over seeds, with its interval over patients and seeds."""
    drawn = _draw_for(arm, resamples, seed)
    found = _estimate(arm.score(), _scores(arm, drawn), len(arm.numerator))
    return Estimate(found.value, *(float(np.clip(side, 0.0, 1.0)) for side in (found.low, found.high)))


def paired_difference(
    arm: Contributions, against: Contributions, resamples: int = 4000, seed: int = 0
) -> PairedDifference:
    """Compare two arms on the same patients and seeds: `arm` minus `against`.

    Raises:
        InputError: The arms do not have the same patients and seeds.
    """
    if arm.numerator.shape != against.numerator.shape:
        raise InputError(
            f"arms of {arm.numerator.shape} and {against.numerator.shape} (patients, seeds) cannot be "
            "paired; give both the same patients and seeds"
        )
    drawn = _draw_for(arm, resamples, seed)
    differences = _scores(arm, drawn) - _scores(against, drawn)
    finite = differences[np.isfinite(differences)]
    of_patients = arm.of_patients() - against.of_patients()
    of_patients = of_patients[np.isfinite(of_patients)]
    detectable = (stats.norm.ppf((1 + CONFIDENCE) / 2) + stats.norm.ppf(POWER)) * _deviation(finite)
    return PairedDifference(
        _estimate(arm.score() - against.score(), differences, len(arm.numerator)),
        probability_better=float(np.mean((finite > 0) + 0.5 * (finite == 0))) if len(finite) else float("nan"),
        p_value=signed_rank_test(of_patients),
        effect_size=rank_biserial(of_patients),
        detectable=float(detectable),
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


def verdict(difference: Estimate, adjusted_p: float, pairs: int) -> str:
    """Put the evidence into words.

    `better` and `worse` need an interval without 0 and, where there is a test, an adjusted p below 0.05.
    """
    if pairs < MINIMUM_PAIRS:
        return TOO_FEW
    if np.isfinite(adjusted_p) and adjusted_p >= 1 - CONFIDENCE:
        return NO_EVIDENCE
    if difference.low > 0:
        return BETTER
    return WORSE if difference.high < 0 else NO_EVIDENCE


def _draw_for(arm: Contributions, resamples: int, seed: int) -> Resamples:
    patients, seeds = arm.numerator.shape
    return draw_resamples(patients, seeds, resamples, seed)


def _scores(arm: Contributions, drawn: Resamples) -> Floats:
    """Return the score (B,) of each resample; NaN where it holds no patient that counts."""
    numerator, denominator = drawn.patients @ arm.numerator, drawn.patients @ arm.denominator  # (B, S)
    of_seeds = np.divide(numerator, denominator, where=denominator > 0, out=np.full_like(numerator, np.nan))
    scores: Floats = (of_seeds * drawn.seeds).sum(axis=1)
    return scores


def _estimate(value: float, drawn: Floats, patients: int) -> Estimate:
    finite = drawn[np.isfinite(drawn)]
    if patients < 2 or len(finite) < len(drawn) / 2:
        return Estimate(value, float("nan"), float("nan"))
    tail = _expanded_tail(patients)
    low, high = np.quantile(finite, [tail, 1 - tail])
    return Estimate(value, float(low), float(high))


def _expanded_tail(patients: int) -> float:
    """Return the tail that widens percentile to t intervals for few patients (Hesterberg 2015, §5.3)."""
    quantile = stats.t.ppf((1 - CONFIDENCE) / 2, patients - 1) * np.sqrt(patients / (patients - 1))
    return float(stats.norm.cdf(quantile))


def _deviation(values: Floats) -> float:
    return float(np.std(values)) if len(values) else float("nan")
