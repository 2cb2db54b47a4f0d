import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from common.errors import InputError
from segmentation.comparison.crossed_interval import Spread, pseudo_values
from segmentation.comparison.statistics import (
    BETTER,
    BETTER_IN_THIS_FOLD,
    BETTER_WITH_THIS_SEED,
    NO_EVIDENCE,
    TOO_FEW,
    WORSE,
    WORSE_IN_THIS_FOLD,
    WORSE_WITH_THIS_SEED,
    Contributions,
    Estimate,
    estimate_score,
    holm,
    paired_difference,
    rank_biserial,
    signed_rank_test,
    sources_of_variation,
    verdict,
)


def means(values) -> Contributions:
    values = np.atleast_2d(np.asarray(values, float))
    return Contributions(values, np.ones_like(values))


def test_score_is_the_mean_over_patients_and_seeds_or_a_ratio_of_sums():
    assert means([[0.2, 0.4], [0.6, 0.8]]).score() == pytest.approx(0.5)
    ratio = Contributions(np.array([[2.0], [0.0], [6.0]]), np.array([[4.0], [0.0], [6.0]]))
    assert ratio.score() == pytest.approx(0.8)
    np.testing.assert_allclose(ratio.of_patients(), [0.5, np.nan, 1.0])


def test_equal_arms_differ_by_nothing():
    arm = means(np.random.default_rng(0).uniform(size=(12, 3)))
    found = paired_difference(arm, arm)
    assert (found.estimate.value, found.estimate.low, found.estimate.high) == (0, 0, 0)
    assert (found.probability_better, found.p_value, found.p_interval) == (0.5, 1.0, 1.0)
    assert found.effect_size == 0.0
    assert np.isnan(found.detectable)  # nothing varies


def test_difference_changes_sign_with_the_arms():
    rng = np.random.default_rng(0)
    first, second = means(rng.uniform(size=(15, 2))), means(rng.uniform(size=(15, 2)))
    forth, back = paired_difference(first, second), paired_difference(second, first)
    assert forth.estimate.low == pytest.approx(-back.estimate.high)
    assert forth.p_value == pytest.approx(back.p_value)
    assert forth.probability_better == pytest.approx(1 - back.probability_better)
    assert forth.effect_size == pytest.approx(-back.effect_size)


def test_a_constant_gain_is_certain():
    base = np.random.default_rng(0).uniform(size=(10, 1))
    found = paired_difference(means(base + 0.05), means(base))
    assert found.estimate.low == pytest.approx(0.05)
    assert found.estimate.high == pytest.approx(0.05)
    assert found.probability_better == found.effect_size == 1.0
    assert found.p_interval == 0.0
    assert found.p_value == pytest.approx(2 / 2**10)


def test_pairing_removes_the_variation_between_patients():
    rng = np.random.default_rng(0)
    base = rng.uniform(size=(20, 1))
    gain = means(base + 0.02 + rng.normal(0, 0.01, (20, 1)))
    paired = paired_difference(gain, means(base)).estimate
    alone = estimate_score(means(base))
    assert paired.high - paired.low < 0.1 * (alone.high - alone.low)


def test_seeds_that_move_all_patients_count_as_so_many_and_no_more():
    seeds = np.array([[0.0, 0.1, 0.2, 0.3]])
    found = estimate_score(means(np.full((30, 1), 0.5) + seeds))
    low, high = stats.t.interval(0.95, 3, loc=0.65, scale=np.std(seeds, ddof=1) / 2)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_one_seed_is_the_t_interval_of_the_patients():
    rng = np.random.default_rng(0)
    base, gain = rng.uniform(0.3, 0.6, (12, 1)), rng.normal(0.03, 0.05, (12, 1))
    found = paired_difference(means(base + gain), means(base))
    expected = stats.ttest_1samp(gain[:, 0], 0.0)
    low, high = expected.confidence_interval()
    assert (found.estimate.low, found.estimate.high) == (pytest.approx(low), pytest.approx(high))
    assert found.p_interval == pytest.approx(expected.pvalue, abs=1e-9)
    assert found.probability_better == pytest.approx(1 - expected.pvalue / 2, abs=1e-9)


