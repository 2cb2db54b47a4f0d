import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging.errors import InputError
from segmentation.statistics import (
    BETTER,
    NO_EVIDENCE,
    TOO_FEW,
    WORSE,
    Contributions,
    Estimate,
    draw_resamples,
    estimate_score,
    holm,
    paired_difference,
    rank_biserial,
    signed_rank_test,
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
    found = paired_difference(arm, arm, 200)
    assert (found.estimate.value, found.estimate.low, found.estimate.high) == (0, 0, 0)
    assert (found.probability_better, found.p_value, found.effect_size) == (0.5, 1.0, 0.0)


def test_difference_changes_sign_with_the_arms():
    rng = np.random.default_rng(0)
    first, second = means(rng.uniform(size=(15, 2))), means(rng.uniform(size=(15, 2)))
    forth, back = paired_difference(first, second, 500), paired_difference(second, first, 500)
    assert forth.estimate.low == pytest.approx(-back.estimate.high)
    assert forth.p_value == pytest.approx(back.p_value)
    assert forth.probability_better == pytest.approx(1 - back.probability_better)
    assert forth.effect_size == pytest.approx(-back.effect_size)


def test_a_constant_gain_is_certain():
    base = np.random.default_rng(0).uniform(size=(10, 1))
    found = paired_difference(means(base + 0.05), means(base), 300)
    assert found.estimate.low == pytest.approx(0.05)
    assert found.estimate.high == pytest.approx(0.05)
    assert found.probability_better == found.effect_size == 1.0
    assert found.p_value == pytest.approx(2 / 2**10)


def test_pairing_removes_the_variation_between_patients():
    rng = np.random.default_rng(0)
    base = rng.uniform(size=(20, 1))
    gain = means(base + 0.02 + rng.normal(0, 0.01, (20, 1)))
    paired = paired_difference(gain, means(base), 500).estimate
    alone = estimate_score(means(base), 500)
    assert paired.high - paired.low < 0.1 * (alone.high - alone.low)


def test_seeds_are_resampled_jointly_for_all_patients():
    seeds = np.array([[0.0, 0.1, 0.2, 0.3]])  # every patient moves with the seed
    found = estimate_score(means(np.full((30, 1), 0.5) + seeds), 2000)
    standard_error = np.std(seeds, ddof=1) / 2
    assert found.high - found.low == pytest.approx(2 * 2.1 * standard_error, rel=0.15)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_seed_weights_have_the_variance_of_a_mean_of_seeds(seeds):
    weights = draw_resamples(4, seeds, 20000, 0).seeds
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    values = np.random.default_rng(1).normal(size=seeds)
    assert np.std(weights @ values) == pytest.approx(np.std(values, ddof=1) / np.sqrt(seeds), rel=0.05)


@pytest.mark.parametrize(("patients", "seeds"), [(10, 1), (25, 3)])
def test_intervals_cover_a_known_effect(patients, seeds):
    rng = np.random.default_rng(patients)
    effect, simulations = 0.03, 300
    covered = alarms = 0
    for index in range(simulations):
        base = rng.uniform(0.3, 0.8, (patients, 1))
        noise = rng.normal(0, 0.08, (patients, 1)) + rng.normal(0, 0.03, (patients, seeds))
        without, null = means(np.repeat(base, seeds, axis=1)), means(base + noise)
        found = paired_difference(null, without, 300, index)
        covered += found.estimate.low <= 0.0 <= found.estimate.high
        alarms += verdict(found.estimate, found.p_value, patients) in (BETTER, WORSE)
        shifted = paired_difference(means(null.numerator + effect), without, 300, index)
        assert shifted.estimate.value == pytest.approx(found.estimate.value + effect)
    assert 0.91 <= covered / simulations <= 0.99
    assert alarms / simulations <= 0.08


def test_one_patient_has_no_interval():
    found = estimate_score(means([[0.5, 0.6]]), 100)
    assert np.isnan(found.low)
    assert np.isnan(found.high)


def test_arms_of_other_shapes_are_refused():
    with pytest.raises(InputError, match="cannot be paired"):
        paired_difference(means(np.ones((3, 1))), means(np.ones((4, 1))), 10)


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
    ("low", "high", "p", "pairs", "words"),
    [
        (0.01, 0.05, 0.01, 20, BETTER),
        (-0.05, -0.01, 0.01, 20, WORSE),
        (-0.01, 0.05, 0.01, 20, NO_EVIDENCE),
        (0.01, 0.05, 0.20, 20, NO_EVIDENCE),
        (0.01, 0.05, float("nan"), 20, BETTER),
        (float("nan"), float("nan"), float("nan"), 20, NO_EVIDENCE),
        (0.01, 0.05, 0.01, 7, TOO_FEW),
        (0.01, 0.05, 0.01, 8, BETTER),
    ],
)
def test_verdicts(low, high, p, pairs, words):
    assert verdict(Estimate((low + high) / 2, low, high), p, pairs) == words
