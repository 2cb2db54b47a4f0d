import pytest
import torch
from torch.nn import functional as F

from runtime import operations


@pytest.fixture
def deterministic():
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


def same_values_and_gradients(ours, usual, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first, second = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, wanted = ours(first), usual(second)
    torch.testing.assert_close(found, wanted)
    weights = torch.rand(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (found * weights).sum().backward()
    (wanted * weights).sum().backward()
    torch.testing.assert_close(first.grad, second.grad)


@pytest.mark.parametrize("grid", [1, 2, 4])
def test_cells_are_averaged_as_adaptive_pooling_does(deterministic, grid):
    # 4 does not divide 6: cells share pixels
    same_values_and_gradients(
        lambda x: operations.average_cells(x, grid), lambda x: F.adaptive_avg_pool2d(x, grid), (2, 3, 6, 8)
    )


def test_the_largest_value_is_that_of_adaptive_pooling(deterministic):
    same_values_and_gradients(operations.largest, lambda x: F.adaptive_max_pool2d(x, 1), (2, 3, 5, 4))


def test_borders_are_reflected_as_pad_does(deterministic):
    same_values_and_gradients(
        lambda x: operations.reflected(x, 3), lambda x: F.pad(x, [3] * 4, mode="reflect"), (2, 1, 7, 9)
    )


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("weight", [None, (1.0, 7.0, 11.0)])
def test_the_cross_entropy_is_the_usual_one(deterministic, weight, reduction):
    mask = torch.randint(3, (2, 4, 5), generator=torch.Generator().manual_seed(0))
    weights = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    same_values_and_gradients(
        lambda x: operations.cross_entropy(x, mask, weights, reduction),
        lambda x: F.cross_entropy(x, mask, weight=weights, reduction=reduction),
        (2, 3, 4, 5),
    )


def test_elsewhere_the_usual_kernels_are_taken_bit_for_bit():
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(operations.average_cells(x, 4), F.adaptive_avg_pool2d(x, 4))
    assert torch.equal(operations.largest(x), F.adaptive_max_pool2d(x, 1))
    assert torch.equal(operations.reflected(x, 2), F.pad(x, [2] * 4, mode="reflect"))
