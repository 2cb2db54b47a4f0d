import copy

import pytest
import torch
from torch import nn

from segmentation.networks.table import build_network
from segmentation.training.config import TrainConfig
from segmentation.training.optimisers import Muon, build_optimiser, is_matrix, orthogonalise

RATE = 0.01


def some_network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(1, 16, 3), nn.Conv2d(16, 24, 3), nn.BatchNorm2d(24), nn.Conv2d(24, 16, 1))


def give_gradients(network: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def muon_of(network: nn.Module, weight_decay: float = 0.0) -> Muon:
    matrices = [p for p in network.parameters() if is_matrix(p)]
    others = [p for p in network.parameters() if not is_matrix(p)]
    return Muon(matrices, [{"params": others, "weight_decay": 0.0}], RATE, weight_decay)


@pytest.mark.parametrize("shape", [(20, 90), (90, 20), (32, 32)])
def test_orthogonalised_matrices_keep_their_singular_vectors_and_lose_their_singular_values(shape):
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(3, *shape, generator=generator) * torch.logspace(-1, 1, shape[1])
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    turned = left.mT @ orthogonalise([matrices])[0] @ right.mT
    values = turned.diagonal(dim1=1, dim2=2)
    if shape[0] != shape[1]:  # a random square matrix has singular values near 0, which five rounds do not lift
        assert values.min() > 0.5
    assert values.max() < 1.3
    assert (turned - torch.diag_embed(values)).abs().max() < 1e-3


def test_orthogonalised_matrices_are_those_of_the_published_rounds():
    matrices = torch.randn(2, 24, 144, generator=torch.Generator().manual_seed(0)) * torch.logspace(-4, 0, 144)
    x = matrices.double() / matrices.double().norm(dim=(1, 2), keepdim=True)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    torch.testing.assert_close(orthogonalise([matrices])[0].double(), x, atol=1e-5, rtol=0)


def test_matrices_of_several_shapes_turn_out_as_each_alone():
    generator = torch.Generator().manual_seed(0)
    groups = [torch.randn(shape, generator=generator) for shape in [(2, 24, 40), (1, 60, 24), (3, 16, 30), (1, 24, 24)]]
    for group, together in zip(groups, orthogonalise(groups), strict=True):
        torch.testing.assert_close(together, orthogonalise([group])[0], atol=1e-6, rtol=0)


def test_the_first_step_is_the_orthogonal_matrix_nearest_to_the_gradient_as_long_as_adam_s():
    network = some_network()
    optimiser = muon_of(network)
    give_gradients(network, seed=1)
    weight = network[1].weight
    before, gradient = weight.detach().clone(), weight.grad.clone()
    optimiser.step()
    step = ((before - weight.detach()) / RATE).reshape(24, -1)
    left, _, right = torch.linalg.svd(gradient.reshape(24, -1), full_matrices=False)
    nearest = left @ right * 0.2 * 144**0.5
    assert torch.cosine_similarity(step.flatten(), nearest.flatten(), dim=0) > 0.95
    assert step.norm() / nearest.norm() == pytest.approx(1, abs=0.2)
    assert step.square().mean().sqrt() == pytest.approx(0.2, abs=0.05)  # an AdamW update's


def test_later_steps_follow_the_momentum():
    network = some_network()
    optimiser = muon_of(network)
    give_gradients(network, seed=1)
    first = network[1].weight.grad.clone()
    optimiser.step()
    give_gradients(network, seed=2)
    second = network[1].weight.grad.clone()
    before = network[1].weight.detach().clone()
    optimiser.step()
    momentum = 0.95 * (0.05 * first) + 0.05 * second
    along = orthogonalise([(0.05 * second + 0.95 * momentum).reshape(1, 24, -1)])[0].reshape(before.shape)
    torch.testing.assert_close(network[1].weight.detach(), before - RATE * 0.2 * 12 * along)


def test_what_is_no_matrix_gets_adamw_s_steps():
    network = some_network()
    twin = copy.deepcopy(network)
    optimiser = muon_of(network)
    adamw = torch.optim.AdamW([p for p in twin.parameters() if not is_matrix(p)], lr=RATE, weight_decay=0.0, fused=True)
    for seed in (1, 2):
        give_gradients(network, seed)
        give_gradients(twin, seed)
        optimiser.step()
        adamw.step()
    for mine, theirs in zip(network.parameters(), twin.parameters(), strict=True):
        if not is_matrix(mine):
            assert torch.equal(mine, theirs)


def test_convolutions_decay():
    network = some_network()
    optimiser = muon_of(network, weight_decay=0.5)
    undecayed = copy.deepcopy(network)
    other = muon_of(undecayed)
    before = network[1].weight.detach().clone()
    for changed, stepped in ((network, optimiser), (undecayed, other)):
        give_gradients(changed, seed=1)
        stepped.step()
    torch.testing.assert_close(undecayed[1].weight - network[1].weight, RATE * 0.5 * before, atol=1e-6, rtol=0)


def test_convolutions_of_one_shape_are_stepped_as_if_alone():
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(16, 16, 3, 3)) for _ in range(3)]
    alone = [nn.Parameter(weight.detach().clone()) for weight in weights]
    gradients = [torch.randn(16, 16, 3, 3) for _ in weights]
    for given in (weights, alone):
        for parameter, gradient in zip(given, gradients, strict=True):
            parameter.grad = gradient.clone()
    Muon(weights, [], RATE, 0.0).step()
    for parameter in alone:
        Muon([parameter], [], RATE, 0.0).step()
    for together, single in zip(weights, alone, strict=True):
        torch.testing.assert_close(together, single)


def test_a_loaded_state_goes_on_as_the_saved_one():
    network = some_network()
    optimiser = muon_of(network)
    give_gradients(network, seed=1)
    optimiser.step()
    twin = copy.deepcopy(network)
    continued = muon_of(twin)
    continued.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    for changed, stepped in ((network, optimiser), (twin, continued)):
        give_gradients(changed, seed=2)
        stepped.step()
    for mine, theirs in zip(network.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("name", ["attention_res_unet", "halsr_net"])
@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_every_parameter_is_trained_once_and_only_weights_decay(name, optimiser):
    config = TrainConfig.model_validate({"network": {"name": name}, "optimiser": optimiser})
    with torch.device("meta"):
        network = build_network(config.network, 5)
    built = build_optimiser(network, config)
    trained = [id(p) for group in built.param_groups for p in group["params"]]
    assert sorted(trained) == sorted(id(p) for p in network.parameters())
    for group in built.param_groups:
        for parameter in group["params"]:
            assert (group["weight_decay"] > 0) == (parameter.dim() > 1)
            assert not group.get("orthogonal") or is_matrix(parameter)
    weights = sum(p.numel() for p in network.parameters())
    assert sum(p.numel() for p in network.parameters() if is_matrix(p)) > 0.98 * weights
