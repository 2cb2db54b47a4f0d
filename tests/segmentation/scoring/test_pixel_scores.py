"""Pixel accuracy and F1 with background, beside which a paper's 98 % can be set."""

import numpy as np
import pytest

from imaging.labels import CINE_LABELS, EMIDEC_LABELS
from segmentation.scoring.scores import pixel_scores


def test_pixels_of_all_slices_are_counted_together():
    reference = np.array([[[0, 0, 0, 0], [1, 1, 2, 2]], [[0, 0, 0, 0], [0, 0, 0, 0]]])
    predicted = np.array([[[0, 0, 0, 0], [1, 2, 2, 2]], [[0, 0, 0, 1], [0, 0, 0, 0]]])
    found = pixel_scores(reference, predicted, CINE_LABELS)
    assert found == {
        "accuracy": 14 / 16,
        "f1/background": pytest.approx(2 * 11 / (2 * 11 + 1)),
        "f1/cavity": pytest.approx(2 * 1 / (2 * 1 + 1 + 1)),
        "f1/myocardium": pytest.approx(2 * 2 / (2 * 2 + 1)),
        "f1/mean": pytest.approx((22 / 23 + 1 / 2 + 4 / 5) / 3),
    }


def test_a_label_that_neither_side_holds_has_no_f1():
    reference = np.array([[[0, 1], [2, 2]]])
    assert set(pixel_scores(reference, reference, EMIDEC_LABELS)) == {
        "accuracy",
        "f1/background",
        "f1/cavity",
        "f1/normal_myocardium",
        "f1/mean",
    }


def test_drawing_nothing_is_right_about_most_pixels():
    """Which is why pixel accuracy judges nothing here."""
    reference = np.zeros((3, 10, 10), np.uint8)
    reference[:, :3, :3] = 1
    found = pixel_scores(reference, np.zeros_like(reference), CINE_LABELS)
    assert found["accuracy"] == pytest.approx(0.91)
    assert found["f1/cavity"] == 0
