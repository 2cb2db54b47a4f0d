"""The heads that predict a box from a slice: the published regression, and one that reads a heat map.

What every head of the localiser offers to training and use: outputs a slice, a loss, and one box a study.

A small U-Net that maps the ventricle in a slice, and its footprint: the projection of the ventricle over all slices.

Every pixel is a lesson, so that a few patients suffice, and what moves in the image moves in the map. How far a
ventricle reaches is best seen where it is widest; where it is, every slice can tell.

From a probability map to the box around its largest blob, with edges between pixels.

Which network each head of the configuration is.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from segmentation.localiser.config import LocaliserConfig


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


_TINY = 1e-7  # keeps empty boxes from dividing by zero
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
    return F.smooth_l1_loss(predicted, boxes, beta=_SMOOTH_L1_BETA) + _generalised_iou_loss(predicted, boxes)


def _generalised_iou_loss(predicted: Tensor, boxes: Tensor) -> Tensor:
    """Return the mean generalised IoU loss (Rezatofighi et al. 2019): torchvision's asks a GPU which boxes overlap."""
    left, top, right, bottom = predicted.unbind(dim=1)
    left_true, top_true, right_true, bottom_true = boxes.unbind(dim=1)
    width = torch.min(right, right_true) - torch.max(left, left_true)
    height = torch.min(bottom, bottom_true) - torch.max(top, top_true)
    shared = torch.where((width > 0) & (height > 0), width * height, 0.0)
    areas = (right - left) * (bottom - top) + (right_true - left_true) * (bottom_true - top_true)
    union = areas - shared
    hull_width = torch.max(right, right_true) - torch.min(left, left_true)
    hull = hull_width * (torch.max(bottom, bottom_true) - torch.min(top, top_true))
    return (1 - (shared / (union + _TINY) - (hull - union) / (hull + _TINY))).mean()


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


_FAINTEST = 0.05  # a map that stays below shows nothing
_SURE = 0.8  # a map that stays below is cut lower, in proportion to its peak


def box_of_map(probability: NDArray[np.float64], threshold: float) -> NDArray[np.float64] | None:
    """Return the box around the heaviest connected part above the threshold.

    A map without a sure pixel is cut lower: its brightest part is still the best guess.

    Args:
        probability: (P, P).
        threshold: Probability at the box's edges.

    Returns:
        (4,): left, top, right, bottom in shares of the map's side, or None where the map shows nothing.
    """
    peak = float(probability.max())
    if not peak > _FAINTEST:
        return None
    level = threshold * min(1.0, peak / _SURE)
    blob = _heaviest_part(probability, level)
    # The pixels around the blob tell where between pixels the level is crossed.
    seen = np.where(ndimage.binary_dilation(blob, np.ones((3, 3))), probability, 0.0)
    (top, bottom), (left, right) = (_crossings(seen.max(axis=axis), level) for axis in (1, 0))
    return np.array([left, top, right, bottom]) / len(probability)


def _heaviest_part(probability: NDArray[np.float64], level: float) -> NDArray[np.bool_]:
    parts, count = ndimage.label(probability > level, np.ones((3, 3)))
    weights = ndimage.sum_labels(probability, parts, np.arange(1, count + 1))
    return parts == 1 + int(np.argmax(weights))


def _crossings(profile: NDArray[np.float64], level: float) -> tuple[float, float]:
    """Return where a profile (P,) first rises and last falls through the level, in pixels from its start."""
    backwards = _first_rise(profile[::-1], level)
    return _first_rise(profile, level), len(profile) - backwards


def _first_rise(profile: NDArray[np.float64], level: float) -> float:
    above = int(np.argmax(profile > level))
    if above == 0:
        return 0.0
    before, after = profile[above - 1 : above + 1]
    return above - 0.5 + float((level - before) / (after - before))


_FOOTPRINT_WEIGHT = 0.55  # above 1/2, so that one slice alone lifts no pixel over a threshold of 1/2


class FootprintNet(BoxFinder):
    """Folds 2 x 2 pixels into channels, then goes down and up again, adding what was there on the way down.

    The maps have half the input's resolution and are enlarged: the box's edges lie between their pixels.
    """

    def __init__(self, config: LocaliserConfig) -> None:
        super().__init__()
        widths = config.map_widths
        self.threshold = config.threshold
        self.stem = nn.Sequential(nn.PixelUnshuffle(2), double_convolution(4, widths[0]))
        self.down = nn.ModuleList(double_convolution(*pair) for pair in pairwise(widths))
        self.narrow = nn.ModuleList(nn.Conv2d(below, here, 1) for here, below in pairwise(widths))
        self.up = nn.ModuleList(double_convolution(here, here) for here in widths[:-1])
        self.maps = nn.Conv2d(widths[0], 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map slices (N, 1, P, P) in [0, 1] to logits (N, 2, P, P): the ventricle in the slice, and its footprint."""
        features = [self.stem(images - 0.5)]
        for block in self.down:
            features.append(block(F.max_pool2d(features[-1], 2)))
        found = features.pop()
        for narrow, block in zip(reversed(self.narrow), reversed(self.up), strict=True):
            found = block(features.pop() + F.interpolate(narrow(found), scale_factor=2.0))
        return F.interpolate(self.maps(found), scale_factor=2.0, mode="bilinear", align_corners=False)

    def loss(self, outputs: Tensor, targets: Targets) -> Tensor:
        """Return the loss of both maps (N, 2, P, P)."""
        return map_loss(outputs, targets.maps)

    def study_box(self, outputs: Tensor) -> NDArray[np.float64]:
        """Return the box (4,) in shares around the study's map, or the mean training box where that shows nothing."""
        probability = study_map(outputs.float().sigmoid()).cpu().numpy().astype(np.float64)
        box = box_of_map(probability, self.threshold)
        return self.anchor.double().cpu().numpy() if box is None else box


def study_map(probability: Tensor) -> Tensor:
    """Return the map (P, P) of a study from those of its slices (S, 2, P, P).

    The highest of the slices' own maps counts only where the footprints agree: a bad slice is outvoted.
    """
    own, footprint = probability.unbind(dim=1)
    return _FOOTPRINT_WEIGHT * _trimmed_mean(footprint) + (1 - _FOOTPRINT_WEIGHT) * own.amax(dim=0)


def _trimmed_mean(maps: Tensor) -> Tensor:
    """Return the mean over slices of maps (S, P, P), of three or more without each pixel's highest and lowest."""
    if len(maps) < 3:
        return maps.mean(dim=0)
    return (maps.sum(dim=0) - maps.amax(dim=0) - maps.amin(dim=0)) / (len(maps) - 2)


def map_loss(logits: Tensor, maps: Tensor) -> Tensor:
    """Return binary cross-entropy plus 1 - soft Dice, the latter a map and slice, for (N, K, P, P)."""
    probability = logits.sigmoid()
    both, either = (probability * maps).sum(dim=(2, 3)), (probability + maps).sum(dim=(2, 3))
    dice = (2 * both + 1) / (either + 1)
    return F.binary_cross_entropy_with_logits(logits, maps) + (1 - dice).mean()


def build_finder(config: LocaliserConfig) -> BoxFinder:
    """Return the untrained network of the configured head."""
    return FootprintNet(config) if config.head == "footprint" else LocaliserNet(config)
