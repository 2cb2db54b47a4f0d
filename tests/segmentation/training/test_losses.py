import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from common.errors import InputError
from imaging.labels import CINE_LABELS, EMIDEC_LABELS
from segmentation.networks.blocks import SegmentationOutput
from segmentation.training.config import TrainConfig
from segmentation.training.losses import (
    LOSSES,
    boundary,
    class_weights,
    cross_entropy,
    distance_to,
    generalised_dice,
    loss_of_step,
    segmentation_loss,
    signed_distances,
    soft_dice,
)

MASK = torch.tensor([[[0, 1, 1], [2, 2, 0], [0, 1, 2]]])


def logits_of(mask: torch.Tensor, classes: int = 3, certainty: float = 30.0) -> torch.Tensor:
    return torch.nn.functional.one_hot(mask, classes).permute(0, 3, 1, 2).float() * certainty


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_perfect_prediction_costs_next_to_nothing(name):
    assert LOSSES[name](logits_of(MASK), MASK, None).item() < 1e-3


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_worse_prediction_costs_more(name):
    wrong = logits_of((MASK + 1) % 3)
    unsure = torch.zeros_like(wrong)
    costs = [LOSSES[name](logits, MASK, None).item() for logits in (logits_of(MASK), unsure, wrong)]
    assert costs == sorted(costs)
    assert len(set(costs)) == 3


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_gradients_are_finite_for_perfect_wrong_and_absent_tissues(name):
    for target in (MASK, torch.zeros_like(MASK)):
        for logits in (logits_of(target), logits_of((target + 1) % 3), torch.zeros(1, 3, 3, 3)):
            logits.requires_grad_()
            LOSSES[name](logits, target, None).backward()
            assert torch.isfinite(logits.grad).all()


def test_uniform_logits_cost_the_logarithm_of_the_classes():
    assert cross_entropy(torch.zeros(1, 3, 3, 3), MASK).item() == pytest.approx(math.log(3))


def test_soft_dice_closed_form():
    # Class 1 has 3 pixels, class 2 has 3; uniform probabilities 1/3 over 9 pixels: overlap 1, total 3 + 3.
    expected = 1 - (2 * 1 + 1) / (6 + 1)
    assert soft_dice(torch.zeros(1, 3, 3, 3), MASK).item() == pytest.approx(expected)


def test_an_absent_and_unpredicted_tissue_costs_nothing():
    mask = torch.zeros(1, 4, 4, dtype=torch.long)
    assert soft_dice(logits_of(mask), mask).item() == pytest.approx(0.0, abs=1e-6)


def test_dice_pools_over_the_batch():
    with_tissue, without = MASK, torch.zeros_like(MASK)
    both = torch.cat([with_tissue, without])
    logits = torch.cat([logits_of(with_tissue), logits_of(without)])
    logits[1, :, 0, 0] = torch.tensor([0.0, 30.0, 0.0])  # one false pixel of class 1
    expected = ((1 - (2 * 3 + 1) / (3 + 4 + 1)) + 0) / 2
    assert soft_dice(logits, both).item() == pytest.approx(expected, abs=1e-4)


def test_weights_move_the_cost_to_the_weighed_class():
    miss = logits_of(torch.zeros_like(MASK), certainty=3.0)  # misses classes 1 and 2
    light, heavy = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.1, 1.0, 1.0])
    assert cross_entropy(miss, MASK, heavy) > cross_entropy(miss, MASK, light)


def test_deep_supervision_adds_the_weighed_auxiliary_loss():
    zeros = torch.zeros(1, 3, 3, 3)
    output = SegmentationOutput(logits_of(MASK), zeros)
    total, parts = segmentation_loss(output, MASK, cross_entropy, None, auxiliary_weight=0.5)
    assert total.item() == pytest.approx(0.5 * math.log(3), abs=1e-3)
    assert parts["loss_auxiliary"].item() == pytest.approx(math.log(3))
    alone, parts = segmentation_loss(SegmentationOutput(zeros, None), MASK, cross_entropy, None, 0.5)
    assert alone.item() == pytest.approx(math.log(3))
    assert set(parts) == {"loss"}


def counts() -> np.ndarray:
    return np.array([800, 100, 80, 15, 5])


def test_source_weights_are_those_of_the_study_and_have_mean_one():
    weights = class_weights(TrainConfig(class_weights="source"), EMIDEC_LABELS, counts)
    assert np.array(weights) / weights[0] == pytest.approx([1, 7, 11, 26, 90])
    assert np.mean(weights) == pytest.approx(1)


def test_cine_takes_the_study_s_weights_of_its_tissues():
    weights = class_weights(TrainConfig(class_weights="source"), CINE_LABELS, counts)
    assert np.array(weights) / weights[0] == pytest.approx([1, 7, 11])


def test_frequency_weights_are_inverse_frequencies_tempered_by_the_power():
    config = TrainConfig(class_weights="frequency", class_weight_power=0.5)
    weights = class_weights(config, EMIDEC_LABELS, counts)
    assert weights[4] / weights[0] == pytest.approx(math.sqrt(800 / 5))


def test_a_tissue_without_a_pixel_weighs_as_much_as_the_rarest_that_has_some():
    pixels = np.array([800_000, 100_000, 80_000, 15_000, 0])
    weights = class_weights(TrainConfig(class_weights="frequency"), EMIDEC_LABELS, lambda: pixels)
    assert weights[4] == weights[3]
    assert weights[3] / weights[0] == pytest.approx(800 / 15)


def test_no_weights_do_not_read_the_training_set():
    def unread() -> np.ndarray:
        raise AssertionError

    assert class_weights(TrainConfig(class_weights="none"), EMIDEC_LABELS, unread) is None


