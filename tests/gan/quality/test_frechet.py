import numpy as np
import pytest

from common.errors import InputError
from gan.quality.realism import frechet_distance


def with_moments(mean: float, variance: float, count: int = 200, features: int = 3) -> np.ndarray:
    """Vectors whose sample mean and covariance are exactly `mean` and `variance` x identity."""
    values = np.random.default_rng(0).normal(size=(count, features))
    values -= values.mean(axis=0)
    values = values @ np.linalg.inv(np.linalg.cholesky(np.cov(values.T))).T
    return mean + np.sqrt(variance) * values


def test_equal_sets_have_distance_zero():
    features = np.random.default_rng(1).normal(size=(20, 40))
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-9)


def test_a_shift_counts_as_its_squared_length():
    features = np.random.default_rng(1).normal(size=(50, 4))
    assert frechet_distance(features, features + np.array([3, 0, 4, 0])) == pytest.approx(25)


def test_closed_form_of_two_isotropic_gaussians():
    # |m|^2 D + D (s1 - s2)^2 with deviations 1 and 3, mean 0 and 2, D = 3
    assert frechet_distance(with_moments(0, 1), with_moments(2, 9)) == pytest.approx(3 * 4 + 3 * 4)


def test_closed_form_holds_with_fewer_vectors_than_features():
    # Scaling by 2: the trace of S (1 - 2)^2, though S is singular.
    features = np.random.default_rng(2).normal(size=(10, 64))
    features -= features.mean(axis=0)
    expected = np.square(features).sum() / 9
    assert frechet_distance(features, 2 * features) == pytest.approx(expected)


def test_agrees_with_the_matrix_square_root():
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(3)
    first, second = rng.normal(size=(80, 5)), rng.normal(1, 2, size=(60, 5)) @ rng.normal(size=(5, 5))
    root = sqrtm(np.cov(first.T) @ np.cov(second.T)).real
    expected = np.square(first.mean(0) - second.mean(0)).sum()
    expected += np.trace(np.cov(first.T) + np.cov(second.T) - 2 * root)
    assert frechet_distance(first, second) == pytest.approx(expected)
    assert frechet_distance(second, first) == pytest.approx(expected)


def test_one_vector_has_no_covariance():
    with pytest.raises(InputError, match=r"first features have shape \(1, 3\); give at least two vectors"):
        frechet_distance(np.zeros((1, 3)), np.zeros((5, 3)))


def test_other_features_are_refused():
    with pytest.raises(InputError, match="3 and 4 features; use the same extractor"):
        frechet_distance(np.zeros((5, 3)), np.zeros((5, 4)))


def test_nan_is_refused():
    with pytest.raises(InputError, match="second features hold NaN"):
        frechet_distance(np.zeros((5, 1)), np.full((5, 1), np.nan))