def test_what_one_seed_can_detect_is_what_the_noncentral_t_distribution_says():
    values = np.random.default_rng(1).normal(0, 0.05, (10, 1))
    found = Spread.of(values)
    limit, shift = stats.t.ppf(0.975, 9), found.detectable(0.025, 0.8) / found.deviation
    assert stats.nct.sf(limit, 9, shift) == pytest.approx(0.8, abs=0.01)


@given(st.integers(0, 10_000), st.integers(1, 4), st.floats(-0.2, 0.2))
def test_interval_p_and_probability_agree(seed, seeds, shift):
    rng = np.random.default_rng(seed)
    base = rng.uniform(0.3, 0.6, (9, 1))
    noise = rng.normal(0, 0.05, (9, 1)) + rng.normal(0, 0.03, (1, seeds)) + rng.normal(0, 0.02, (9, seeds))
    found = paired_difference(means(base + noise + shift), means(np.repeat(base, seeds, axis=1)))
    without_zero = found.estimate.low > 0 or found.estimate.high < 0
    assert without_zero == (found.p_interval < 0.05)
    assert without_zero == (abs(found.probability_better - 0.5) > 0.475)
    assert (found.estimate.value > 0) == (found.probability_better > 0.5)


def test_mean_squares_by_hand():
    spread = Spread.of(np.array([[0.0, 2.0], [4.0, 10.0]]))
    assert (spread.between_patients, spread.between_seeds, spread.rest) == (9.0, 4.0, 1.0)
    assert (spread.folds, spread.between_folds) == (1, 0.0)
    assert spread.deviation == pytest.approx(np.sqrt(12.0))
    assert spread.half_width(0.025) == pytest.approx(stats.t.ppf(0.975, 1) * np.sqrt(12.0))


def test_pseudo_values_are_those_of_leaving_each_patient_out():
    rng = np.random.default_rng(0)
    above, below = rng.uniform(size=(6, 2)), rng.uniform(1, 2, (6, 2))
    values = pseudo_values(above, below)
    for patient in range(6):
        rest = np.delete(above, patient, 0).sum(0) / np.delete(below, patient, 0).sum(0)
        np.testing.assert_allclose(values[patient], 6 * above.sum(0) / below.sum(0) - 5 * rest)
    np.testing.assert_allclose(pseudo_values(above, np.ones((6, 2))), above)


def test_a_score_that_hangs_on_one_patient_has_no_interval():
    lone = Contributions(np.array([[3.0], [0.0], [0.0]]), np.array([[4.0], [0.0], [0.0]]))
    found = estimate_score(lone)
    assert found.value == 0.75
    assert np.isnan([found.low, found.high]).all()
    assert np.isnan(paired_difference(lone, lone).probability_better)


def test_intervals_are_cut_at_what_a_score_can_be():
    wide = means([[0.0], [1.0], [1.0]])
    assert (estimate_score(wide).low, estimate_score(wide).high) == (0.0, 1.0)
    assert estimate_score(wide, (-np.inf, np.inf)).high > 1.0


def test_one_patient_has_no_interval():
    found = estimate_score(means([[0.5, 0.6]]))
    assert np.isnan(found.low)
    assert np.isnan(found.high)


def test_arms_of_other_shapes_are_refused():
    with pytest.raises(InputError, match="cannot be paired"):
        paired_difference(means(np.ones((3, 1))), means(np.ones((4, 1))))


