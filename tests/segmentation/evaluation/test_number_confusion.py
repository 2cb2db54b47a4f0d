"""Another numbering of the classes is told only where it is sure."""

import numpy as np
import pytest

from segmentation.evaluation.evaluation import NumberConfusion

REFERENCE = np.zeros((1, 20, 20), np.uint8)
REFERENCE[0, 2:6, 2:18] = 1
REFERENCE[0, 8:18, 2:10] = 2
REFERENCE[0, 8:18, 12:18] = 3


def permuted(numbers, shift=0):
    """What is told of a prediction that writes `numbers[i]` for `i`, moved by so many columns."""
    found = NumberConfusion()
    found.count(REFERENCE, np.roll(np.array(numbers, np.uint8)[REFERENCE], shift, axis=2))
    return found.permuted()


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ((0, 1, 2, 3), {}),
        ((0, 3, 2, 1), {1: 3, 3: 1}),
        ((0, 2, 3, 1), {1: 3, 2: 1, 3: 2}),
        ((0, 0, 2, 1), {}),  # one number alone may be a poor prediction
        ((0, 0, 0, 0), {}),
        ((0, 4, 5, 6), {4: 1, 5: 2, 6: 3}),
    ],
)
def test_numbers_that_lie_on_others_are_told(numbers, told):
    assert permuted(numbers) == told


def test_a_permutation_is_told_of_an_imperfect_prediction_and_not_of_a_wild_one():
    assert permuted((0, 3, 2, 1), shift=1) == {1: 3, 3: 1}
    assert permuted((0, 3, 2, 1), shift=5) == {}


def test_a_mirrored_prediction_is_not_accused_though_two_classes_change_places():
    sides = np.zeros((1, 20, 20), np.uint8)
    sides[0, 8:14, 2:8], sides[0, 8:14, 12:18], sides[0, 2:6, 2:8] = 1, 3, 2
    found = NumberConfusion()
    found.count(sides, sides[:, :, ::-1])
    assert found.permuted() == {}


def test_a_poor_prediction_that_is_numbered_alike_is_not_accused():
    assert permuted((0, 1, 2, 3), shift=7) == {}
