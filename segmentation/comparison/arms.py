"""The comparison of the two arms: tables of scores in, tidy summary, paired differences and verdicts out.

What does not live here: how scores are formed (`segmentation.scoring.scores`), how intervals are drawn (`statistics`),
how the result is shown (`text`, `segmentation.report`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from common.errors import InputError, some_of
from segmentation.comparison.statistics import (
    MINIMUM_PAIRS,
    Contributions,
    Estimate,
    collect_contributions,
    estimate_score,
    holm,
    paired_difference,
    select_arm,
    sources_of_variation,
    verdict,
)
from segmentation.model_kind import ARMS, REAL_ONLY, REAL_PLUS_GAN, ModelKind
from segmentation.scoring.scores import RULES, patient_rows
from segmentation.scoring.yardsticks import absent_yardsticks

PER_FOLD_PREFIX = "fold_"
ONE_FOLD = (
    "With one fold the intervals leave out the variation between training sets; what they say holds for this "
    "fold's training set only."
)
FEW_FOLDS = 4  # fewer have at most two degrees of freedom

SUMMARY_COLUMNS = ("network", "training_set", "tissue", "rule", "mean", "low", "high", "patients", "folds", "seeds")
DIFFERENCE_COLUMNS = (
    "network",
    "tissue",
    "rule",
    REAL_ONLY,
    REAL_PLUS_GAN,
    "difference",
    "low",
    "high",
    "probability_better",
    "p_interval",
    "p_value",
    "p_holm",
    "effect_size",
    "detectable",
    "pairs",
    "folds",
    "seeds",
    "verdict",
)
# Of an arm of several, against the one that it is measured by.
EACH_COLUMNS = (
    "network",
    "arm",
    "against",
    "tissue",
    "rule",
    "score",
    "reference",
    *DIFFERENCE_COLUMNS[5:-1],
    "folds_better",
    "verdict",
)
FOLD_COLUMNS = ("network", "arm", "against", "tissue", "rule", "fold", "difference", "pairs")
PAIR_COLUMNS = ("network", "tissue", "rule", "case_id", REAL_ONLY, REAL_PLUS_GAN)

Arms = tuple[str, str]  # the training set that the other is compared with, and the other
FIRST_AND_SECOND: Arms = ("first", "second")  # of models of any kind


@dataclass(frozen=True)
class ScoredTable:
    """One table of scores, and what it was made from.

    The manifest holds whatever must agree: profile, source digest, split digest, code version. Values of keys
    that start with `fold_` need to agree among tables of the same fold only.
    """

    scores: pd.DataFrame
    manifest: Mapping[str, str]

    @property
    def name(self) -> str:
        """Whose scores these are, for messages."""
        first = self.scores.iloc[0]
        return f"{ModelKind(first['network'], first['training_set']).name} (fold {first['fold']})"


@dataclass(frozen=True)
class Comparison:
    """Tidy tables of a comparison.

    Attributes:
        summary: `SUMMARY_COLUMNS`; yardsticks have an empty training set.
        differences: `DIFFERENCE_COLUMNS`, real plus GAN minus real only; empty while an arm is missing.
        pairs: `PAIR_COLUMNS`, each patient's score in both arms, the mean over seeds.
        folds: The folds that went in.
        notes: What a reader must know.
        arms: The columns of the two arms.
        names: What the two are called.
    """

    summary: pd.DataFrame
    differences: pd.DataFrame
    pairs: pd.DataFrame
    folds: tuple[int, ...]
    notes: tuple[str, ...] = field(default=())
    arms: Arms = ARMS
    names: Arms = ARMS


def compare_arms(tables: Sequence[ScoredTable]) -> Comparison:
    """Compare real-only with real-plus-GAN training, paired by patient, fold and seed, over all folds given.

    Args:
        tables: The tables of scores of every model and fold that is done.

    Raises:
        InputError: Manifests differ (the keys are named), a patient was tested in two folds, or no seed is
            shared.
    """
    if not tables:
        raise InputError("there is no table of scores to compare; materialise a scores asset first")
    refuse_differing(tables)
    scores = pd.concat([table.scores for table in tables], ignore_index=True)
    contributions = collect_contributions(scores)
    differences, pairs = differences_and_pairs(contributions)
    folds = tuple(sorted(int(fold) for fold in scores["fold"].dropna().unique()))
    return Comparison(
        summary=summarise(scores),
        differences=differences,
        pairs=pairs,
        folds=folds,
        notes=_notes(scores, folds, differences),
    )


def compare_two(first: pd.DataFrame, second: pd.DataFrame, arms: Arms) -> pd.DataFrame:
    """Compare two models of any kind on the patients that both were scored on: the second minus the first.

    Args:
        first: Table of scores of one model.
        second: Of the other.
        arms: What the two are called in the table.

    Returns:
        `DIFFERENCE_COLUMNS`, the two arms' columns named by `arms`.
    """
    network = " / ".join(dict.fromkeys(str(table["network"].iloc[0]) for table in (first, second)))
    renamed = [
        table.assign(network=network, training_set=arm) for table, arm in zip((first, second), arms, strict=True)
    ]
    differences, _ = differences_and_pairs(collect_contributions(pd.concat(renamed, ignore_index=True)), arms)
    return differences


def refuse_differing(tables: Sequence[ScoredTable]) -> None:
    """Raise `InputError` naming every manifest key whose values differ, and in which tables."""
    differing = []
    for key in sorted({key for table in tables for key in table.manifest}):
        for group in _comparable(tables, per_fold=key.startswith(PER_FOLD_PREFIX)):
            values: dict[str, str] = {}
            for table in group:
                values.setdefault(str(table.manifest.get(key, "missing")), table.name)
            if len(values) > 1:
                differing.append(f"{key}: " + ", ".join(f"{v!r} in {n}" for v, n in values.items()))
    if differing:
        raise InputError(
            f"tables of scores cannot be compared, they differ in {some_of(differing, between='; ')}; "
            "rematerialise the older ones with the same source, profile and code"
        )


def summarise(scores: pd.DataFrame) -> pd.DataFrame:
    """Return each arm's and yardstick's score under each rule with its interval (`SUMMARY_COLUMNS`)."""
    contributions = collect_contributions(scores)
    keys = ["network", "training_set", "tissue", "rule"]
    rows: list[dict[str, Any]] = []
    for values, of_arm in contributions.groupby(keys, sort=False):
        arm = select_arm(of_arm)
        if not arm.patients:
            continue
        rows.append(
            dict(zip(keys, values, strict=True))
            | _interval(estimate_score(arm.contributions), "mean")
            | {"patients": arm.informative, "folds": arm.contributions.number_of_folds, "seeds": len(arm.seeds)}
        )
    return _ordered(pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS)))


def _comparable(tables: Sequence[ScoredTable], per_fold: bool) -> list[list[ScoredTable]]:
    if not per_fold:
        return [list(tables)]
    groups: dict[str, list[ScoredTable]] = {}
    for table in tables:
        groups.setdefault(str(table.scores["fold"].iloc[0]), []).append(table)
    return list(groups.values())


def differences_and_pairs(contributions: pd.DataFrame, arms: Arms = ARMS) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return `DIFFERENCE_COLUMNS` and `PAIR_COLUMNS` of rows of `collect_contributions`, the arms' columns by name."""
    columns, pair_columns = (_with_arms(names, arms) for names in (DIFFERENCE_COLUMNS, PAIR_COLUMNS))
    rows: list[dict[str, Any]] = []
    pairs: list[pd.DataFrame] = [pd.DataFrame(columns=pair_columns)]
    for rule, of_rule in contributions.groupby("rule", sort=False):
        of_table, of_patients = _rule_differences(of_rule, str(rule), arms)
        rows += of_table
        pairs += of_patients
    found = [frame for frame in pairs if len(frame)]
    joined = pd.concat(found, ignore_index=True) if found else pairs[0]
    return _ordered(pd.DataFrame(rows, columns=columns)), joined


