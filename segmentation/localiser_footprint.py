"""A small U-Net that maps the ventricle in a slice, and its footprint: the projection of the ventricle over all slices.

Every pixel is a lesson, so that a few patients suffice, and what moves in the image moves in the map. How far a
ventricle reaches is best seen where it is widest; where it is, every slice can tell.
"""

from itertools import pairwise

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from segmentation.localiser_config import LocaliserConfig
from segmentation.localiser_finder import BoxFinder, Targets, double_convolution
from segmentation.localiser_map import box_of_map

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
