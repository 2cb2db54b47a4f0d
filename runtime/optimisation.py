"""Learning rates and averaged weights, for every training loop, on PyTorch's own scheduler and average."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel


def schedule(optimiser: torch.optim.Optimizer, rate: Callable[[int], float]) -> LambdaLR:
    """Return a scheduler that gives every group of an optimiser the learning rate of each step.

    Args:
        optimiser: The optimiser itself, not one that Fabric has wrapped.
        rate: Learning rate of a step, counted from 0; asked when the step comes.
    """
    for group in optimiser.param_groups:
        group["lr"] = 1.0  # what LambdaLR multiplies the rate by
    return LambdaLR(optimiser, rate)


def advance(scheduler: LambdaLR, step: int) -> None:
    """Set the learning rate of a step, counted from 0, that follows the scheduler's last or is it."""
    if step > scheduler.last_epoch:
        scheduler.step()


def last_rate(scheduler: LambdaLR) -> float:
    """Return the learning rate of the last step."""
    return float(scheduler.get_last_lr()[0])


def weight_average(network: nn.Module, decay: float, counted: int = 1) -> AveragedModel:
    """Return a copy of a network whose weights and running statistics follow the trained ones.

    `average += (1 - d) · (weights - average)` after each step, where `d = min(decay, n / (9 + n))` and n is how many
    networks the average holds, so that the first steps do not weigh on it for long. Counts of batches are copied.

    Args:
        network: The network that is trained.
        decay: Limit of `d`; 0 makes the copy equal the network.
        counted: As how many networks the untrained one counts.
    """

    def follow(mine: tuple[Tensor, ...] | list[Tensor], theirs: tuple[Tensor, ...] | list[Tensor], _: object) -> None:
        if not mine[0].is_floating_point():
            torch._foreach_copy_(mine, theirs)
            return
        known = int(average.n_averaged)  # on the CPU: a GPU would have to be waited for
        torch._foreach_lerp_(mine, theirs, 1 - (min(decay, known / (9 + known)) if decay else 0.0))

    average = AveragedModel(network, multi_avg_fn=follow, use_buffers=True)
    average.n_averaged.fill_(counted)
    average.requires_grad_(False).eval()
    return average