def _with_arms(columns: Sequence[str], arms: Arms) -> list[str]:
    names = dict(zip(ARMS, arms, strict=True))
    return [names.get(column, column) for column in columns]


def _rule_differences(of_rule: pd.DataFrame, rule: str, arms: Arms) -> tuple[list[dict[str, Any]], list[pd.DataFrame]]:
    """Compare the arms in each tissue of every network under one rule; Holm corrects over all of these rows."""
    rows: list[dict[str, Any]] = []
    pairs: list[pd.DataFrame] = []
    for match in _matches(of_rule, [arms]):
        names = {"network": match.network, "tissue": match.tissue, "rule": rule}
        both = (match.without, match.with_gan)
        each = dict(zip(arms, (one.of_patients() for one in both), strict=True))
        pairs.append(pd.DataFrame({**names, "case_id": match.patients, **each})[_with_arms(PAIR_COLUMNS, arms)])
        scores = dict(zip(arms, (one.score() for one in both), strict=True))
        rows.append(names | scores | _difference(*both, rule) | {"pairs": match.informative})
    return _judged(rows), pairs


def compare_each(scores: pd.DataFrame, against: Mapping[str, str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare each of several arms with the one that it is measured by, paired by patient, fold and seed.

    Holm corrects over the arms, tissues and networks of a rule.

    Args:
        scores: Tables of scores one beneath the other, each arm a training set of its own.
        against: By what each arm is measured; an arm of which there are no scores is passed over.

    Returns:
        `EACH_COLUMNS`, and `FOLD_COLUMNS`: the same differences in each fold alone.
    """
    contributions = collect_contributions(scores)
    pairs = [(reference, arm) for arm, reference in against.items()]
    rows: list[dict[str, Any]] = []
    by_fold: list[dict[str, Any]] = []
    for rule, of_rule in contributions.groupby("rule", sort=False):
        of_table = []
        for match in _matches(of_rule, pairs):
            reference, arm = match.arms
            names = {"network": match.network, "arm": arm, "against": reference, "tissue": match.tissue, "rule": rule}
            found = [names | fold for fold in match.folds()]
            both = {"score": match.with_gan.score(), "reference": match.without.score(), "pairs": match.informative}
            better = {"folds_better": sum(fold["difference"] > 0 for fold in found)}
            of_table.append(names | both | better | _difference(match.without, match.with_gan, str(rule)))
            by_fold += found
        rows += _judged(of_table)
    return _ordered(pd.DataFrame(rows, columns=list(EACH_COLUMNS))), pd.DataFrame(by_fold, columns=list(FOLD_COLUMNS))


@dataclass(frozen=True)
class _Match:
    """Two arms of a network on the patients and seeds that they share, in one tissue under one rule."""

    network: str
    tissue: str
    arms: Arms
    without: Contributions
    with_gan: Contributions
    patients: list[str]
    informative: int

    def folds(self) -> Iterator[dict[str, Any]]:
        """Give the difference in each fold, and of how many patients."""
        folds = np.array(self.without.folds)
        for fold in sorted(set(self.without.folds)):
            one, other = (
                Contributions(arm.numerator[folds == fold], arm.denominator[folds == fold])
                for arm in (self.without, self.with_gan)
            )
            yield {"fold": fold, "difference": other.score() - one.score(), "pairs": int((folds == fold).sum())}


def _matches(of_rule: pd.DataFrame, pairs: Sequence[Arms]) -> Iterator[_Match]:
    """Give the arms of each pair in each tissue, of the networks that were trained on both sets."""
    for network, of_network in of_rule.groupby("network", sort=False):
        for arms in pairs:
            of_arms = of_network[of_network["training_set"].isin(arms)]
            if not set(arms) <= set(of_arms["training_set"]):
                continue
            for tissue, of_tissue in of_arms.groupby("tissue", sort=False):
                matched = match_arms(of_tissue, *arms)
                if matched is not None:
                    yield _Match(str(network), str(tissue), arms, *matched)


def _judged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add Holm's p and the verdict to the rows of one rule."""
    # Interval and test must both speak, so that the larger of their p counts.
    together = [float(np.fmax(row["p_value"], row["p_interval"])) for row in rows]
    for row, adjusted in zip(rows, holm(together), strict=True):
        estimate = Estimate(row["difference"], row["low"], row["high"])
        words = verdict(estimate, adjusted, row["pairs"], row["seeds"], row["folds"] == 1)
        row |= {"p_holm": adjusted, "verdict": words}
    return rows


def _difference(without: Contributions, with_gan: Contributions, rule: str) -> dict[str, Any]:
    found = paired_difference(with_gan, without)
    return _interval(found.estimate, "difference") | {
        "probability_better": found.probability_better,
        "p_interval": found.p_interval,
        # Pooling weighs patients by their voxels; the test of unweighted patients is not its test.
        "p_value": float("nan") if rule == "pooled" else found.p_value,
        "effect_size": found.effect_size,
        "detectable": found.detectable,
        "folds": without.number_of_folds,
        "seeds": without.numerator.shape[1],
    }


def match_arms(
    of_tissue: pd.DataFrame, without: str, with_gan: str
) -> tuple[Contributions, Contributions, list[str], int] | None:
    """Return two training sets' contributions on the patients and seeds that they share.

    Args:
        of_tissue: Rows of `collect_contributions` of one network, tissue and rule.
        without: Name of the first training set.
        with_gan: Name of the other.

    Returns:
        Both, the patients, and how many of them can tell good from bad; None where they share no patient.

    Raises:
        InputError: They share no seed.
    """
    first, second = (of_tissue[of_tissue["training_set"] == name] for name in (without, with_gan))
    contributing = set(of_tissue.loc[of_tissue["denominator"] > 0, "case_id"])
    patients = sorted(contributing & set(first["case_id"]) & set(second["case_id"]))
    if not patients:
        return None
    seeds = sorted(set(first["seed"]) & set(second["seed"]))
    if not seeds:
        name = first["network"].iloc[0]
        raise InputError(f"the two arms of {name} share no seed; train both with the same seeds")
    one, other = (select_arm(arm, patients, seeds) for arm in (first, second))
    return one.contributions, other.contributions, patients, min(one.informative, other.informative)


def _interval(estimate: Estimate, name: str) -> dict[str, Any]:
    return {name: estimate.value, "low": estimate.low, "high": estimate.high}


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    rank = table["rule"].map({rule: place for place, rule in enumerate(RULES)})
    return table.iloc[np.argsort(rank.to_numpy(float), kind="stable")].reset_index(drop=True)


def _notes(scores: pd.DataFrame, folds: tuple[int, ...], differences: pd.DataFrame) -> tuple[str, ...]:
    notes = _single_folds(scores, folds)
    notes += _unequal_folds(scores)
    notes += absent_yardsticks(scores)
    notes += interval_notes(differences)
    if len(differences) and differences["pairs"].min() < MINIMUM_PAIRS:
        notes.append(f"Fewer than {MINIMUM_PAIRS} pairs of patients give no verdict.")
    if len(differences) == 0:
        notes.append("Only one training set has been scored, so there is no difference to give.")
    return tuple(notes)


def interval_notes(table: pd.DataFrame, one_fold: str = ONE_FOLD) -> list[str]:
    """Say what the intervals of a table with the columns `folds` and `seeds` cover, and what they leave out.

    Args:
        table: The table.
        one_fold: What one fold means.
    """
    if table.empty:
        return []
    folds, seeds = int(table["folds"].min()), int(table["seeds"].min())
    notes = [f"Intervals are over {sources_of_variation(folds, seeds)}."]
    if folds == 1:
        notes.append(one_fold)
    elif folds < FEW_FOLDS:
        notes.append(f"{folds} folds tell little of how much training sets vary, so that the intervals are wide.")
    if seeds == 1:
        notes.append(
            "With one seed the intervals leave out the variation between trainings; verdicts hold for that seed."
        )
    return notes


def _single_folds(scores: pd.DataFrame, folds: tuple[int, ...]) -> list[str]:
    """Warn of networks that were scored on one fold: all together where it is the only one, else each by name."""
    trained = patient_rows(scores[scores["training_set"] != ""])
    by_network = {str(network): of for network, of in trained.groupby("network", sort=False)}
    groups = {"": trained} if len(folds) == 1 else by_network
    return [
        (f"{network}: fold" if network else "Fold") + f" {int(of['fold'].iloc[0])} alone has "
        f"{of['case_id'].nunique()} test patients, and fewer with each lesion: differences between the arms mean "
        "little until all folds are done."
        for network, of in groups.items()
        if len(of["fold"].unique()) == 1
    ]


def _unequal_folds(scores: pd.DataFrame) -> list[str]:
    """Say which folds each network was scored on where they differ."""
    trained = scores[scores["training_set"] != ""]
    folds = {
        str(network): ", ".join(str(int(fold)) for fold in sorted(of["fold"].unique()))
        for network, of in trained.groupby("network", sort=False)
    }
    if len(set(folds.values())) < 2:
        return []
    told = "; ".join(f"{network}: {done}" for network, done in folds.items())
    note = f"The networks were scored on different folds ({told}): compare the arms of each, neither the networks with "
    return [note + "each other nor one with the yardsticks."]
