"""Lesions that are nowhere sure: what becomes of them, and what that does to the validation patients."""

import numpy as np
import pytest

from imaging.labels import CINE_LABELS, EMIDEC_LABELS, Tissue
from segmentation.prediction.post_processing import SURE_AREA_PX, judge, official_gain, without_unsure_lesions
from tests.part_slices import part_slices

SIDE = 32
INFARCT, NO_REFLOW = SURE_AREA_PX[Tissue.INFARCT], SURE_AREA_PX[Tissue.NO_REFLOW]


def heart(infarct=(), no_reflow=()):
    """Probabilities (C, H, W) of a wall with lesions: pairs of an area in pixels and how probable it is there."""
    found = np.zeros((5, SIDE * SIDE), np.float32)
    found[Tissue.NORMAL_MYOCARDIUM] = 1
    start = 0
    for value, parts in ((Tissue.NO_REFLOW, no_reflow), (Tissue.INFARCT, infarct)):
        for area, probability in parts:
            place = slice(start, start + area)
            found[value, place], found[Tissue.NORMAL_MYOCARDIUM, place] = probability, 1 - probability
            start += area
    return found.reshape(5, SIDE, SIDE)


def left(*slices, cases=None, labels=EMIDEC_LABELS):
    """What is left of the lesions in each slice: (infarct, no-reflow) in pixels."""
    probabilities = np.stack(slices)
    drawn = probabilities.argmax(axis=1).astype(np.uint8)
    kept = without_unsure_lesions(drawn, probabilities, np.array(cases or ["one"] * len(slices)), labels)
    return [tuple(int((mask == value).sum()) for value in (Tissue.INFARCT, Tissue.NO_REFLOW)) for mask in kept]


@pytest.mark.parametrize(("area", "probability", "believed"), [(200, 0.9, True), (200, 0.8, False), (100, 1.0, False)])
def test_an_infarct_is_believed_where_enough_of_it_is_sure(area, probability, believed):
    assert left(heart(infarct=[(area, probability)])) == [(area if believed else 0, 0)]


def test_a_believed_infarct_keeps_its_unsure_border():
    assert left(heart(infarct=[(INFARCT, 0.95), (50, 0.6)])) == [(INFARCT + 50, 0)]


def test_slices_of_a_study_count_together_and_studies_apart():
    half = heart(infarct=[(INFARCT // 2, 0.95)])
    assert left(half, half) == [(INFARCT // 2, 0)] * 2
    assert left(half, half, cases=["one", "other"]) == [(0, 0)] * 2


def test_unsure_no_reflow_becomes_infarct_and_counts_for_it():
    sure = heart(infarct=[(INFARCT - NO_REFLOW, 0.95)], no_reflow=[(NO_REFLOW, 0.95)])
    assert left(sure) == [(INFARCT - NO_REFLOW, NO_REFLOW)]
    unsure = heart(infarct=[(INFARCT - NO_REFLOW, 0.95)], no_reflow=[(NO_REFLOW - 20, 0.95), (20, 0.4)])
    assert left(unsure) == [(INFARCT - 20, 0)]


def test_no_reflow_goes_with_an_infarct_that_goes():
    assert left(heart(no_reflow=[(NO_REFLOW, 0.99)])) == [(0, 0)]


def test_a_study_smaller_than_the_area_is_judged_by_all_it_has():
    tiny = heart(infarct=[(SIDE * SIDE, 0.95)])[:, :4, :4]
    assert left(tiny) == [(16, 0)]


def test_sources_without_lesions_are_left_as_they_are():
    probabilities = np.full((2, CINE_LABELS.num_classes, 8, 8), 0.5, np.float32)
    masks = np.full((2, 8, 8), 2, np.uint8)
    kept = without_unsure_lesions(masks, probabilities, np.array(["one", "one"]), CINE_LABELS)
    np.testing.assert_array_equal(kept, masks)


def test_false_specks_in_the_healthy_count_for_leaving_out_and_lost_lesions_against():
    healthy, speck, ill = heart(), heart(infarct=[(20, 0.7)]), heart(infarct=[(INFARCT, 0.95)])
    reference = np.stack([healthy, ill]).argmax(axis=1).astype(np.uint8)
    validation = part_slices(reference / 4, reference, ["healthy", "ill"])
    found = judge(validation, np.stack([speck, ill]), EMIDEC_LABELS)
    assert found == {
        "patients": 2,
        "before": {"official": 0.75, "infarct": 1.0},  # no-reflow is rightly absent in both
        "after": {"official": 1.0, "infarct": 1.0},
    }
    unsure = judge(validation, np.stack([healthy, heart(infarct=[(INFARCT, 0.7)])]), EMIDEC_LABELS)
    assert unsure["after"] == {"official": 0.75, "infarct": 0.0}
    assert official_gain([found, unsure]) == 0.0
    assert official_gain([found]) == 0.25


def test_an_unknown_judgement_gives_no_gain():
    assert official_gain([]) is None
    assert official_gain([{"patients": 1, "before": {"official": 0}, "after": {"official": 1}}, None]) is None
