"""From a tidy table of scores to what each patient and seed contributes to each rule's score."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from imaging.errors import InputError, some_of
from segmentation.joint_scores import patient_rows
from segmentation.scores import COUNT_METRICS
from segmentation.statistics import Contributions

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
    sums = sums.assign(numerator=2 * tp, denominator=2 * tp + fp + fn, informative=informative)
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


def _refuse_two_folds(of_patients: pd.DataFrame) -> None:
    folds = of_patients.groupby("case_id")["fold"].nunique()
    repeated = sorted(folds[folds > 1].index)
    if repeated:
        raise InputError(
            f"patients {some_of(repeated)} were tested in more than one fold; "
            "the tables come from different splits: rematerialise them with one split"
        )
