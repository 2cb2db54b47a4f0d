"""The training slices, resident on the device, and what one step draws from them.

Square windows around the hole, where a loss or a training step need not see the whole slice.

The holes that a generator of lesions learns to fill: lesions' own, and pseudo-lesions in healthy wall.

A slice's own lesion is painted again, and wall from which the shape of another slice's lesion was cut is painted
again as the wall that it is: so the generator can paint a lesion, and the wall where one was.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from common.errors import InputError
from common.seeds import derive_seed, random_generator
from gan.generation.hole import lesion_hole, ventricle_distance
from gan.generation.shades import ShadeBook, own_shades, seen_labels
from gan.generation.synthesiser import Condition, build_condition, noise_planes, row_noise, to_gan_range
from gan.simulator.anatomy import Anatomy, read_anatomy
from gan.simulator.lesions import roll_up, unroll
from gan.training.config import Pix2PixConfig
from gan.training.losses import tissue_weight_table
from imaging.labels import LabelSet, Tissue
from imaging.slices.store import SliceStore
from runtime.compute import Compute, send

VARIANTS = 8  # one bit each of the byte that a pixel takes
_FEWEST_PX = 12  # of a pseudo-lesion
_TRIES = 4

Labels = NDArray[np.uint8]


def training_holes(masks: Labels, config: Pix2PixConfig, seed: int) -> NDArray[np.uint8]:
    """Return the holes (N, H, W) of label maps (N, H, W): bit `v` of a pixel tells whether variant `v` holds it.

    Even variants of a slice with a lesion hold that lesion alone; all others hold a pseudo-lesion as well. Each has a
    margin of its own within the wall. A slice whose wall bears no lesion has no hole, and one whose lesion cannot be
    seen in wall coordinates has holes in even variants alone.

    Raises:
        InputError: No slice has a lesion whose shape can be lent, or none has all its holes.
    """
    read = [read_anatomy(mask) for mask in masks]
    anatomies = [anatomy if anatomy is not None and anatomy.bears_lesions else None for anatomy in read]
    shapes = [
        unroll(anatomy, mask[anatomy.box])
        for anatomy, mask in zip(anatomies, masks, strict=True)
        if anatomy is not None and (mask >= Tissue.INFARCT).any()
    ]
    if not shapes:
        raise InputError(
            f"none of {len(masks)} training slices shows a lesion in a wall around a cavity, which "
            "pix2pix.paint=lesion learns from; use pix2pix.paint=ventricle, or add patients with infarct"
        )
    holes = np.zeros(masks.shape, dtype=np.uint8)
    for row, (mask, anatomy) in enumerate(zip(masks, anatomies, strict=True)):
        rng = random_generator(seed, "pix2pix lesion holes", row)
        for variant in range(VARIANTS):
            holes[row] |= _hole(mask, anatomy, shapes, variant, config, rng) << variant
    if not complete_rows(holes).any():
        raise InputError(f"none of {len(masks)} training slices has wall enough for a hole; check the masks")
    return holes


def complete_rows(holes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which slices (N,) have a hole in every variant: those that can be trained on."""
    return np.bitwise_or.reduce(holes, axis=(1, 2)) == 2**VARIANTS - 1


