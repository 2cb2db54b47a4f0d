"""Lesions too small to believe: what becomes of them, and how the validation patients choose."""

import numpy as np
import pytest

from imaging.labels import CINE_LABELS, EMIDEC_LABELS, Tissue
from segmentation.small_lesions import (
    NO_LIMITS,
    LesionLimits,
    choose_limits,
    common_limits,
    without_small_lesions,
)
from segmentation.validation import ValidationData

CASES = np.array(["healthy", "healthy", "ill", "ill"])


def heart(infarct=0, no_reflow=0):
    """A slice with 100 pixels of myocardium, the first of them lesions."""
    row = [Tissue.NO_REFLOW] * no_reflow + [Tissue.INFARCT] * infarct
    row += [Tissue.NORMAL_MYOCARDIUM] * (100 - len(row)) + [Tissue.CAVITY] * 28
    return np.array(row, np.uint8).reshape(8, 16)


def count(masks, tissue):
    return int(np.count_nonzero(masks == tissue))


def test_a_lesion_counts_by_its_share_of_the_whole_study():
    masks = np.stack([heart(infarct=3), heart(), heart(infarct=3), heart(infarct=3)])
    kept = without_small_lesions(masks, CASES, EMIDEC_LABELS, LesionLimits(infarct=0.02))
    assert count(kept[:2], Tissue.INFARCT) == 0  # 3 of 200 pixels
    np.testing.assert_array_equal(kept[2:], masks[2:])  # 6 of 200
    assert count(kept, Tissue.NORMAL_MYOCARDIUM) == count(masks, Tissue.NORMAL_MYOCARDIUM) + 3
    assert count(kept, Tissue.CAVITY) == count(masks, Tissue.CAVITY)


def test_small_no_reflow_becomes_infarct_and_counts_for_the_infarct_before():
    masks = np.stack([heart(infarct=1, no_reflow=3), heart(infarct=38, no_reflow=2)])
    kept = without_small_lesions(masks, np.array(["a", "b"]), EMIDEC_LABELS, LesionLimits(0.04, 0.06))
    np.testing.assert_array_equal(kept[0], masks[0])
    assert (count(kept[1], Tissue.INFARCT), count(kept[1], Tissue.NO_REFLOW)) == (40, 0)


@pytest.mark.parametrize(("labels", "limits"), [(EMIDEC_LABELS, NO_LIMITS), (CINE_LABELS, LesionLimits(1.0, 1.0))])
def test_without_limits_or_lesions_nothing_changes(labels, limits):
    masks = np.stack([heart(infarct=1, no_reflow=1)] * 4)
    np.testing.assert_array_equal(without_small_lesions(masks, CASES, labels, limits), masks)


def test_slices_without_a_heart_stay_empty():
    empty = np.zeros((4, 8, 16), np.uint8)
    np.testing.assert_array_equal(without_small_lesions(empty, CASES, EMIDEC_LABELS, LesionLimits(0.02, 0.02)), empty)


def test_false_specks_in_the_healthy_choose_the_smallest_limit_that_removes_them():
    reference = np.stack([heart(), heart(), heart(infarct=30), heart(infarct=30)])
    drawn = np.stack([heart(infarct=3), heart(), heart(infarct=30), heart(infarct=30)])
    choice = choose_limits(ValidationData(reference / 4, reference, CASES), drawn, EMIDEC_LABELS)
    assert choice["limits"] == {"infarct": 0.02, "no_reflow": 0.0}
    assert choice["before"] == {"official": 0.75, "infarct": 1.0}
    assert choice["after"] == {"official": 1.0, "infarct": 1.0}


def test_a_limit_that_would_cost_true_lesions_is_not_chosen():
    reference = np.stack([heart(), heart(), heart(infarct=2), heart(infarct=1)])
    drawn = np.stack([heart(infarct=4), heart(), heart(infarct=2), heart(infarct=1)])
    choice = choose_limits(ValidationData(reference / 4, reference, CASES), drawn, EMIDEC_LABELS)
    assert choice["limits"] == NO_LIMITS._asdict()


def test_a_lesion_that_no_validation_patient_has_gets_no_limit():
    reference = np.stack([heart(), heart(), heart(infarct=60), heart(infarct=60)])
    drawn = np.stack([heart(), heart(), heart(infarct=58, no_reflow=2), heart(infarct=60)])
    choice = choose_limits(ValidationData(reference / 4, reference, CASES), drawn, EMIDEC_LABELS)
    assert choice["limits"]["no_reflow"] == 0.0


def test_models_agree_on_the_smallest_limits_and_an_unscored_one_on_none():
    choices = [{"limits": {"infarct": 0.02, "no_reflow": 0.0}}, {"limits": {"infarct": 0.01, "no_reflow": 0.04}}]
    assert common_limits(choices) == LesionLimits(0.01, 0.0)
    assert common_limits([*choices, None]) == NO_LIMITS
    assert common_limits([]) == NO_LIMITS
