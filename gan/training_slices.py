"""The training slices, resident on the device, and what one step draws from them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from gan.conditioning import Condition, build_condition, noise_planes, to_gan_range
from gan.config import Pix2PixConfig
from gan.hole import ventricle_distance
from gan.losses import tissue_weight_table
from gan.shades import ShadeBook, own_shades
from gan.synthesiser import row_noise
from gan.window import Windows, windows_around
from imaging.labels import LabelSet
from imaging.seeds import derive_seed, random_generator
from imaging.slice_store import SliceStore
from training.compute import Compute
from training.transfer import send


@dataclass(frozen=True)
class Batch:
    """One step's slices.

    Attributes:
        condition: What the generator is given.
        real: (N, 1, H, W) in [-1, 1].
        pixel_weights: (N, 1, H, W) weight of each pixel's tissue.
        ventricle: (N, 1, H, W) 1 inside the ventricle.
        masks: (N, 1, H, W) label values.
        holes: (N, 1, H, W) 1 around the ventricle.
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
        """Where the losses that need not see the whole slice look; on a GPU, finding it out waits for it."""
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
        distances: (N, H, W) uint8, of each pixel to the ventricle (`gan.hole`).
        tissue_weights: (num_classes,).
        labels: The label set of the masks.
        digest: Of the store that they are from.
        config: The model's configuration.
        crops: The window of each slice that is trained on; None for whole slices.
        shades: What masks borrow their shades from when they are drawn; None without `shades`.
    """

    images: Tensor
    masks: Tensor
    distances: Tensor
    tissue_weights: Tensor
    labels: LabelSet
    digest: str
    config: Pix2PixConfig
    crops: Windows | None = None
    shades: ShadeBook | None = None

    @classmethod
    def load(cls, training: SliceStore, config: Pix2PixConfig, compute: Compute) -> "ResidentSlices":
        """Read a whole store."""
        masks = training.masks()
        distances = ventricle_distance(masks)
        holes = (distances <= config.hole_margin_px).astype(np.uint8)
        parts = (training.images(), masks, distances)
        resident = [torch.from_numpy(np.ascontiguousarray(part)).to(compute.device) for part in parts]
        weights = tissue_weight_table(config.tissue_weights, training.label_set).to(compute.device)
        crops = windows_around(torch.from_numpy(holes).unsqueeze(1), config.crop_px) if config.crop_px else None
        shades = ShadeBook.of(parts[0], masks, holes, training.label_set.num_classes) if config.shades else None
        labels, digest = training.label_set, training.digest
        return cls(resident[0], resident[1], resident[2], weights, labels, digest, config, crops, shades)

    def batch(self, seed: int, step: int) -> Batch:
        """Return a step's slices: which ones, their holes and their noise are decided by (seed, step) alone."""
        rows = random_generator(seed, "pix2pix rows", step).integers(len(self.images), size=self.config.batch)
        images, masks, distances = self._rows(rows)
        images, holes = to_gan_range(images.float()), (distances <= self._margins(seed, step)).float()
        size = (len(rows), noise_planes(self.config), *images.shape[2:])
        noise = send(row_noise(derive_seed(seed, "pix2pix training noise", step), size), images.device)
        shades = own_shades(images, masks[:, 0], self.labels.num_classes) if self.config.shades else None
        condition = build_condition(self.config, self.labels, masks[:, 0], images, holes, noise, shades)
        weights = self.tissue_weights[masks.long()]
        ventricle = (masks > 0).float()
        return Batch(condition, images, weights, ventricle, masks.long(), holes, self.config.detail_px)

    def _margins(self, seed: int, step: int) -> Tensor:
        """Return how far each slice's hole reaches (N, 1, 1, 1)."""
        config = self.config
        more = random_generator(seed, "pix2pix holes", step).integers(config.hole_spread_px + 1, size=config.batch)
        return send(torch.from_numpy(config.hole_margin_px + more).view(-1, 1, 1, 1), self.images.device)

    def _rows(self, rows: NDArray[np.integer]) -> list[Tensor]:
        """Return images, masks and distances (N, 1, H, W) of some rows, cut where training is on windows."""
        index = send(torch.from_numpy(rows), self.images.device)
        parts = [part[index].unsqueeze(1) for part in (self.images, self.masks, self.distances)]
        if self.crops is None:
            return parts
        windows = self.crops.at(rows.tolist())
        return [windows.cut(part) for part in parts]
