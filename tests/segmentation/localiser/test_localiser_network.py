import numpy as np
import pytest
import torch
from pydantic import ValidationError

from segmentation.localiser.config import LocaliserConfig
from segmentation.localiser.networks import FootprintNet, LocaliserNet, Targets, box_loss, build_finder, map_loss
from tests.segmentation.localiser_studies import PUBLISHED, SMALL


@pytest.mark.parametrize("head", ["regression", "soft_argmax"])
def test_untrained_box_head_answers_with_its_anchor(head):
    network = build_finder(PUBLISHED.model_copy(update={"head": head}))
    boxes = network(torch.rand(3, 1, 48, 48))
    torch.testing.assert_close(boxes, network.anchor.expand(3, 4))


def test_half_precision_does_not_move_the_middle_of_the_heat():
    head = build_finder(PUBLISHED.model_copy(update={"head": "soft_argmax"})).head
    head.context = torch.nn.Identity()
    side = int(head.places.shape[1] ** 0.5)
    channels = head.size[0].in_features
    peak = torch.randn(1, 1, side, side, generator=torch.Generator().manual_seed(3))
    head.heat = torch.nn.Module()
    head.heat.forward = lambda _: peak
    with torch.autocast("cpu", torch.bfloat16):
        middle, _ = head(torch.zeros(1, channels, side, side), torch.zeros(4))
    torch.testing.assert_close(middle, peak.flatten(1).softmax(dim=1) @ head.places.T, rtol=0, atol=1e-6)


def test_network_that_finds_nothing_answers_with_its_anchor():
    network = build_finder(SMALL)
    network.anchor.copy_(torch.tensor([0.3, 0.35, 0.6, 0.7]))
    assert network.study_box(torch.full((5, 2, 48, 48), -20.0)) == pytest.approx([0.3, 0.35, 0.6, 0.7])


def test_published_shape_of_the_network():
    network = LocaliserNet(LocaliserConfig(input_px=256, head="regression"))
    widths = [block[0].out_channels for block in network.blocks]
    assert widths == [8, 16, 32, 64]
    dense = [layer for layer in network.head.modules() if isinstance(layer, torch.nn.Linear)]
    assert [layer.out_features for layer in dense] == [512, 4]


def test_maps_have_the_size_of_the_slices_and_move_with_them():
    torch.manual_seed(0)
    network = FootprintNet(LocaliserConfig(input_px=128, map_widths=(8, 8))).eval()
    image = torch.zeros(1, 1, 128, 128)
    image[..., 56:64, 60:76] = torch.rand(8, 16)
    there, here = network(image), network(image.roll((8, -12), (2, 3)))
    assert there.shape == (1, 2, 128, 128)
    away_from_edges = slice(40, 88)
    torch.testing.assert_close(
        here[..., away_from_edges, away_from_edges],
        there.roll((8, -12), (2, 3))[..., away_from_edges, away_from_edges],
    )


@pytest.mark.parametrize("values", [{"input_px": 100}, {"input_px": 72, "head": "regression"}])
def test_input_that_cannot_be_halved_is_refused(values):
    with pytest.raises(ValidationError, match=r"cannot be halved 4 times; use a multiple of 16"):
        LocaliserConfig.model_validate(values)


@pytest.mark.parametrize(("name", "value"), [("threshold", 1.0), ("steps", 0), ("head", "none"), ("scale", 0.9)])
def test_impossible_settings_are_refused(name, value):
    with pytest.raises(ValidationError, match=name):
        LocaliserConfig.model_validate({name: value})


def test_median_of_boxes_ignores_one_bad_slice():
    boxes = torch.tensor([[0.2, 0.2, 0.6, 0.6]]).repeat(5, 1)
    boxes[0] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    assert build_finder(PUBLISHED).study_box(boxes) == pytest.approx([0.2, 0.2, 0.6, 0.6])


def test_box_loss_is_zero_for_equal_boxes_and_grows_with_distance():
    box = torch.tensor([[0.2, 0.2, 0.6, 0.6]])
    losses = [float(box_loss(box + shift, box)) for shift in (0.0, 0.05, 0.2, 0.39)]
    assert losses[0] == pytest.approx(0.0, abs=1e-6)
    assert losses == sorted(losses)


def test_map_loss_by_hand():
    maps = torch.zeros(1, 2, 4, 4)
    maps[:, 0, :2] = 1.0  # the second map is empty: a slice beyond the apex
    sure = torch.where(maps > 0, 30.0, -30.0)
    assert float(map_loss(sure, maps)) == pytest.approx(0.0, abs=1e-6)
    # Undecided everywhere: log 2, and soft Dice of (2 * 4 + 1) / (16 + 1) and 1 / (8 + 1).
    undecided = float(map_loss(torch.zeros(1, 2, 4, 4), maps))
    assert undecided == pytest.approx(np.log(2) + 1 - (9 / 17 + 1 / 9) / 2)


@pytest.mark.parametrize("config", [SMALL, PUBLISHED])
def test_loss_reaches_every_weight_once_the_head_has_moved(config):
    torch.manual_seed(0)
    network = build_finder(config)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn_like(weight) * 0.01)
    targets = Targets(torch.tensor([[0.2, 0.2, 0.6, 0.6]] * 2), torch.rand(2, 2, 48, 48))
    network.loss(network(torch.rand(2, 1, 48, 48)), targets).backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in network.parameters())
