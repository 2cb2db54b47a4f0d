import numpy as np
import pytest

from common.errors import InputError
from gan.quality.realism import kernel_distance


def test_three_vectors_by_hand():
    # D = 1: k(x, y) = (xy + 1)^3. First {0, 1}: k = 1; second {2, 1}: k = 27; between: 1, 1, 27, 8.
    first, second = np.array([[0.0], [1.0]]), np.array([[2.0], [1.0]])
    assert kernel_distance(first, second) == pytest.approx(1 + 27 - 2 * (1 + 1 + 27 + 8) / 4)


def test_the_kernel_is_scaled_by_the_number_of_features():
    first, second = np.array([[0.0], [1.0]]), np.array([[2.0], [1.0]])
    repeated = [np.repeat(part, 4, axis=1) for part in (first, second)]
    assert kernel_distance(*repeated) == pytest.approx(kernel_distance(first, second))


def test_sets_of_one_distribution_are_at_distance_zero_on_average():
    rng = np.random.default_rng(0)
    values = [kernel_distance(rng.normal(size=(20, 3)), rng.normal(size=(30, 3))) for _ in range(400)]
    assert np.mean(values) == pytest.approx(0, abs=3 * np.std(values) / 20)
    assert min(values) < 0


def test_two_gaussians_have_the_closed_form():
    # x ~ N(0, 1), y ~ N(1, 1), D = 1: E(xy + 1)^3 from E x = 0, 1; E x^2 = 1, 2; E x^3 = 0, 4.
    expected = (0 + 3 * 1 + 0 + 1) + (16 + 3 * 4 + 3 + 1) - 2 * (0 + 3 * 2 + 0 + 1)
    rng = np.random.default_rng(1)
    values = [kernel_distance(rng.normal(size=(50, 1)), rng.normal(1, 1, size=(50, 1))) for _ in range(400)]
    assert np.mean(values) == pytest.approx(expected, abs=3 * np.std(values) / 20)


def test_is_symmetric():
    rng = np.random.default_rng(2)
    first, second = rng.normal(size=(6, 4)), rng.normal(2, 1, size=(9, 4))
    assert kernel_distance(first, second) == pytest.approx(kernel_distance(second, first))


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (np.zeros((1, 3)), np.zeros((5, 3)), r"first features have shape \(1, 3\); give at least two"),
        (np.zeros((5, 3)), np.zeros((5, 4)), "3 and 4 features; use the same extractor"),
        (np.zeros((5, 1)), np.full((5, 1), np.nan), "second features hold NaN"),
    ],
)
def test_unusable_features_are_refused(first, second, message):
    with pytest.raises(InputError, match=message):
        kernel_distance(first, second)
