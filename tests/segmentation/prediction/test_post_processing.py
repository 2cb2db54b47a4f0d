import numpy as np
import pytest

from common.errors import InputError
from imaging.labels import CINE_LABELS, EMIDEC_LABELS, Tissue
from runtime.compute import choose_compute
from runtime.model_card import ModelCard
from segmentation.networks.blocks import SegmentationOutput
from segmentation.prediction.post_processing import STEPS, agreed_steps, choose_steps, post_process
from segmentation.prediction.segmenter import Segmenter
from tests.part_slices import part_slices
from tests.segmentation.toy_slices import draw_slices

PLAUSIBLE = draw_slices(4, 32)[1]


def drawn(*rows):
    return np.array([[int(digit) for digit in row] for row in rows], np.uint8)[None]


@pytest.mark.parametrize("step", STEPS)
def test_a_plausible_ventricle_is_left_alone(step):
    np.testing.assert_array_equal(post_process(PLAUSIBLE, EMIDEC_LABELS, [step]), PLAUSIBLE)


@pytest.mark.parametrize("step", STEPS)
def test_empty_slices_and_no_slices_stay_so(step):
    empty = np.zeros((2, 4, 4), np.uint8)
    np.testing.assert_array_equal(post_process(empty, EMIDEC_LABELS, [step]), empty)
    assert post_process(empty[:0], EMIDEC_LABELS, [step]).shape == (0, 4, 4)


@pytest.mark.parametrize("step", STEPS)
def test_a_second_time_changes_nothing(step):
    noise = np.random.default_rng(0).integers(0, 5, (3, 24, 24)).astype(np.uint8)
    once = post_process(noise, EMIDEC_LABELS, [step])
    np.testing.assert_array_equal(post_process(once, EMIDEC_LABELS, [step]), once)


def test_only_the_largest_piece_of_a_slice_is_kept():
    before = drawn("220003", "210000", "002000", "000040")
    after = drawn("220000", "210000", "002000", "000000")  # a corner joins two pixels
    np.testing.assert_array_equal(post_process(before, EMIDEC_LABELS, ["largest_piece"]), after)


def test_a_hole_takes_its_nearest_tissue_and_the_open_side_stays_open():
    before = drawn("222220", "210220", "211120", "222220", "020200")
    after = drawn("222220", "211220", "211120", "222220", "020200")
    filled = post_process(before, EMIDEC_LABELS, ["one_ring"])
    assert filled[0, 1, 2] in (1, 2)
    filled[0, 1, 2] = 1  # two tissues are equally near
    np.testing.assert_array_equal(filled, after)


def test_no_reflow_without_infarct_beside_it_becomes_infarct():
    before = drawn("4400", "0000", "0043", "4000")
    after = drawn("3300", "0000", "0043", "3000")
    np.testing.assert_array_equal(post_process(before, EMIDEC_LABELS, ["no_reflow_in_infarct"]), after)
    cine = drawn("1122")
    np.testing.assert_array_equal(post_process(cine, CINE_LABELS, ["no_reflow_in_infarct"]), cine)


def test_steps_that_do_not_exist_are_refused():
    with pytest.raises(InputError, match="post-processing smooth does not exist; choose from largest_piece, one_ring"):
        post_process(PLAUSIBLE, EMIDEC_LABELS, ["smooth"])


def test_validation_chooses_what_helps_and_says_by_how_much():
    validation = part_slices(np.zeros(PLAUSIBLE.shape), PLAUSIBLE, ["a", "a", "b", "b"])
    specked = PLAUSIBLE.copy()
    specked[:, 0, :3] = Tissue.CAVITY  # far from the ventricle
    choice = choose_steps(validation, specked, EMIDEC_LABELS)
    assert choice.chosen == ["largest_piece"]
    assert choice.mean_dice["largest_piece"] == 1 > choice.mean_dice["none"]
    assert choose_steps(validation, PLAUSIBLE, EMIDEC_LABELS).chosen == []


def test_a_step_that_costs_one_tissue_is_not_chosen():
    reference = PLAUSIBLE[1:2].copy()  # it has an infarct
    reference[0, 0, 0] = Tissue.INFARCT
    prediction = reference.copy()
    prediction[0, -1, :3] = Tissue.CAVITY
    validation = part_slices(np.zeros(reference.shape), reference)
    choice = choose_steps(validation, prediction, EMIDEC_LABELS)
    assert choice.mean_dice["largest_piece"] > choice.mean_dice["none"]  # and yet it removes true infarct
    assert "largest_piece" not in choice.chosen


def test_arms_agree_only_on_what_each_chose():
    cards = [
        ModelCard.model_validate({"post_processing": {"chosen": chosen}})
        for chosen in (["one_ring", "largest_piece"], ["one_ring"])
    ]
    assert agreed_steps(cards) == ("one_ring",)
    assert agreed_steps([*cards, ModelCard()]) == ()
    assert agreed_steps([]) == ()


def test_a_segmenter_corrects_labels_only_when_asked():
    class Specks:
        def __call__(self, images):
            return SegmentationOutput(images.new_tensor([0.0, 1.0]).view(1, 2, 1, 1) * (images - 0.5), None)

    images = np.zeros((1, 6, 6), np.float32)
    images[0, 0, 0] = images[0, 3:, 3:] = 1.0
    counts = [
        int(Segmenter([Specks()], CINE_LABELS, choose_compute("cpu", "fp32"), False, steps).labels(images).sum())
        for steps in ((), ("largest_piece",))
    ]
    assert counts == [10, 9]
