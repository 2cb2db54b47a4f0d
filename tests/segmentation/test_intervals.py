"""Coverage, false alarms and power on simulated scores of known effect; `benchmarks.intervals` has 2,000 a design."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.intervals import DESIGNS, judge_all, simulate, study
from common.seeds import random_generator

SIMULATIONS = 300
CHANCE = 0.001  # that a method on its bar is failed, each way

COVERED_AT_LEAST = 100 * stats.binom.ppf(CHANCE, SIMULATIONS, 0.93) / SIMULATIONS
MOST_ALARMS = 100 * stats.binom.ppf(1 - CHANCE, SIMULATIONS, 0.065) / SIMULATIONS


@pytest.mark.parametrize(
    "name",
    [
        "cavity, 65 patients, 3 seeds",
        "cavity, seeds decide",
        "infarct, folds 0.03",
        "no-reflow, 26 patients, 3 seeds",
        "no-reflow, folds 0.066, pooled",
    ],
)
def test_intervals_cover_verdicts_hold_and_what_is_called_detectable_is_found(name):
    found = study(DESIGNS[name], SIMULATIONS)
    assert found["coverage"] >= COVERED_AT_LEAST
    assert found["with effect"] >= COVERED_AT_LEAST
    assert found["false alarm"] <= MOST_ALARMS
    assert 68 <= found["power"] <= 90


def test_one_seed_speaks_of_its_own_trainings_only():
    found = study(DESIGNS["one fold, 13 patients, 1 seed"], SIMULATIONS)
    assert found["these trainings"] >= COVERED_AT_LEAST
    assert found["coverage"] < COVERED_AT_LEAST  # what another seed would give is not covered
    assert found["false alarm"] == 0
    alone = study(DESIGNS["one fold, no seed effect"], SIMULATIONS)
    assert alone["of these trainings"] <= MOST_ALARMS


def test_intervals_as_if_seeds_were_many_fail_this_test():
    design = DESIGNS["cavity, seeds decide"]
    covered = []
    for index in range(SIMULATIONS):
        data = simulate(design, random_generator(0, "intervals", index))
        seeds = (data.with_gan.numerator - data.without.numerator).mean(axis=0)
        covered.append(abs(seeds.mean()) <= 1.96 * seeds.std(ddof=1) / np.sqrt(len(seeds)))
    assert 100 * np.mean(covered) < COVERED_AT_LEAST


def test_an_interval_that_knows_no_folds_fails_where_training_sets_vary_as_measured():
    table = judge_all(DESIGNS["cavity, folds 0.005, no seed effect"], 0.0, SIMULATIONS, 3)
    assert 100 * table["alarm"].mean() <= MOST_ALARMS
    assert 100 * table["alarm_without_folds"].mean() > MOST_ALARMS


def test_several_seeds_of_one_fold_speak_of_its_training_set_only():
    table = judge_all(DESIGNS["one fold, 3 seeds, folds 0.02"], 0.0, SIMULATIONS, 4)
    assert not table["alarm"].any()
    assert 100 * table["alarm_of_trainings"].mean() <= MOST_ALARMS
    assert 100 * table["covered_trainings"].mean() >= COVERED_AT_LEAST


@pytest.mark.parametrize("name", ["infarct, folds 0.03", "no-reflow, folds 0.066, pooled"])
def test_the_true_difference_is_that_of_the_simulated_data(name):
    design = DESIGNS[name].with_difference(0.05)
    table = judge_all(design, 0.05, 200, 5)
    assert table["difference"].mean() == pytest.approx(0.05, abs=4 * table["difference"].std() / np.sqrt(200))
    assert table["arm"].mean() == pytest.approx(
        design.score(-design.effect / 2), abs=4 * table["arm"].std() / np.sqrt(200)
    )
