"""What every head of the localiser offers to training and use: outputs a slice, a loss, and one box a study."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class Targets(NamedTuple):
    """What a batch of slices should tell.

    Attributes:
        boxes: (N, 4), (left, top, right, bottom) of each slice's study in shares of the field of view.
        maps: (N, 2, P, P) in [0, 1]: the labels of the slice, and those of its study projected over all slices.
    """

    boxes: Tensor
    maps: Tensor


class BoxFinder(nn.Module):
    """A network that finds the left ventricle's box.

    Attributes:
        anchor: (4,), the mean training box in shares, which is the answer where the network has none.
    """

    anchor: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("anchor", torch.tensor([0.25, 0.25, 0.75, 0.75]))

    def loss(self, outputs: Tensor, targets: Targets) -> Tensor:
        """Return the loss () of the outputs of a batch."""
        raise NotImplementedError

    def study_box(self, outputs: Tensor) -> NDArray[np.float64]:
        """Return the box (4,) in shares of the study whose slices gave the outputs (S, ...)."""
        raise NotImplementedError


def double_convolution(inputs: int, outputs: int) -> nn.Sequential:
    """Return two 3 x 3 convolutions, each with batch normalisation and ReLU: (N, I, H, W) to (N, O, H, W)."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [
            nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)
