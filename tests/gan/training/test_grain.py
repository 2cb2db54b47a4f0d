import numpy as np
import pytest
import torch

from gan.networks.generator import blur
from gan.training.losses import grain_loss


def pixels(seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 0.2, (2, 1, 32, 32)).astype(np.float32))


def halves() -> torch.Tensor:
    tissues = torch.zeros(2, 2, 32, 32)
    tissues[:, 0, :, :16], tissues[:, 1, :, 16:] = 1, 1
    return tissues


def test_other_noise_of_the_same_strength_costs_next_to_nothing():
    assert grain_loss(pixels(1), pixels(2), halves()) < 0.05


def test_a_blurred_drawing_costs_more_the_more_it_is_blurred():
    costs = [float(grain_loss(blur(pixels(), sigma), pixels(), halves())) for sigma in (0.5, 1.0, 2.0)]
    assert costs == sorted(costs)
    assert costs[0] > 0.1


def test_too_much_grain_costs_as_much_as_too_little():
    less, more = grain_loss(pixels() / 2, pixels(), halves()), grain_loss(pixels() * 2, pixels(), halves())
    assert float(less) == pytest.approx(float(more), rel=0.25)


def test_grain_counts_in_the_tissue_where_it_is_missing_alone():
    smooth = pixels().clone()
    smooth[..., 20:] = 0
    only_left = torch.cat([halves()[:, :1], torch.zeros(2, 1, 32, 32)], dim=1)
    assert grain_loss(smooth, pixels(), halves()) > 0.3
    assert grain_loss(smooth, pixels(), only_left) < 0.01


def test_a_slice_without_any_tissue_costs_nothing_and_gives_finite_gradients():
    drawn = pixels().requires_grad_()
    loss = grain_loss(drawn, pixels(1), torch.zeros(2, 2, 32, 32))
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.isfinite(drawn.grad).all()


def test_the_gradient_asks_a_smooth_drawing_for_grain():
    drawn = (0.1 * pixels(3)).requires_grad_()
    grain_loss(drawn, pixels(4), halves()).backward()
    grainier = (drawn - 0.5 * drawn.grad / drawn.grad.abs().max()).detach()
    assert grain_loss(grainier, pixels(4), halves()) < grain_loss(drawn.detach(), pixels(4), halves())
