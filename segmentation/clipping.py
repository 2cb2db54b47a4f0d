"""Gradient clipping that leaves short gradients alone."""

from collections.abc import Iterable

from torch import nn


def clip_gradients(parameters: Iterable[nn.Parameter], largest: float) -> None:
    """Shorten the gradient of all parameters together to a norm of at most `largest`, as `clip_grad_norm_` does.

    Most gradients are shorter. On a CPU, where a look at the norm waits for nothing, they are not multiplied by one.
    """
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None], foreach=True)
    if norm.device.type != "cpu" or not norm <= largest:
        nn.utils.clip_grads_with_norm_(trained, largest, norm, foreach=True)
