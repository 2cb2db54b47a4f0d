"""The network that finds the left ventricle's box in a slice."""

from itertools import pairwise

import torch
from torch import nn

from imaging.errors import InputError
from segmentation.localiser_config import LocaliserConfig


class LocaliserNet(nn.Module):
    """Double-convolution blocks and a dense layer that predict one box a slice (Lustermans et al. 2021).

    The four outputs are the shift of the centre and the logarithm of the size relative to `anchor`, the mean
    training box, so that an untrained network answers with that box. The head `soft_argmax` takes the centre
    from a heat map instead, which moves with the image.
    """

    anchor: torch.Tensor

    def __init__(self, config: LocaliserConfig) -> None:
        super().__init__()
        factor = 2 ** len(config.widths)
        if config.input_px % factor:
            raise InputError(
                f"input_px {config.input_px} cannot be halved {len(config.widths)} times; use a multiple of {factor}"
            )
        channels = (1, *config.widths)
        self.blocks = nn.ModuleList(_double_convolution(*pair) for pair in pairwise(channels))
        side = config.input_px // factor
        heads = {"regression": _DenseHead, "soft_argmax": _HeatHead}
        self.head = heads[config.head](config.widths[-1], side, config.hidden)
        self.register_buffer("anchor", torch.tensor([0.25, 0.25, 0.75, 0.75]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Predict boxes (N, 4), (left, top, right, bottom) in shares, from slices (N, 1, P, P) in [0, 1]."""
        features = images - 0.5
        for block in self.blocks:
            features = nn.functional.max_pool2d(block(features), 2)
        shift, growth = self.head(features, self.anchor)
        centre, size = _centre_and_size(self.anchor)
        centres, sizes = centre + shift, size * growth.clamp(-2, 2).exp()
        return torch.cat([centres - sizes / 2, centres + sizes / 2], dim=1)


class _DenseHead(nn.Module):
    """The published head: shift of the centre and growth of the size from a dense layer over the whole field."""

    def __init__(self, channels: int, side: int, hidden: int) -> None:
        super().__init__()
        self.dense = nn.Sequential(
            nn.Flatten(), nn.Linear(channels * side**2, hidden), nn.ReLU(inplace=True), _zero(nn.Linear(hidden, 4))
        )

    def forward(self, features: torch.Tensor, anchor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
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

    def forward(self, features: torch.Tensor, anchor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.context(features)
        heat = self.heat(features).float().flatten(1).softmax(dim=1)  # (N, side * side)
        middle = heat @ self.places.T
        under = torch.einsum("np,ncp->nc", heat, features.float().flatten(2))
        return middle - (anchor[:2] + anchor[2:]) / 2, self.size(under).float()


def _zero(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    """Start a layer at 0, so that the head starts at the mean training box."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _double_convolution(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [
            nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(True),
        ]
    return nn.Sequential(*layers)


def _centre_and_size(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
