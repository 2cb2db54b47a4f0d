"""Intervals and tests for scores that are paired by patient, fold and seed.

Every rule's score is a ratio of sums over patients: `Contributions` holds what each patient and seed adds to
the numerator and to the denominator, so that one way to an interval (`crossed_interval`) serves all rules.
`benchmarks/intervals.py` measures coverage, false alarms and power on data with a known effect.

From a tidy table of scores to what each patient and seed contributes to each rule's score.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from common.errors import InputError, some_of
from imaging.dice import dice_terms
from segmentation.comparison.crossed_interval import Floats, Spread, pseudo_values
from segmentation.scoring.scores import COUNT_METRICS, patient_rows

MINIMUM_PAIRS = 8
CONFIDENCE = 0.95
POWER = 0.80

BETTER, WORSE, NO_EVIDENCE, TOO_FEW = "better", "worse", "no evidence", "too few patients"
# One training of each arm cannot tell what the arm adds from what the seed does.
BETTER_WITH_THIS_SEED, WORSE_WITH_THIS_SEED = "better with this seed", "worse with this seed"
# Nor can several trainings on one fold's training set tell it from what that training set does.
BETTER_IN_THIS_FOLD, WORSE_IN_THIS_FOLD = "better in this fold", "worse in this fold"
# Where nothing tells of folds and seeds, the verdict is on what was given, not on how it was made.
BETTER_OF_THESE, WORSE_OF_THESE = "better, these networks alone", "worse, these networks alone"
BETTER_WITH_THIS_SET, WORSE_WITH_THIS_SET = "better with this training set", "worse with this training set"

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


_ARM = ["network", "training_set", "seed", "fold", "case_id"]
_KEY = [*_ARM, "rule", "tissue"]
_COLUMNS = [*_KEY, "numerator", "denominator", "informative"]


@dataclass(frozen=True)
class Arm:
    """One network's scores on one tissue under one rule; `informative` patients can tell it good from bad."""

    contributions: Contributions
    patients: tuple[str, ...]
    seeds: tuple[int, ...]
    informative: int


def collect_contributions(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the numerator and denominator of each patient, seed, rule and tissue, frames and slices joined.

    Under `positive` only patients whose reference holds the tissue have a row; under the other rules all have
    one, of zeros where they add nothing. Seeds that were not run in every fold of an arm are left out, since
    their score would be over other patients. `informative` tells whether the reference holds the tissue
    (`pooled`) or the patient has a score (other rules).

    Raises:
        InputError: A patient was tested in more than one fold, or an arm has no seed that every fold has.
    """
    unique = scores.drop_duplicates([*_ARM, "frame", "slice_index", "rule", "tissue", "metric"])
    numbers = {name: unique[name].fillna(-1).astype(int) for name in ("seed", "fold")}
    each = patient_rows(unique.assign(**numbers))
    _refuse_two_folds(each)
    complete = complete_seeds(each)
    pooled, means = _pooled_sums(complete), _dice_sums(complete)
    return pd.concat([means, _absent_slices(means, pooled), pooled], ignore_index=True)


def select_arm(of_arm: pd.DataFrame, patients: Sequence[str] | None = None, seeds: Sequence[int] | None = None) -> Arm:
    """Arrange one arm's contributions to one rule and tissue as (patients, seeds).

    Args:
        of_arm: Rows of `collect_contributions` for one network, training set, rule and tissue.
        patients: Patients to take, in this order; by default all that add something.
        seeds: Seeds to take; all by default.
    """
    contributing = set(of_arm.loc[of_arm["denominator"] > 0, "case_id"])
    chosen = list(patients) if patients is not None else sorted(contributing)
    trained = list(seeds) if seeds is not None else sorted(set(of_arm["seed"]))
    numerator, denominator, informative = (
        of_arm.pivot_table(index="case_id", columns="seed", values=name, aggfunc="sum")
        .reindex(index=chosen, columns=trained)
        .fillna(0.0)
        .to_numpy(float)
        for name in ("numerator", "denominator", "informative")
    )
    count = int((informative > 0).any(axis=1).sum())
    fold_of = dict(zip(of_arm["case_id"], of_arm["fold"].astype(int), strict=True))
    contributions = Contributions(numerator, denominator, tuple(fold_of[case_id] for case_id in chosen))
    return Arm(contributions, tuple(chosen), tuple(trained), count)


def _dice_sums(of_patients: pd.DataFrame) -> pd.DataFrame:
    dice = of_patients[of_patients["metric"] == "dice"]
    sums = dice.groupby(_KEY, sort=False)["value"].agg(numerator="sum", denominator="count").reset_index()
    return sums.assign(denominator=sums["denominator"].astype(float), informative=1.0)[_COLUMNS]


def _pooled_sums(of_patients: pd.DataFrame) -> pd.DataFrame:
    counts = of_patients[of_patients["metric"].isin(COUNT_METRICS)]
    sums = counts.pivot_table(index=_KEY, columns="metric", values="value", aggfunc="sum", sort=False)
    tp, fp, fn = (sums[metric] for metric in COUNT_METRICS)
    informative = (tp + fn > 0).astype(float)
    numerator, denominator = dice_terms(tp, tp + fn, tp + fp)
    sums = sums.assign(numerator=numerator, denominator=denominator, informative=informative)
    return sums.reset_index()[_COLUMNS]


def _absent_slices(means: pd.DataFrame, pooled: pd.DataFrame) -> pd.DataFrame:
    """Return rows of zeros for patients none of whose slices counts under `per_slice`."""
    names = [*_ARM, "tissue"]
    counted = means.loc[means["rule"] == "per_slice", names]
    marked = pooled[names].merge(counted, on=names, how="left", indicator=True)
    absent = marked.loc[marked["_merge"] == "left_only", names]
    return absent.assign(rule="per_slice", numerator=0.0, denominator=0.0, informative=0.0)[_COLUMNS]


def complete_seeds(of_patients: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the seeds that were run in every fold of an arm.

    Raises:
        InputError: An arm has none.
    """
    kept = []
    for names, of_arm in of_patients.groupby(["network", "training_set"], sort=False):
        of_folds: dict[Any, set[int]] = {fold: set(rows["seed"]) for fold, rows in of_arm.groupby("fold")}
        shared = set.intersection(*of_folds.values())
        if not shared:
            found = ", ".join(f"fold {fold}: {sorted(seeds)}" for fold, seeds in of_folds.items())
            raise InputError(
                f"{'_'.join(map(str, names))} has no seed that was run in every fold ({found}); run the missing seeds"
            )
        kept.append(of_arm[of_arm["seed"].isin(shared)])
    return pd.concat(kept, ignore_index=True)


def patients_in_two_folds(of_patients: pd.DataFrame) -> list[str]:
    """Return the patients whose rows name more than one fold."""
    folds = of_patients.groupby("case_id")["fold"].nunique()
    return sorted(folds[folds > 1].index)


def _refuse_two_folds(of_patients: pd.DataFrame) -> None:
    if repeated := patients_in_two_folds(of_patients):
        raise InputError(
            f"patients {some_of(repeated)} were tested in more than one fold; "
            "the tables come from different splits: rematerialise them with one split"
        )
