"""Clipping does what torch's does, and leaves short gradients as they are."""

import pytest
import torch
from torch import nn

from segmentation.training.loop import clip_gradients


def _network(scale: float) -> nn.Linear:
    network = nn.Linear(3, 2)
    for parameter in network.parameters():
        parameter.grad = scale * torch.arange(1.0, parameter.numel() + 1).reshape(parameter.shape)
    return network


@pytest.mark.parametrize("scale", [0.1, 10.0, float("nan"), float("inf")])
def test_gradients_are_clipped_as_torch_clips_them(scale: float) -> None:
    ours, torchs = _network(scale), _network(scale)
    clip_gradients(ours.parameters(), 5.0)
    nn.utils.clip_grad_norm_(torchs.parameters(), 5.0)
    for mine, theirs in zip(ours.parameters(), torchs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, equal_nan=True)


def test_short_gradients_stay_as_they_are_bit_for_bit() -> None:
    ours, untouched = _network(0.1), _network(0.1)
    clip_gradients(ours.parameters(), 5.0)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours.parameters(), untouched.parameters(), strict=True))


def test_parameters_without_a_gradient_are_passed_over() -> None:
    network = _network(10.0)
    network.bias.grad = None
    clip_gradients(network.parameters(), 5.0)
    assert network.bias.grad is None
    assert float(network.weight.grad.norm()) == pytest.approx(5.0, rel=1e-4)
