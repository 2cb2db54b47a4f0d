"""Against the definition: repeat the pixels, then convolve."""

import pytest
import torch
from torch.nn import functional as F

from runtime.operations import EnlargedConvolution, convolve_enlarged


def by_definition(x, weight, bias=None):
    return F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, bias, padding=1)


def operands(*shape, outputs=3):
    torch.manual_seed(0)
    operands = torch.randn(shape), torch.randn(outputs, shape[1], 3, 3), torch.randn(outputs)
    return [operand.double().requires_grad_() for operand in operands]


@pytest.mark.parametrize("shape", [(2, 4, 6, 5), (1, 1, 1, 1), (1, 2, 1, 7)], ids=str)
def test_values_and_gradients_are_those_of_repeating_pixels_and_convolving(shape):
    x, weight, bias = operands(*shape)
    found, expected = convolve_enlarged(x, weight, bias), by_definition(x, weight, bias)
    torch.testing.assert_close(found, expected)
    slopes = torch.randn_like(expected)
    for mine, theirs in zip(
        torch.autograd.grad(found, (x, weight, bias), slopes),
        torch.autograd.grad(expected, (x, weight, bias), slopes),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_half_precision_is_as_near_as_the_definition_in_half_precision():
    x, weight, _ = (operand.detach().float() for operand in operands(2, 8, 16, 16))
    exact = by_definition(x, weight)
    with torch.autocast("cpu", torch.bfloat16):
        mine, theirs = (function(x, weight).float() for function in (convolve_enlarged, by_definition))
    assert (mine - exact).abs().mean() < 1.2 * (theirs - exact).abs().mean()


def test_the_layer_has_the_weights_of_a_plain_convolution():
    layer, plain = EnlargedConvolution(2, 3), torch.nn.Conv2d(2, 3, 3, padding=1)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 2, 4, 6)
    assert layer(x).shape == (2, 3, 8, 12)
    torch.testing.assert_close(layer(x), plain(x.repeat_interleave(2, 2).repeat_interleave(2, 3)))


def test_without_bias():
    assert EnlargedConvolution(2, 3, bias=False).bias is None
