import numpy as np
import pytest

from gan.quality.realism import frechet_distance
from gan.quality.table import Figure, between_halves, over_halves, ratio_of_sums

CASES = np.repeat([f"P{number:03d}" for number in range(200)], 2)


def test_the_error_of_a_mean_is_that_of_patients_and_not_of_slices():
    # Both slices of a patient are equal: the error is deviation / sqrt(200), not / sqrt(400).
    values = np.repeat(np.random.default_rng(0).normal(size=200), 2)
    figure = over_halves(ratio_of_sums(values, np.ones(400)), 0, CASES)
    assert figure.value == pytest.approx(values.mean())
    assert figure.std == pytest.approx(values.std() / np.sqrt(200), rel=0.4)
    assert figure.high - figure.low == pytest.approx(2 * 1.96 * figure.std)


def test_sets_of_the_same_patients_are_halved_alike():
    differences = []

    def statistic(first, second):
        differences.append(set(CASES[first]) ^ set(CASES[second]))
        return 0.0

    over_halves(statistic, 0, CASES, CASES)
    assert not any(differences)


def test_other_patients_are_halved_on_their_own():
    sizes = []
    over_halves(lambda *rows: sizes.append([len(part) for part in rows]) or 0.0, 0, CASES, np.repeat(list("abcdef"), 3))
    assert sizes[0] == [400, 18]
    assert all(size == [200, 9] for size in sizes[1:])


def test_the_mean_of_halves_is_taken_where_asked_for():
    figure = over_halves(lambda rows: float(len(rows)), 0, CASES, mean_of_halves=True)
    assert figure == Figure(200, 0)


def test_few_patients_have_a_figure_and_no_interval():
    figure = over_halves(lambda _: 1.0, 0, np.array(["a", "b", "b"]))
    assert figure.value == 1
    assert np.isnan([figure.std, figure.low]).all()
    assert np.isnan(between_halves(lambda *_: 1.0, 0, np.array(["a", "b"])).value)


def test_halves_share_no_patient_and_hold_everyone():
    def statistic(first, second):
        assert not set(CASES[first]) & set(CASES[second])
        assert len(first) + len(second) == 400
        return 0.0

    assert between_halves(statistic, 0, CASES).value == 0


def test_infinite_figures_have_no_interval():
    figure = over_halves(lambda _: np.inf, 0, CASES)
    assert figure.value == np.inf
    assert np.isnan(figure.std)


def test_an_empty_whole_has_the_value_it_is_given():
    assert ratio_of_sums(np.zeros(3), np.zeros(3), empty=1.0)(np.arange(3)) == 1
    assert ratio_of_sums(np.array([1.0, 3]), np.array([2.0, 2]), finish=lambda ratio: 10 * ratio)(np.arange(2)) == 10


def test_the_interval_of_a_frechet_distance_covers_it():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(400, 3)), rng.normal(1, 1, size=(400, 3))
    figure = over_halves(lambda one, two: frechet_distance(first[one], second[two]), 0, CASES, CASES)
    assert figure.low < 3 < figure.high
    assert figure.std < 0.5
