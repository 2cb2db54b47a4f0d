"""The exponential moving average of a network's weights: what is validated and kept."""

import copy
from typing import Any

import torch
from torch import nn

from segmentation.blocks import SegmentationNetwork


class WeightAverage:
    """A copy of a network whose weights and running statistics follow the trained ones.

    `average += (1 - d) · (weights - average)` after each step, where `d = min(decay, (1 + n) / (10 + n))`
    after n steps, so that the first steps do not weigh on it for long.

    Args:
        network: The network that is trained; its tensors are followed wherever they are changed in place.
        decay: Limit of `d`; 0 makes the copy equal the network.
    """

    def __init__(self, network: SegmentationNetwork, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._decay = decay
        self._steps = 0
        pairs = list(zip(_tensors(self.network), _tensors(network), strict=True))
        self._floats = [[pair[side] for pair in pairs if pair[0].is_floating_point()] for side in (0, 1)]
        self._counts = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Follow the trained network by one step."""
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps)) if self._decay else 0.0
        self._steps += 1
        mine, theirs = self._floats
        torch._foreach_lerp_(mine, theirs, 1 - decay)
        for my_count, their_count in self._counts:
            my_count.copy_(their_count)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs."""
        return {"network": self.network.state_dict(), "steps": self._steps}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        self.network.load_state_dict(state["network"])
        self._steps = state["steps"]


def _tensors(network: nn.Module) -> list[torch.Tensor]:
    return [*network.parameters(), *network.buffers()]
