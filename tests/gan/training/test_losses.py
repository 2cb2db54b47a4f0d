import math

import pytest
import torch

from common.errors import InputError
from gan.training.config import CONTEXT_TISSUE_WEIGHTS
from gan.training.losses import (
    ADVERSARIAL_LOSSES,
    region_weighted_l1,
    structural_similarity,
    tissue_weight_table,
    weighted_mean,
)
from imaging.labels import CINE_LABELS, EMIDEC_LABELS, PUBLISHED_TISSUE_WEIGHTS


def logits(value: float) -> torch.Tensor:
    return torch.full((2, 1, 3, 3), float(value))


@pytest.mark.parametrize(
    ("name", "discriminator", "generator"),
    [("bce", math.log(2), math.log(2)), ("least_squares", 0.5, 1.0)],
)
def test_losses_of_an_undecided_discriminator(name, discriminator, generator):
    loss, weights = ADVERSARIAL_LOSSES[name], torch.ones(2, 1, 3, 3)
    assert float(loss.discriminator(logits(0), logits(0), weights)) == pytest.approx(discriminator)
    assert float(loss.generator(logits(0), weights)) == pytest.approx(generator)


@pytest.mark.parametrize("name", ADVERSARIAL_LOSSES)
def test_being_right_pays_for_each_side(name):
    loss, weights = ADVERSARIAL_LOSSES[name], torch.ones(2, 1, 3, 3)
    right = loss.discriminator(logits(1), logits(0 if name == "least_squares" else -1), weights)
    wrong = loss.discriminator(logits(-1), logits(1), weights)
    assert right < wrong
    assert loss.generator(logits(1), weights) < loss.generator(logits(-1), weights)


def test_patches_of_no_weight_do_not_count():
    weights = torch.zeros(1, 1, 2, 2)
    weights[..., 0, 0] = 3
    values = torch.tensor([[[[5.0, 100.0], [100.0, 100.0]]]])
    assert float(weighted_mean(values, weights)) == pytest.approx(5)
    assert float(weighted_mean(values, torch.zeros_like(weights))) == 0


def test_published_l1_is_the_mean_of_weight_times_difference():
    drawn, real = torch.zeros(1, 1, 1, 2), torch.tensor([[[[0.5, 1.0]]]])
    weights = torch.tensor([[[[1.0, 90.0]]]])
    assert float(region_weighted_l1(drawn, real, weights, None)) == pytest.approx((0.5 + 90) / 2)


def test_l1_in_context_is_the_weighted_mean_inside_the_hole():
    drawn, real = torch.zeros(1, 1, 1, 3), torch.tensor([[[[0.5, 1.0, 7.0]]]])
    weights, hole = torch.tensor([[[[1.0, 3.0, 9.0]]]]), torch.tensor([[[[1.0, 1.0, 0.0]]]])
    assert float(region_weighted_l1(drawn, real, weights, hole)) == pytest.approx((0.5 + 3) / 4)


def test_tissue_weights_are_the_published_ones():
    assert tissue_weight_table(PUBLISHED_TISSUE_WEIGHTS, EMIDEC_LABELS).tolist() == [1, 7, 11, 26, 90]


@pytest.mark.parametrize("labels", [EMIDEC_LABELS, CINE_LABELS])
def test_every_label_set_has_weights(labels):
    assert len(tissue_weight_table(CONTEXT_TISSUE_WEIGHTS, labels)) == labels.num_classes


def test_a_missing_tissue_weight_is_named():
    with pytest.raises(InputError, match=r"no weight for \['no_reflow'\] of label set 'emidec'; add"):
        tissue_weight_table({name: 1.0 for name in EMIDEC_LABELS.tissues if name != "no_reflow"}, EMIDEC_LABELS)


def test_structural_similarity_agrees_with_torchmetrics():
    from torchmetrics.functional.image import structural_similarity_index_measure

    source = torch.Generator().manual_seed(0)
    first = torch.rand(3, 1, 40, 40, generator=source)
    second = (first + 0.2 * torch.randn(3, 1, 40, 40, generator=source)).clamp(0, 1)
    theirs = structural_similarity_index_measure(first, second, data_range=1.0)
    assert float(structural_similarity(first, second).mean()) == pytest.approx(float(theirs), abs=1e-5)


def test_structural_similarity_is_one_for_equal_and_symmetric():
    first, second = torch.rand(2, 2, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(structural_similarity(first, first), torch.ones_like(first), atol=1e-4)
    assert torch.allclose(structural_similarity(first, second), structural_similarity(second, first))
