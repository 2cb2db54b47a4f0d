"""How bright each tissue is in a slice: the style that a drawing is given, taken from slices of like surroundings.

How bright blood, muscle and scar are depends on dose, inversion time and vendor, not on the mask. A generator that
is not told draws every ventricle in the mean shade. In training it is told the real slice's own shades; when it draws,
a mask borrows those of a training slice which shows the same tissues and whose surroundings of the ventricle look
alike, so that left and right ventricle hold the same blood. The ventricle of the slice that is drawn into is
never looked at.

Where lesions alone are painted, blood and the wall outside the hole are seen, and are their own shades. A lesion's
shade is borrowed as what it is to the lender's wall and blood, so that a scar that outshines the lender's blood by a
tenth of the contrast outshines the recipient's by as much.
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

from common.errors import InputError, one_line
from common.files import write_atomically
from common.seeds import random_generator
from gan.training.config import Paint
from imaging.labels import Tissue

_QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
_REACH_PX = 24  # of the surroundings: the right ventricle, the fat and the lung beside the heart
_BLOCK_SLICES = 256
_LEAST_CONTRAST = 0.02  # of blood over wall, below which a lender's lesion cannot be carried over
_PLAIN = (int(Tissue.NORMAL_MYOCARDIUM), int(Tissue.CAVITY))
_FILE = "shades.safetensors"

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ShadeBook:
    """Shades and surroundings of training slices.

    Attributes:
        shades: (N, C) mean intensity of each label in [0, 1], NaN where a slice does not show it.
        surroundings: (N, 5) quantiles of what surrounds the ventricle, in [0, 1]; of lesions, (N, 2) the shades of
            wall and blood.
    """

    shades: Floats
    surroundings: Floats

    @classmethod
    def of(
        cls,
        images: NDArray[np.floating],
        masks: NDArray[np.uint8],
        holes: NDArray[np.uint8],
        labels: int,
        paint: Paint = "ventricle",
    ) -> "ShadeBook":
        """Read the slices that show a ventricle: images (N, H, W) in [0, 1], masks and holes (N, H, W).

        Raises:
            InputError: None does.
        """
        rows = np.flatnonzero((masks > 0).any(axis=(1, 2)))
        if not len(rows):
            raise InputError(f"none of {len(masks)} training slices shows a ventricle; check the masks and the split")
        blocks = [rows[start : start + _BLOCK_SLICES] for start in range(0, len(rows), _BLOCK_SLICES)]
        shades = np.concatenate([tissue_shades(images[block], masks[block], labels) for block in blocks])
        if paint == "lesion":
            return cls(shades, np.ascontiguousarray(np.nan_to_num(shades[:, _PLAIN], nan=0.5)))
        return cls(shades, np.concatenate([describe_surroundings(images[block], holes[block]) for block in blocks]))

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

    def choose_for_lesions(
        self,
        images: NDArray[np.floating],
        masks: NDArray[np.uint8],
        holes: NDArray[np.uint8],
        seeds: Sequence[int],
        neighbours: int,
    ) -> Floats:
        """Return shades (N, C) for masks (N, H, W) whose lesions are painted into the holes of images (N, H, W).

        Wall and blood have the shades that are seen outside the hole; lesions those of one of the `neighbours`
        slices likest in both, drawn by its seed, relative to them.
        """
        own = tissue_shades(images, np.where((holes > 0) & (masks == Tissue.NORMAL_MYOCARDIUM), 0, masks), self._labels)
        chosen = np.full(own.shape, 0.5, dtype=np.float32)
        for row, (mask, seed) in enumerate(zip(masks, seeds, strict=True)):
            lender = self._lender(np.unique(mask[mask >= Tissue.INFARCT]), own[row, _PLAIN], seed, neighbours)
            chosen[row] = _carried(lender, own[row])
        return chosen

    @property
    def _labels(self) -> int:
        return self.shades.shape[1]

    def _lender(self, lesions: NDArray[np.uint8], plain: Floats, seed: int, neighbours: int) -> Floats:
        """Return the shades (C,) of a slice with all of `lesions` and about the shades `plain` of wall and blood."""
        contrast = self.shades[:, Tissue.CAVITY] - self.shades[:, Tissue.NORMAL_MYOCARDIUM]
        able = np.flatnonzero(np.isfinite(self.shades[:, lesions]).all(axis=1) & (contrast >= _LEAST_CONTRAST))
        if not len(able):
            return np.full(self._labels, np.nan, dtype=np.float32)
        distance = ((self.surroundings[able] - np.nan_to_num(plain, nan=0.5)) ** 2).sum(axis=1)
        nearest = able[np.argsort(distance, kind="stable")[:neighbours]]
        return np.asarray(self.shades[random_generator(seed, "shades").choice(nearest)])


def _carried(lender: Floats, own: Floats) -> Floats:
    """Return the shades (C,) of a slice that lacks its lesions' own: what it shows, and the lender's relative to it."""
    remote, blood = own[[*_PLAIN]]
    shades = lender.copy()
    if np.isfinite(remote) and np.isfinite(blood):
        scale = (blood - remote) / (lender[Tissue.CAVITY] - lender[Tissue.NORMAL_MYOCARDIUM])
        shades = remote + (lender - lender[Tissue.NORMAL_MYOCARDIUM]) * scale
        shades[[*_PLAIN]] = remote, blood
    return np.clip(np.nan_to_num(shades, nan=0.5), 0, 1)


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
        raise InputError(f"{path}: cannot be read ({one_line(error)}); rematerialise pix2pix") from error


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


def seen_labels(masks: Tensor, holes: Tensor) -> Tensor:
    """Return masks (N, 1, H, W) without the wall inside holes (N, 1, H, W): its shade is that of the wall outside."""
    return torch.where((holes > 0) & (masks == int(Tissue.NORMAL_MYOCARDIUM)), torch.zeros_like(masks), masks)


def own_shades(images: Tensor, masks: Tensor, labels: int) -> Tensor:
    """Return the mean intensity (N, labels) in [0, 1] of each label in images (N, 1, H, W) of [-1, 1]; 0.5 without."""
    flat = masks.flatten(1).long()
    size = (len(flat), labels)
    sums = torch.zeros(size, device=images.device).scatter_add_(1, flat, images.flatten(1))
    counts = torch.zeros(size, device=images.device).scatter_add_(1, flat, torch.ones_like(flat, dtype=sums.dtype))
    return (sums / counts.clamp_min(1) + 1) / 2