def test_weights_that_do_not_fit_the_labels_are_refused():
    with pytest.raises(InputError, match="must be 3 positive numbers"):
        class_weights(TrainConfig(class_weights=(1.0, 2.0)), CINE_LABELS, counts)


def test_generalised_dice_closed_form():
    # 6, 2 and 1 pixels; uniform probabilities 1/3: each class overlaps in a third of its pixels and predicts 3.
    mask = torch.tensor([[[0, 0, 0], [0, 0, 0], [1, 1, 2]]])
    weights, areas = [1 / 36, 1 / 4, 1], [6, 2, 1]
    overlap = sum(weight * area / 3 for weight, area in zip(weights, areas, strict=True))
    total = sum(weight * (area + 3) for weight, area in zip(weights, areas, strict=True))
    assert generalised_dice(torch.zeros(1, 3, 3, 3), mask).item() == pytest.approx(1 - 2 * overlap / total)


def test_generalised_dice_weighs_an_absent_class_as_the_rarest_present_one():
    mask = torch.tensor([[[0, 0, 0], [0, 0, 0], [1, 1, 1]]])
    logits = logits_of(mask)
    logits[0, :, 0, 0] = torch.tensor([0.0, 0.0, 30.0])  # a false pixel of the absent class 2
    weights, areas, predicted = [1 / 36, 1 / 9, 1 / 9], [6, 3, 0], [5, 3, 1]
    overlap = weights[0] * 5 + weights[1] * 3
    total = sum(w * (a + p) for w, a, p in zip(weights, areas, predicted, strict=True))
    assert generalised_dice(logits, mask).item() == pytest.approx(1 - 2 * overlap / total, abs=1e-5)


def test_signed_distances_of_a_square_count_pixels_from_its_border():
    mask = torch.zeros(1, 7, 7, dtype=torch.long)
    mask[0, 1:6, 1:6] = 1
    distances = signed_distances(mask, 3)
    assert distances[0, 1, 3].tolist() == [1, 0, -1, -2, -1, 0, 1]
    assert distances[0, 1, 0, 0].item() == pytest.approx(math.sqrt(2))
    assert distances[0, 0, 3].tolist() == [0, 1, 2, 3, 2, 1, 0]  # to the background's nearest pixel
    assert not distances[0, 2].any()  # a class that the slice lacks has no border
    assert not signed_distances(torch.ones(1, 4, 4, dtype=torch.long), 2).any()  # nor has one that fills it


@pytest.mark.parametrize("size", [(9, 9), (16, 5)])
def test_distances_are_those_of_scipy(size):
    places = np.random.default_rng(0).random((6, *size)) < 0.05
    places[0] = False
    places[:, 2, 1] = True
    expected = np.stack([ndimage.distance_transform_edt(~one) for one in places])
    np.testing.assert_allclose(distance_to(torch.from_numpy(places)).numpy(), expected, rtol=1e-6)


def test_boundary_loss_is_the_mean_distance_of_what_is_predicted():
    mask = torch.zeros(1, 1, 5, dtype=torch.long)
    mask[0, 0, 0] = 1
    logits = torch.zeros(1, 2, 1, 5)
    logits[0, 1, 0] = torch.tensor([-30.0, -30.0, 30.0, -30.0, 0.0])  # two pixels away for sure, four away by half
    assert boundary(logits, signed_distances(mask, 2)).item() == pytest.approx((2 + 4 / 2) / 5)


def test_the_boundary_s_weight_rises_to_one_and_its_distances_are_reused():
    config = TrainConfig(loss="generalised_dice_boundary", steps=4)
    unsure = torch.zeros(1, 3, 3, 3)
    regional, border = generalised_dice(unsure, MASK), boundary(unsure, signed_distances(MASK, 3))
    costs = [loss_of_step(config, step, MASK, 3)(unsure, MASK, None) for step in range(4)]
    expected = [regional + weight * border for weight in (0.25, 0.5, 0.75, 1.0)]
    torch.testing.assert_close(torch.stack(costs), torch.stack(expected))
    torch.testing.assert_close(costs[3], LOSSES["generalised_dice_boundary"](unsure, MASK, None))


def test_other_losses_do_not_change_with_the_step():
    assert loss_of_step(TrainConfig(loss="dice"), 7, MASK, 3) is soft_dice


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_slice_without_weight_costs_nothing_and_equal_weights_change_nothing(name):
    torch.manual_seed(0)
    logits, masks = 2 * torch.randn(2, 3, 16, 16), torch.randint(3, (2, 16, 16))
    alone = LOSSES[name](logits[:1], masks[:1], None)
    torch.testing.assert_close(LOSSES[name](logits, masks, None, slice_weights=torch.tensor([1.0, 0.0])), alone)
    both = LOSSES[name](logits, masks, None)
    torch.testing.assert_close(LOSSES[name](logits, masks, None, slice_weights=torch.ones(2)), both)
    half = LOSSES[name](logits, masks, None, slice_weights=torch.tensor([1.0, 0.5]))
    assert not torch.isclose(half, both, rtol=1e-5)
    assert min(alone, both) - 0.1 < half < max(alone, both) + 0.1


def test_weighted_cross_entropy_is_the_mean_over_slices_and_classes():
    logits, masks = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 4, 4))
    classes, weights = torch.tensor([1.0, 2.0, 5.0]), torch.tensor([1.0, 0.25])
    by_pixel = -logits.log_softmax(1).gather(1, masks.unsqueeze(1))[:, 0] * classes[masks]
    shares = classes[masks] * weights.view(-1, 1, 1)
    expected = (by_pixel * weights.view(-1, 1, 1)).sum() / shares.sum()
    torch.testing.assert_close(cross_entropy(logits, masks, classes, weights), expected)
