"""How bright each tissue is in a slice: the style that a drawing is given, taken from slices of like surroundings.

How bright blood, muscle and scar are depends on dose, inversion time and vendor, not on the mask. A generator that
is not told draws every ventricle in the mean shade. In training it is told the real slice's own shades; when it draws,
a mask borrows those of a training slice which shows the same tissues and whose surroundings of the ventricle look
alike, so that left and right ventricle hold the same blood. The ventricle of the slice that is drawn into is
never looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.errors import InputError
from common.files import write_atomically
from common.seeds import random_generator

_QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
_REACH_PX = 24  # of the surroundings: the right ventricle, the fat and the lung beside the heart
_BLOCK_SLICES = 256
_FILE = "shades.safetensors"

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ShadeBook:
    """Shades and surroundings of training slices.

    Attributes:
        shades: (N, C) mean intensity of each label in [0, 1], NaN where a slice does not show it.
        surroundings: (N, 5) quantiles of what surrounds the ventricle, in [0, 1].
    """

    shades: Floats
    surroundings: Floats

    @classmethod
    def of(
        cls, images: NDArray[np.floating], masks: NDArray[np.uint8], holes: NDArray[np.uint8], labels: int
    ) -> "ShadeBook":
        """Read the slices that show a ventricle: images (N, H, W) in [0, 1], masks and holes (N, H, W).

        Raises:
            InputError: None does.
        """
        rows = np.flatnonzero((masks > 0).any(axis=(1, 2)))
        if not len(rows):
            raise InputError(f"none of {len(masks)} training slices shows a ventricle; check the masks and the split")
        blocks = [rows[start : start + _BLOCK_SLICES] for start in range(0, len(rows), _BLOCK_SLICES)]
        return cls(
            np.concatenate([tissue_shades(images[block], masks[block], labels) for block in blocks]),
            np.concatenate([describe_surroundings(images[block], holes[block]) for block in blocks]),
        )

    def choose(
        self,
        images: NDArray[np.floating],
        masks: NDArray[np.uint8],
        holes: NDArray[np.uint8],
        seeds: Sequence[int],
        neighbours: int,
    ) -> Floats:
        """Return shades (N, C) for masks (N, H, W) that are drawn into images (N, H, W) with holes (N, H, W).

        Each mask takes all its shades from one of the `neighbours` likest slices, drawn by its seed, that show its
        tissues; 0.5 where no slice does.
        """
        spread = self.surroundings.std(axis=0) + 1e-6
        described = describe_surroundings(images, holes)
        chosen = np.full((len(masks), self.shades.shape[1]), 0.5, dtype=np.float32)
        for row, (mask, place, seed) in enumerate(zip(masks, described, seeds, strict=True)):
            wanted = np.unique(mask[mask > 0])
            able = np.flatnonzero(np.isfinite(self.shades[:, wanted]).all(axis=1))
            if not len(able):
                able = np.arange(len(self.shades))
            distance = (((self.surroundings[able] - place) / spread) ** 2).sum(axis=1)
            nearest = able[np.argsort(distance, kind="stable")[:neighbours]]
            taken = self.shades[random_generator(seed, "shades").choice(nearest)]
            chosen[row] = np.where(np.isfinite(taken), taken, chosen[row])
        return chosen


def write_shades(folder: Path, book: ShadeBook) -> None:
    """Write a book into a model folder."""
    tensors = {"shades": torch.from_numpy(book.shades), "surroundings": torch.from_numpy(book.surroundings)}
    write_atomically(folder / _FILE, lambda part: save_file(tensors, part))


def read_shades(folder: Path) -> ShadeBook:
    """Read a model folder's book.

    Raises:
        InputError: The file is absent or not one.
    """
    path = folder / _FILE
    try:
        tensors = load_file(path)
        return ShadeBook(tensors["shades"].numpy(), tensors["surroundings"].numpy())
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(f"{path}: cannot be read ({error}); rematerialise pix2pix") from error


def tissue_shades(images: NDArray[np.floating], masks: NDArray[np.uint8], labels: int) -> Floats:
    """Return the mean intensity (N, labels) of each label in images (N, H, W); NaN where a mask lacks it."""
    shades = np.full((len(images), labels), np.nan, dtype=np.float32)
    for label in range(labels):
        inside = masks == label
        counts = inside.sum(axis=(1, 2))
        sums = np.where(inside, images, 0).sum(axis=(1, 2), dtype=np.float64)
        np.divide(sums, counts, out=shades[:, label], where=counts > 0, casting="unsafe")
    return shades


def describe_surroundings(images: NDArray[np.floating], holes: NDArray[np.uint8]) -> Floats:
    """Return the quantiles (N, 5) of what lies outside the hole and within 24 px of its box; zeros without a hole."""
    described = np.zeros((len(images), len(_QUANTILES)), dtype=np.float32)
    for row, (image, hole) in enumerate(zip(images, holes, strict=True)):
        if not hole.any():
            continue
        box = tuple(
            slice(max(0, inside[0] - _REACH_PX), inside[-1] + _REACH_PX + 1)
            for inside in (np.flatnonzero(hole.any(axis=1 - axis)) for axis in (0, 1))
        )
        around = image[box][hole[box] == 0]
        if len(around):
            described[row] = np.quantile(around.astype(np.float32), _QUANTILES)
    return described


def paint_shades(masks: Tensor, shades: Tensor) -> Tensor:
    """Return each pixel's shade (N, 1, H, W) in [-1, 1] for masks (N, H, W) and shades (N, C); 0 outside."""
    painted = torch.gather(shades * 2 - 1, 1, masks.flatten(1).long()).view(masks.shape)
    return (painted * (masks > 0)).unsqueeze(1)


def own_shades(images: Tensor, masks: Tensor, labels: int) -> Tensor:
    """Return the mean intensity (N, labels) in [0, 1] of each label in images (N, 1, H, W) of [-1, 1]; 0.5 without."""
    flat = masks.flatten(1).long()
    size = (len(flat), labels)
    sums = torch.zeros(size, device=images.device).scatter_add_(1, flat, images.flatten(1))
    counts = torch.zeros(size, device=images.device).scatter_add_(1, flat, torch.ones_like(flat, dtype=sums.dtype))
    return (sums / counts.clamp_min(1) + 1) / 2
