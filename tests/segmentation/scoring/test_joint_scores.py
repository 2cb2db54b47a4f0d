"""Rows of all patients together are told from a patient's by rule and metric, and intervals end where metrics do."""

import math

import numpy as np
import pytest

from imaging.labels import EMIDEC_LABELS
from segmentation.comparison.statistics import collect_contributions
from segmentation.evaluation.evaluation import Evaluation, patient_table, summarise_evaluation
from segmentation.scoring.rules import EJECTION, SHARES, TRANSMURALITY, metric_bounds
from segmentation.scoring.scores import ALL_PATIENTS, ScoreIdentity, patient_rows, score_table

SPACING_MM = (10.0, 1.5, 1.5)
NAMES = ("all", "mean", "NA", "p1")


def heart(lesion_columns):
    """Two slices of cavity in a wall of ten columns, so many of which are infarct."""
    mask = np.zeros((2, 12, 14), np.uint8)
    mask[:, 1:11, 2:12] = 2
    mask[:, 1:11, 2 : 2 + lesion_columns] = 3
    mask[:, 5:7, 5:7] = 1
    return mask


def table(names, lesions, network="net"):
    volumes = [(name, "", heart(size), heart(size), SPACING_MM) for name, size in zip(names, lesions, strict=True)]
    return score_table(volumes, ScoreIdentity(0, network, "real_only", 0), EMIDEC_LABELS)


@pytest.fixture(scope="module")
def scores():
    return table(NAMES, (2, 3, 0, 4))


def test_a_patient_called_as_all_patients_keeps_the_rows(scores):
    rows = patient_rows(scores)
    counts = rows["case_id"].value_counts()
    assert set(counts.index) == set(NAMES)
    assert counts["all"] == counts["mean"] == counts["p1"]
    joint = scores.drop(rows.index)
    assert set(joint["case_id"]) == {ALL_PATIENTS}
    kinds = set(zip(joint["rule"], joint["metric"], strict=True))
    assert {("pooled", "dice"), ("official", "sensitivity"), ("official", "specificity")} <= kinds


def test_the_comparison_counts_every_patient(scores):
    found = collect_contributions(scores)
    assert set(found.loc[found["rule"] == "positive", "case_id"]) == set(NAMES)
    assert set(found.loc[found["rule"] == "pooled", "case_id"]) == set(NAMES)


def summary_of(scores):
    return summarise_evaluation(Evaluation(scores, scores, (), {}, len(NAMES), len(NAMES)))


def test_the_summary_and_the_patients_table_count_every_patient(scores):
    summary = summary_of(scores)
    assert set(summary.loc[summary["tissue"] == "cavity", "patients"]) == {len(NAMES)}
    patients = patient_table(Evaluation(scores, scores, (), {}, len(NAMES), len(NAMES)))
    assert list(patients["case_id"]) == sorted(NAMES)


def test_intervals_of_shares_end_at_100_percent():
    summary = summary_of(table(NAMES, (10, 10, 10, 1)))
    shares = summary[summary["metric"].isin(SHARES[:2])]
    assert len(shares) > 0
    assert shares["high"].max() == 100.0
    known = summary[summary["high"].notna()]
    assert (known["high"] <= known["metric"].map(lambda name: metric_bounds(name)[1])).all()
    assert (known["low"] >= known["metric"].map(lambda name: metric_bounds(name)[0])).all()


def test_every_share_has_a_highest_value_and_the_difference_of_ejection_fractions_has_none():
    assert {metric_bounds(name)[1] for name in (*SHARES, *TRANSMURALITY)} == {100.0}
    assert metric_bounds(EJECTION[-1]) == (0.0, math.inf)
