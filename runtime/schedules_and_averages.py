"""Learning rates and averaged weights, for every training loop, on PyTorch's own scheduler and average."""

from collections.abc import Callable
from itertools import chain

import torch
from torch import nn
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


class WeightAverage(AveragedModel):
    """An average whose count stays on the host.

    `AveragedModel` sends it to a GPU at every step, and the host waits there until all earlier work is done.
    """

    decay: float

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Follow the weights and running statistics of the trained network by one step."""
        mine, theirs = (list(chain(part.parameters(), part.buffers())) for part in (self.module, model))
        floats = [tensor.is_floating_point() for tensor in mine]
        averaged, copied = ([n for n, isfloat in enumerate(floats) if isfloat is wanted] for wanted in (True, False))
        known = int(self.n_averaged)
        weight = 1 - (min(self.decay, known / (9 + known)) if self.decay else 0.0)
        torch._foreach_lerp_([mine[n] for n in averaged], [theirs[n] for n in averaged], weight)
        if copied:
            torch._foreach_copy_([mine[n] for n in copied], [theirs[n] for n in copied])
        self.n_averaged += 1


def weight_average(network: nn.Module, decay: float, counted: int = 1) -> WeightAverage:
    """Return a copy of a network whose weights and running statistics follow the trained ones.

    `average += (1 - d) · (weights - average)` after each step, where `d = min(decay, n / (9 + n))` and n is how many
    networks the average holds, so that the first steps do not weigh on it for long. Counts of batches are copied.

    Args:
        network: The network that is trained.
        decay: Limit of `d`; 0 makes the copy equal the network.
        counted: As how many networks the untrained one counts.
    """
    average = WeightAverage(network, use_buffers=True)
    average.decay = decay
    average.n_averaged.fill_(counted)
    average.requires_grad_(False).eval()
    return average
