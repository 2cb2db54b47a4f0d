"""The heads that predict a box from a slice: the published regression, and one that reads a heat map."""

from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss

from segmentation.localiser_config import LocaliserConfig
from segmentation.localiser_finder import BoxFinder, Targets, double_convolution

_SMOOTH_L1_BETA = 0.02  # shares of the field: errors of some mm count linearly


class LocaliserNet(BoxFinder):
    """Double-convolution blocks and a dense layer that predict one box a slice (Lustermans et al. 2021).

    The four outputs are the shift of the centre and the logarithm of the size relative to `anchor`, the mean
    training box, so that an untrained network answers with that box. The head `soft_argmax` takes the centre
    from a heat map instead, which moves with the image.
    """

    def __init__(self, config: LocaliserConfig) -> None:
        super().__init__()
        channels = (1, *config.widths)
        self.blocks = nn.ModuleList(double_convolution(*pair) for pair in pairwise(channels))
        side = config.input_px // 2 ** len(config.widths)
        head = _HeatHead if config.head == "soft_argmax" else _DenseHead
        self.head = head(config.widths[-1], side, config.hidden)

    def forward(self, images: Tensor) -> Tensor:
        """Predict boxes (N, 4), (left, top, right, bottom) in shares, from slices (N, 1, P, P) in [0, 1]."""
        features = images - 0.5
        for block in self.blocks:
            features = F.max_pool2d(block(features), 2)
        shift, growth = self.head(features, self.anchor)
        centre, size = _centre_and_size(self.anchor)
        centres, sizes = centre + shift, size * growth.clamp(-2, 2).exp()
        return torch.cat([centres - sizes / 2, centres + sizes / 2], dim=1)

    def loss(self, outputs: Tensor, targets: Targets) -> Tensor:
        """Return the loss of predicted boxes (N, 4)."""
        return box_loss(outputs, targets.boxes)

    def study_box(self, outputs: Tensor) -> NDArray[np.float64]:
        """Return the median over slices of each side (4,), which one bad slice does not move."""
        return np.median(outputs.float().cpu().numpy().astype(np.float64), axis=0)


def box_loss(predicted: Tensor, boxes: Tensor) -> Tensor:
    """Return smooth L1 on the sides plus generalised IoU loss, for boxes (N, 4) in shares."""
    smooth = F.smooth_l1_loss(predicted, boxes, beta=_SMOOTH_L1_BETA)
    return smooth + generalized_box_iou_loss(predicted, boxes, reduction="mean")


class _DenseHead(nn.Module):
    """The published head: shift of the centre and growth of the size from a dense layer over the whole field."""

    def __init__(self, channels: int, side: int, hidden: int) -> None:
        super().__init__()
        self.dense = nn.Sequential(
            nn.Flatten(), nn.Linear(channels * side**2, hidden), nn.ReLU(inplace=True), _zero(nn.Linear(hidden, 4))
        )

    def forward(self, features: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.dense(features).float()
        return outputs[:, :2] * (anchor[2:] - anchor[:2]), outputs[:, 2:]


class _HeatHead(nn.Module):
    """The centre is the mean place of a heat map, the size is read from the features under it."""

    def __init__(self, channels: int, side: int, hidden: int) -> None:
        super().__init__()
        self.context = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=2, dilation=2),
            nn.ReLU(inplace=True),
        )
        self.heat = _zero(nn.Conv2d(channels, 1, 1))
        self.size = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(inplace=True), _zero(nn.Linear(hidden, 2)))
        places = (torch.arange(side) + 0.5) / side
        grid = torch.stack(torch.meshgrid(places, places, indexing="xy"))  # (2, side, side): x, y
        self.register_buffer("places", grid.flatten(1))  # (2, side * side)

    def forward(self, features: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
        features = self.context(features)
        heat = self.heat(features).float().flatten(1).softmax(dim=1)  # (N, side * side)
        middle = (heat.unsqueeze(1) * self.places).sum(dim=2)  # no product of matrices, which autocast would round
        under = torch.einsum("np,ncp->nc", heat, features.float().flatten(2))
        return middle - (anchor[:2] + anchor[2:]) / 2, self.size(under).float()


def _zero(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    """Start a layer at 0, so that the head starts at the mean training box."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
