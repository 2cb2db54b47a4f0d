"""Summarises an evaluation: means with intervals over patients, and one wide row a patient."""

from typing import Any

import pandas as pd

from segmentation.evaluation import Evaluation
from segmentation.joint_scores import patient_rows
from segmentation.score_rules import COUNT_METRICS, DETECTION, OVERLAP, RULES, UNITS, metric_bounds
from segmentation.statistics import Contributions, Estimate, estimate_score

ALL_FRAMES = "all"
SUMMARY_COLUMNS = (
    "rule",
    "tissue",
    "frame",
    "metric",
    "unit",
    "mean",
    "low",
    "high",
    "patients",
    "of_patients",
    "all_background",
)

Key = tuple[str, str, str, str]  # rule, tissue, frame, metric
_KEY = ["rule", "tissue", "frame", "metric"]
_COLUMNS = [*_KEY, "case_id", "numerator", "denominator"]


def summarise_evaluation(evaluation: Evaluation) -> pd.DataFrame:
    """Return the mean of each metric over patients, its 95 % interval, and the all-background prediction's mean.

    Returns:
        `SUMMARY_COLUMNS`. A patient's slices and frames are joined first; cine has a row for each frame and one for
        `all`. `patients` have a value, `of_patients` would with a usable prediction; the yardstick's mean is over the
        patients that were scored.
    """
    own, everyone = _contributions(evaluation.scores), _contributions(evaluation.yardstick)
    beside = everyone[everyone["case_id"].isin(set(patient_rows(evaluation.scores)["case_id"]))]
    means, yardstick = _by_key(own), _by_key(beside)
    rows: list[dict[str, Any]] = []
    for key, of_patients in _eligible(pd.concat([own, everyone])).items():
        known = means.get(key, own.iloc[:0])
        found = _estimate(known, key[-1])
        values = (found.value, found.low, found.high, len(known), of_patients, _ratio(yardstick.get(key, own.iloc[:0])))
        rows.append(dict(zip(SUMMARY_COLUMNS, (*key, UNITS[key[-1]], *values), strict=True)))
    table = pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))
    return table.sort_values("rule", key=lambda names: names.map(RULES.index), kind="stable").reset_index(drop=True)


def patient_table(evaluation: Evaluation) -> pd.DataFrame:
    """Return one row a patient: `case_id`, `problem`, then `metric/rule/tissue` and for cine `…/frame`.

    Slices are averaged. A patient of whom nothing could be scored has empty cells and a problem.
    """
    scores = patient_rows(evaluation.scores)
    names = scores["metric"] + "/" + scores["rule"] + "/" + scores["tissue"]
    framed = names.where(scores["frame"] == "", names + "/" + scores["frame"])
    wide = scores.assign(column=framed).pivot_table(
        index="case_id", columns="column", values="value", aggfunc="mean", sort=False, dropna=False
    )
    everyone = sorted(set(patient_rows(evaluation.yardstick)["case_id"]) | set(evaluation.unscored))
    wide = wide.reindex(everyone).rename_axis(index="case_id", columns=None).reset_index()
    wide.insert(1, "problem", [evaluation.unscored.get(case_id, "") for case_id in wide["case_id"]])
    return wide


def _contributions(scores: pd.DataFrame) -> pd.DataFrame:
    """Return what each patient adds to numerator and denominator of each mean (`_COLUMNS`)."""
    rows = patient_rows(scores)
    single = rows[rows["frame"] != ""] if (rows["frame"] != "").any() else rows
    parts = [_of_frames(single)]
    if len(single["frame"].unique()) > 1:
        parts.append(_of_frames(rows.assign(frame=ALL_FRAMES)))
    return pd.concat(parts, ignore_index=True)


def _of_frames(rows: pd.DataFrame) -> pd.DataFrame:
    lesions = _lesion_rows(rows)
    means = rows[~rows["metric"].isin(COUNT_METRICS)]
    summed = means.groupby([*_KEY, "case_id"], sort=False)["value"].agg(numerator="sum", denominator="count")
    return pd.concat([summed.reset_index()[_COLUMNS], _pooled(rows), *map(_detection, lesions)], ignore_index=True)


def _lesion_rows(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Return the official volume rows of each lesion group, which alone have a share of the myocardium."""
    official = rows[rows["rule"] == "official"]
    groups = official.loc[official["metric"] == "share_of_myocardium", "tissue"].unique()
    return [official[official["tissue"] == group] for group in groups]


def _pooled(rows: pd.DataFrame) -> pd.DataFrame:
    counts = rows[rows["metric"].isin(COUNT_METRICS)]
    index = ["rule", "tissue", "frame", "case_id"]
    sums = counts.pivot_table(index=index, columns="metric", values="value", aggfunc="sum", sort=False)
    tp, fp, fn = (sums[name] for name in COUNT_METRICS)
    parts = {
        "dice": (2 * tp, 2 * tp + fp + fn),
        "jaccard": (tp, tp + fp + fn),
        "precision": (tp, tp + fp),
        "recall": (tp, tp + fn),
    }
    assert tuple(parts) == OVERLAP
    framed = [
        sums.assign(metric=metric, numerator=numerator, denominator=denominator).reset_index()[_COLUMNS]
        for metric, (numerator, denominator) in parts.items()
    ]
    return pd.concat(framed, ignore_index=True)


def _detection(rows: pd.DataFrame) -> pd.DataFrame:
    """Return whether each patient with (or without) the lesion was recognised as such."""
    volumes = rows.pivot_table(index=["rule", "tissue", "frame", "case_id"], columns="metric", values="value")
    found, has = volumes["volume"] > 0, volumes["reference_volume"] > 0
    parts = [
        volumes.assign(metric=metric, numerator=(of & (found == has)) * 1.0, denominator=of * 1.0)
        for metric, of in zip(DETECTION, (has, ~has), strict=True)
    ]
    return pd.concat([part.reset_index()[_COLUMNS] for part in parts], ignore_index=True)


def _by_key(contributions: pd.DataFrame) -> dict[Key, pd.DataFrame]:
    """Return the patients with a value by rule, tissue, frame and metric."""
    counting = contributions[contributions["denominator"] > 0]
    return {(str(r), str(t), str(f), str(m)): rows for (r, t, f, m), rows in counting.groupby(_KEY, sort=False)}


def _eligible(contributions: pd.DataFrame) -> dict[Key, int]:
    """Return how many patients count for each metric: for a tissue under a rule, those who have any metric of it."""
    by_key = _by_key(contributions)
    patients: dict[Key, set[str]] = {}
    for key, rows in by_key.items():
        patients.setdefault(_shared(key), set()).update(rows["case_id"])
    return {key: len(patients[_shared(key)]) for key in by_key}


def _shared(key: Key) -> Key:
    """Return a key without its metric, but for those of patients who have, or lack, a lesion."""
    return key if key[-1] in DETECTION else (*key[:-1], "")


def _estimate(known: pd.DataFrame, metric: str) -> Estimate:
    """Return the mean and its interval, which does not leave what the metric can be."""
    if known.empty:
        return Estimate(float("nan"), float("nan"), float("nan"))
    numerator, denominator = (known[name].to_numpy(float)[:, None] for name in ("numerator", "denominator"))
    return estimate_score(Contributions(numerator, denominator), metric_bounds(metric))


def _ratio(rows: pd.DataFrame) -> float:
    denominator = float(rows["denominator"].sum())
    return float(rows["numerator"].sum()) / denominator if denominator else float("nan")
