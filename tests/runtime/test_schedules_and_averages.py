"""Schedules and averages against their formulas, and that both go on exactly from their states."""

import copy

import pytest
import torch
from torch import nn

from runtime.schedules_and_averages import advance, last_rate, schedule, weight_average


def networks(count):
    """A trained network as it is after each of `count` steps, the untrained one first."""
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3))
    for number in range(count + 1):
        with torch.no_grad():
            for tensor in network.state_dict().values():
                fresh = torch.rand(tensor.shape, generator=generator)
                tensor.copy_(fresh if tensor.is_floating_point() else torch.tensor(number))
        yield copy.deepcopy(network)


@pytest.mark.parametrize(("decay", "counted"), [(0.9, 1), (0.15, 2), (0.0, 1)])
def test_the_average_is_that_of_its_formula_bit_for_bit(decay, counted):
    first, *trained = networks(5)
    average = weight_average(first, decay, counted)
    expected = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    for step, network in enumerate(trained):
        average.update_parameters(network)
        known = step + counted
        weight = 1 - (min(decay, known / (9 + known)) if decay else 0.0)
        for name, tensor in network.state_dict().items():
            expected[name] = torch.lerp(expected[name], tensor, weight) if tensor.is_floating_point() else tensor
    assert expected["1.num_batches_tracked"] == 5
    for name, tensor in average.module.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert not average.module.training
    assert not any(parameter.requires_grad for parameter in average.parameters())


def test_an_average_goes_on_from_its_state():
    first, *trained = networks(6)
    whole, begun, continued = (weight_average(first, 0.9) for _ in range(3))
    for network in trained:
        whole.update_parameters(network)
    for network in trained[:3]:
        begun.update_parameters(network)
    continued.load_state_dict(begun.state_dict())
    for network in trained[3:]:
        continued.update_parameters(network)
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in continued.state_dict().items())


def trained_rates(optimiser, scheduler, steps):
    rates = []
    for step in steps:
        advance(scheduler, step)
        optimiser.step()
        rates.append(optimiser.param_groups[0]["lr"])
        assert last_rate(scheduler) == rates[-1]
    return rates


def start(rate):
    optimiser = torch.optim.AdamW(
        [{"params": [nn.Parameter(torch.ones(2))]}, {"params": [nn.Parameter(torch.ones(1))]}]
    )
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    return optimiser, schedule(optimiser, rate)


def rate(step):
    return 3e-4 * (step + 1) / 7


def test_every_step_has_its_rate_bit_for_bit():
    optimiser, scheduler = start(rate)
    assert trained_rates(optimiser, scheduler, range(20)) == [rate(step) for step in range(20)]
    assert {group["lr"] for group in optimiser.param_groups} == {rate(19)}


def test_a_resumed_schedule_goes_on_and_asks_only_when_the_step_comes():
    optimiser, scheduler = start(rate)
    trained_rates(optimiser, scheduler, range(5))
    asked = []
    resumed, again = start(lambda step: asked.append(step) or rate(step))
    resumed.load_state_dict(optimiser.state_dict())
    again.load_state_dict(scheduler.state_dict())
    assert trained_rates(resumed, again, range(5, 9)) == [rate(step) for step in range(5, 9)]
    assert list(dict.fromkeys(asked)) == [0, 5, 6, 7, 8]
