"""The training slices, resident on the device, and what one step draws from them."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gan.conditioning import Condition, build_condition, to_gan_range
from gan.config import Pix2PixConfig
from gan.generate import row_noise
from gan.hole import ventricle_hole
from gan.losses import tissue_weight_table
from imaging.labels import LabelSet
from imaging.seeds import derive_seed, random_generator
from imaging.slice_store import SliceStore
from training.compute import Compute


@dataclass(frozen=True)
class Batch:
    """One step's slices.

    Attributes:
        condition: What the generator is given.
        real: (N, 1, H, W) in [-1, 1].
        pixel_weights: (N, 1, H, W) weight of each pixel's tissue.
        ventricle: (N, 1, H, W) 1 inside the ventricle.
    """

    condition: Condition
    real: Tensor
    pixel_weights: Tensor
    ventricle: Tensor

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
        holes: (N, H, W) uint8.
        tissue_weights: (num_classes,).
        labels: The label set of the masks.
        config: The model's configuration.
    """

    images: Tensor
    masks: Tensor
    holes: Tensor
    tissue_weights: Tensor
    labels: LabelSet
    config: Pix2PixConfig

    @classmethod
    def load(cls, training: SliceStore, config: Pix2PixConfig, compute: Compute) -> "ResidentSlices":
        """Read a whole store."""
        masks = training.masks()
        holes = ventricle_hole(masks, config.hole_margin_px)
        parts = (training.images(), masks, holes)
        resident = [torch.from_numpy(np.ascontiguousarray(part)).to(compute.device) for part in parts]
        weights = tissue_weight_table(config.tissue_weights, training.label_set).to(compute.device)
        return cls(resident[0], resident[1], resident[2], weights, training.label_set, config)

    def batch(self, seed: int, step: int) -> Batch:
        """Return a step's slices: which ones and their noise are decided by (seed, step) alone."""
        rows = random_generator(seed, "pix2pix rows", step).integers(len(self.images), size=self.config.batch)
        index = torch.from_numpy(rows).to(self.images.device)
        images = to_gan_range(self.images[index].float()).unsqueeze(1)
        masks, holes = self.masks[index], self.holes[index].float().unsqueeze(1)
        size = (len(rows), self.config.noise_channels, *images.shape[2:])
        noise = row_noise(derive_seed(seed, "pix2pix training noise", step), size).to(images.device)
        condition = build_condition(self.config, self.labels, masks, images, holes, noise)
        weights = self.tissue_weights[masks.long()].unsqueeze(1)
        return Batch(condition, images, weights, (masks > 0).float().unsqueeze(1))
