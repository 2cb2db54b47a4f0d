"""Dice against the make-up of the training set: each point with its interval, and less the point it is measured by."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from segmentation.comparison import match_arms, summarise
from segmentation.contributions import collect_contributions
from segmentation.statistics import Estimate, PairedDifference, holm, paired_difference, verdict

CURVE_RULES = ("positive", "pooled")
DIFFERENCE_COLUMNS = ("difference", "difference_low", "difference_high", "p_holm", "detectable", "pairs", "verdict")


def sweep_curve(scores: pd.DataFrame, measured_by: Mapping[str, str]) -> pd.DataFrame:
    """Return one row a point, tissue and rule, in the order of `scores`.

    Args:
        scores: The tables of scores of all points of one network, each a training set of its own.
        measured_by: The point that a point is measured by, by name; a point without one has no difference.

    Returns:
        `training_set`, `tissue`, `rule`, `mean`, `low`, `high`, `patients`, `folds`, `seeds` and `DIFFERENCE_COLUMNS`;
        Holm corrects over all points and tissues of a rule.

    Raises:
        InputError: Two points share no seed.
    """
    summary = summarise(scores).drop(columns="network")
    found = summary[summary["rule"].isin(CURVE_RULES)].reset_index(drop=True)
    contributions = collect_contributions(scores)
    differences = pd.concat([_differences(contributions, rule, measured_by) for rule in CURVE_RULES])
    return found.merge(differences, on=["training_set", "tissue", "rule"], how="left")


def _differences(contributions: pd.DataFrame, rule: str, measured_by: Mapping[str, str]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for tissue, of_tissue in contributions[contributions["rule"] == rule].groupby("tissue", sort=False):
        for point, reference in measured_by.items():
            matched = match_arms(of_tissue, reference, point)
            if matched is not None:
                without, with_more, _, pairs = matched
                names = {"training_set": point, "tissue": tissue, "rule": rule, "pairs": pairs}
                found = paired_difference(with_more, without)
                known = {"seeds": without.numerator.shape[1], "one_training_set": without.number_of_folds == 1}
                rows.append(names | known | {"found": found, "p": _p_value(found, rule)})
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row |= _in_words(row.pop("found"), adjusted, row["pairs"], row.pop("seeds"), row.pop("one_training_set"))
    return pd.DataFrame(rows, columns=["training_set", "tissue", "rule", *DIFFERENCE_COLUMNS])


def _p_value(found: PairedDifference, rule: str) -> float:
    """Return the larger of interval's and test's p; pooling weighs patients, of which the test knows nothing."""
    return found.p_interval if rule == "pooled" else float(np.fmax(found.p_interval, found.p_value))


def _in_words(
    found: PairedDifference, adjusted: float, pairs: int, seeds: int, one_training_set: bool
) -> dict[str, Any]:
    estimate: Estimate = found.estimate
    return {
        "difference": estimate.value,
        "difference_low": estimate.low,
        "difference_high": estimate.high,
        "p_holm": adjusted,
        "detectable": found.detectable,
        "verdict": verdict(estimate, adjusted, pairs, seeds, one_training_set),
    }