def _hole(
    mask: Labels,
    anatomy: Anatomy | None,
    shapes: list[Labels],
    variant: int,
    config: Pix2PixConfig,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    region = mask >= Tissue.INFARCT
    if anatomy is not None and (variant % 2 or not region.any()):
        region[anatomy.box] |= draw_pseudo_lesion(anatomy, shapes, rng)
    margin = config.hole_margin_px + int(rng.integers(config.hole_spread_px + 1))
    return lesion_hole(region, mask >= Tissue.NORMAL_MYOCARDIUM, margin)


def draw_pseudo_lesion(anatomy: Anatomy, shapes: list[Labels], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return where in an anatomy's crop (h, w) one of some unrolled lesions comes to lie, turned by any angle."""
    for _ in range(_TRIES):
        shape = shapes[rng.integers(len(shapes))]
        found = roll_up(shape, anatomy, float(rng.uniform(0, 2 * np.pi))) >= Tissue.INFARCT
        if found.sum() >= _FEWEST_PX:
            break
    return np.asarray(found)


@dataclass(frozen=True)
class Windows:
    """Where one batch's windows lie.

    Attributes:
        tops: (N,) first rows.
        lefts: (N,) first columns.
        size_px: Height and width.
    """

    tops: Tensor
    lefts: Tensor
    size_px: int

    def cut(self, images: Tensor) -> Tensor:
        """Return the windows (N, C, size, size) of images (N, C, H, W)."""
        count, channels, _, width = images.shape
        along = torch.arange(self.size_px, device=images.device)
        rows, columns = ((starts.unsqueeze(1) + along) for starts in (self.tops, self.lefts))  # (N, size)
        bands = images.gather(2, rows.view(count, 1, -1, 1).expand(-1, channels, -1, width))
        return bands.gather(3, columns.view(count, 1, 1, -1).expand(-1, channels, self.size_px, -1))

    def at(self, rows: Tensor) -> "Windows":
        """Return the windows of some rows."""
        return Windows(self.tops[rows], self.lefts[rows], self.size_px)

    def to(self, device: torch.device) -> "Windows":
        """Return the same windows, known to a device."""
        return Windows(self.tops.to(device), self.lefts.to(device), self.size_px)


def windows_around(holes: Tensor, size_px: int) -> Windows:
    """Return windows centred on the middle of each hole (N, 1, H, W), moved inwards where they cross the border.

    A slice without a hole has its window in the middle. Windows are never larger than the slice.
    """
    size = min(size_px, *holes.shape[-2:])
    return Windows(_starts(holes.amax(dim=(1, 3)), size), _starts(holes.amax(dim=(1, 2)), size), size)


def _starts(occupied: Tensor, size: int) -> Tensor:
    """Return (N,) where windows of `size` begin that are centred on what is occupied, (N, L) of 0 and 1."""
    occupied = occupied.float()
    length, count = occupied.shape[1], occupied.sum(dim=1)
    places = torch.arange(length, dtype=torch.float32, device=occupied.device)
    middle = (occupied * places).sum(dim=1) / count.clamp_min(1)
    middle = torch.where(count > 0, middle, torch.full_like(middle, (length - 1) / 2))
    return (middle - (size - 1) / 2).round().clamp(0, length - size).long()


@dataclass(frozen=True)
class Batch:
    """One step's slices.

    Attributes:
        condition: What the generator is given.
        real: (N, 1, H, W) in [-1, 1].
        pixel_weights: (N, 1, H, W) weight of each pixel's tissue.
        ventricle: (N, 1, H, W) 1 inside the ventricle.
        masks: (N, 1, H, W) label values.
        holes: (N, 1, H, W) 1 where is drawn.
        detail_px: Side of the windows that the losses of details look at.
    """

    condition: Condition
    real: Tensor
    pixel_weights: Tensor
    ventricle: Tensor
    masks: Tensor
    holes: Tensor
    detail_px: int

    @cached_property
    def detail(self) -> Windows:
        """Where the losses that need not see the whole slice look."""
        return windows_around(self.holes, self.detail_px)

    def detail_masks(self) -> Tensor:
        """Return the label values (N, h, w) of the detail windows."""
        return self.detail.cut(self.masks)[:, 0]

    def patch_weights(self, logits: Tensor) -> Tensor:
        """Weigh only patches that see the hole: elsewhere real and drawn are the same pixels."""
        if self.condition.hole is None:
            return torch.ones_like(logits)
        return F.adaptive_max_pool2d(self.condition.hole, list(logits.shape[2:]))


@dataclass(frozen=True)
class ResidentSlices:
    """A training set resident on the device.

    Attributes:
        images: (N, H, W) float16 in [0, 1].
        masks: (N, H, W) uint8.
        places: (N, H, W) uint8 from which holes are made: the distance of each pixel to the ventricle
        (`gan.generation.hole`),
            or the holes of lesions (`gan.training.batches`).
        rows: Which slices are trained on.
        tissue_weights: (num_classes,).
        labels: The label set of the masks.
        digest: Of the store that they are from.
        config: The model's configuration.
        crops: The window of each slice that is trained on; None for whole slices.
        shades: What masks borrow their shades from when they are drawn; None without `shades`.
    """

    images: Tensor
    masks: Tensor
    places: Tensor
    rows: NDArray[np.integer]
    tissue_weights: Tensor
    labels: LabelSet
    digest: str
    config: Pix2PixConfig
    crops: Windows | None = None
    shades: ShadeBook | None = None

    @classmethod
    def load(cls, training: SliceStore, config: Pix2PixConfig, compute: Compute, seed: int = 0) -> "ResidentSlices":
        """Read a whole store; `seed` decides the holes of lesions.

        Raises:
            InputError: There is nothing to paint.
        """
        masks = training.masks()
        distances, rows = ventricle_distance(masks), np.arange(len(masks))
        ventricles, places = (distances <= config.hole_margin_px).astype(np.uint8), distances
        if config.paint == "lesion":
            places = training_holes(masks, config, seed)
            rows = np.flatnonzero(complete_rows(places))
        parts = (training.images(), masks, places)
        resident = [torch.from_numpy(np.ascontiguousarray(part)).to(compute.device) for part in parts]
        weights = tissue_weight_table(config.tissue_weights, training.label_set).to(compute.device)
        around = torch.from_numpy(ventricles).unsqueeze(1)
        crops = windows_around(around, config.crop_px).to(compute.device) if config.crop_px else None
        labels, digest = training.label_set, training.digest
        shades = ShadeBook.of(parts[0], masks, ventricles, labels.num_classes, config.paint) if config.shades else None
        return cls(resident[0], resident[1], resident[2], rows, weights, labels, digest, config, crops, shades)

    def batch(self, seed: int, step: int) -> Batch:
        """Return a step's slices: which ones, their holes and their noise are decided by (seed, step) alone."""
        drawn = random_generator(seed, "pix2pix rows", step).integers(len(self.rows), size=self.config.batch)
        rows = self.rows[drawn]
        images, masks, places = self._rows(rows)
        images, holes = to_gan_range(images.float()), self._holes(places, seed, step)
        size = (len(rows), noise_planes(self.config), *images.shape[2:])
        noise = send(row_noise(derive_seed(seed, "pix2pix training noise", step), size), images.device)
        shades = self._shades(images, masks, holes) if self.config.shades else None
        condition = build_condition(self.config, self.labels, masks[:, 0], images, holes, noise, shades)
        weights = self.tissue_weights[masks.long()]
        ventricle = (masks > 0).float()
        return Batch(condition, images, weights, ventricle, masks.long(), holes, self.config.detail_px)

    def _holes(self, places: Tensor, seed: int, step: int) -> Tensor:
        """Return each slice's hole (N, 1, H, W): the ventricle with a margin, or one of its variants."""
        config, rng = self.config, random_generator(seed, "pix2pix holes", step)
        choices = VARIANTS if config.paint == "lesion" else config.hole_spread_px + 1
        drawn = send(torch.from_numpy(rng.integers(choices, size=config.batch)).view(-1, 1, 1, 1), places.device)
        if config.paint == "lesion":
            return (places.long() >> drawn & 1).float()
        return (places <= config.hole_margin_px + drawn).float()

    def _shades(self, images: Tensor, masks: Tensor, holes: Tensor) -> Tensor:
        labels = masks if self.config.paint == "ventricle" else seen_labels(masks, holes)
        return own_shades(images, labels[:, 0], self.labels.num_classes)

    def _rows(self, rows: NDArray[np.integer]) -> list[Tensor]:
        """Return images, masks and places of holes (N, 1, H, W) of some rows, cut where training is on windows."""
        index = send(torch.from_numpy(rows), self.images.device)
        parts = [part[index].unsqueeze(1) for part in (self.images, self.masks, self.places)]
        if self.crops is None:
            return parts
        windows = self.crops.at(index)
        return [windows.cut(part) for part in parts]