def test_holm_by_hand():
    adjusted = holm([0.04, 0.01, float("nan"), 0.03])
    assert adjusted[:2] == pytest.approx([0.06, 0.03])
    assert np.isnan(adjusted[2])
    assert adjusted[3] == pytest.approx(0.06)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_a_p_and_keeps_their_order(p_values):
    adjusted = holm(p_values)
    assert all(p <= a <= 1 for p, a in zip(p_values, adjusted, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


def test_signed_rank_edges():
    assert signed_rank_test(np.zeros(9)) == 1.0
    assert np.isnan(signed_rank_test(np.array([])))
    assert signed_rank_test(np.arange(1.0, 9.0)) == pytest.approx(2 / 2**8)


def test_rank_biserial_by_hand():
    assert rank_biserial(np.array([1.0, 2.0, -3.0])) == pytest.approx(0.0)
    assert rank_biserial(np.array([1.0, 2.0, 3.0])) == 1.0
    assert rank_biserial(np.zeros(3)) == 0.0


@pytest.mark.parametrize(
    ("low", "high", "p", "pairs", "seeds", "words"),
    [
        (0.01, 0.05, 0.01, 20, 3, BETTER),
        (-0.05, -0.01, 0.01, 20, 3, WORSE),
        (0.01, 0.05, 0.01, 20, 1, BETTER_WITH_THIS_SEED),
        (-0.05, -0.01, 0.01, 20, 1, WORSE_WITH_THIS_SEED),
        (-0.01, 0.05, 0.01, 20, 1, NO_EVIDENCE),
        (-0.01, 0.05, 0.01, 20, 3, NO_EVIDENCE),
        (0.01, 0.05, 0.20, 20, 3, NO_EVIDENCE),
        (0.01, 0.05, float("nan"), 20, 3, BETTER),
        (float("nan"), float("nan"), float("nan"), 20, 3, NO_EVIDENCE),
        (0.01, 0.05, 0.01, 7, 3, TOO_FEW),
        (0.01, 0.05, 0.01, 8, 3, BETTER),
    ],
)
def test_verdicts(low, high, p, pairs, seeds, words):
    assert verdict(Estimate((low + high) / 2, low, high), p, pairs, seeds) == words


@pytest.mark.parametrize(
    ("value", "seeds", "words"),
    [
        (0.03, 3, BETTER_IN_THIS_FOLD),
        (-0.03, 3, WORSE_IN_THIS_FOLD),
        (0.03, 1, BETTER_WITH_THIS_SEED),  # which is one training on one training set
        (0.0, 3, NO_EVIDENCE),
    ],
)
def test_one_fold_speaks_for_its_own_training_set(value, seeds, words):
    estimate = Estimate(value, value - 0.02, value + 0.02)
    assert verdict(estimate, 0.01, 20, seeds, one_training_set=True) == words


FIVE_FOLDS = (0, 0, 1, 1, 2, 2, 3, 3, 4, 4)


def in_folds(values, folds) -> Contributions:
    values = np.atleast_2d(np.asarray(values, float))
    return Contributions(values, np.ones_like(values), folds)


def test_folds_without_an_effect_leave_the_t_interval_of_patients_within_folds():
    values = np.tile([0.4, 0.6], 5)[:, None]  # every fold has the same mean
    found = estimate_score(in_folds(values, FIVE_FOLDS))
    error = np.sqrt((0.1**2 * 10) / 5 / 10)  # ten squares of 0.1, five degrees of freedom, ten patients
    assert (found.low, found.high) == (
        pytest.approx(0.5 - stats.t.ppf(0.975, 5) * error),
        pytest.approx(0.5 + stats.t.ppf(0.975, 5) * error),
    )


def test_folds_that_move_all_their_patients_count_as_so_many_and_no_more():
    means_of_folds = np.array([0.3, 0.4, 0.5, 0.6, 0.7])
    found = estimate_score(in_folds(np.repeat(means_of_folds, 2)[:, None], FIVE_FOLDS))
    low, high = stats.t.interval(0.95, 4, loc=0.5, scale=means_of_folds.std(ddof=1) / np.sqrt(5))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_mean_squares_of_folds_by_hand():
    spread = Spread.of(np.array([[0.0], [2.0], [4.0], [10.0]]), (0, 0, 1, 1))
    assert (spread.patients, spread.folds, spread.seeds) == (4, 2, 1)
    assert spread.between_patients == pytest.approx((1 + 1 + 9 + 9) / 2 / 4)
    assert spread.between_folds == pytest.approx((2 * 9 + 2 * 9) / 1 / 4)
    assert (spread.between_seeds, spread.rest, spread.unevenness) == (0.0, 0.0, 1.0)
    assert spread.deviation == pytest.approx(np.sqrt(9.0))
    of_patients, of_folds = stats.t.ppf(0.975, 2), stats.t.ppf(0.975, 1)
    square = of_patients**2 * 2.5 + of_folds * (of_folds * 9 - of_patients * 2.5)
    assert spread.half_width(0.025) == pytest.approx(np.sqrt(square))


def test_what_seeds_do_in_one_fold_alone_is_not_taken_for_what_they_do_in_all():
    by_fold = np.array([[0.1, -0.1, 0.0], [-0.1, 0.0, 0.1], [0.0, 0.1, -0.1]])
    spread = Spread.of(np.repeat(by_fold, 4, axis=0), np.repeat([0, 1, 2], 4).tolist())
    assert spread.between_seeds == pytest.approx(0.0)
    assert spread.rest == pytest.approx(4 * 6 * 0.01 / (2 * 2) / 36)
    assert spread.half_width(0.025) == pytest.approx(0.0, abs=1e-9)


def test_one_fold_named_or_not_is_the_interval_over_patients_and_seeds():
    values = np.random.default_rng(0).uniform(size=(12, 3))
    named, unnamed = Spread.of(values, [3] * 12), Spread.of(values)
    assert named == unnamed
    assert (named.folds, named.between_folds) == (1, 0.0)


def test_a_fold_of_its_own_for_each_patient_is_the_t_interval_of_folds():
    values = np.random.default_rng(0).uniform(size=(6, 1))
    low, high = stats.t.interval(0.95, 5, loc=values.mean(), scale=values.std(ddof=1) / np.sqrt(6))
    found = estimate_score(in_folds(values, tuple(range(6))))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_uneven_folds_move_the_mean_more():
    values = np.random.default_rng(0).uniform(size=(10, 1))
    even, uneven = Spread.of(values, FIVE_FOLDS), Spread.of(values, (0, 0, 0, 0, 0, 0, 1, 2, 3, 4))
    assert even.unevenness == pytest.approx(1.0)
    assert uneven.unevenness == pytest.approx(0.4 * 4 / 0.6)


def test_equal_arms_of_several_folds_differ_by_nothing():
    arm = in_folds(np.random.default_rng(0).uniform(size=(10, 3)), FIVE_FOLDS)
    found = paired_difference(arm, arm)
    assert (found.estimate.low, found.estimate.high, found.p_interval) == (0, 0, 1.0)
    assert np.isnan(found.detectable)


def test_arms_of_other_folds_are_refused_and_every_patient_has_one():
    values = np.ones((10, 1))
    with pytest.raises(InputError, match="cannot be paired"):
        paired_difference(in_folds(values, FIVE_FOLDS), in_folds(values, FIVE_FOLDS[::-1]))
    with pytest.raises(InputError, match="3 folds for 10 patients"):
        in_folds(values, (0, 1, 2))


def test_the_interval_of_a_difference_of_two_dice_ends_at_one():
    first = in_folds([[0.8], [0.9], [0.1], [0.2]], (0, 0, 1, 1))
    found = paired_difference(first, in_folds(np.full((4, 1), 0.5), first.folds)).estimate
    assert (found.low, found.high) == (-1.0, 1.0)  # two folds, one degree of freedom


@pytest.mark.parametrize(
    ("folds", "seeds", "words"),
    [
        (5, 3, "patients, training sets (folds) and seeds"),
        (5, 1, "patients and training sets (folds)"),
        (1, 3, "patients and seeds"),
        (1, 1, "patients"),
    ],
)
def test_what_an_interval_covers_is_said(folds, seeds, words):
    assert sources_of_variation(folds, seeds) == words
