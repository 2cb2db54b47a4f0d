"""What the generator is taught: to fool the discriminator, to stay close to the real slice, to show its mask."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan.blur import blur
from gan.config import Pix2PixConfig
from gan.grain import grain_loss
from gan.losses import ADVERSARIAL_LOSSES, region_weighted_l1, structural_similarity, weighted_mean
from gan.perceptual_loss import PerceptualLoss
from gan.tissue_reader import reading_loss
from gan.training_slices import Batch
from imaging.errors import InputError
from training.compute import Compute


@dataclass(frozen=True)
class Drawing:
    """A batch as drawn.

    Attributes:
        images: (N, 1, H, W) in [-1, 1].
        grain: The same values, through which gradients reach the grain alone where it is laid on by itself: a
            drawing that could lower `grain_loss` would weave a regular pattern.
    """

    images: Tensor
    grain: Tensor


@dataclass(frozen=True)
class Objective:
    """The generator's loss, a weighted sum of terms; a term of no weight is not computed.

    Attributes:
        config: The weights.
        tissue_weights: (num_classes,) of the reading loss.
        compute: What it is computed on.
        perceptual: VGG16's features; None without `perceptual_weight`.
    """

    config: Pix2PixConfig
    tissue_weights: Tensor
    compute: Compute
    perceptual: PerceptualLoss | None

    @classmethod
    def build(cls, config: Pix2PixConfig, tissue_weights: Tensor, compute: Compute, vgg16: Path | None) -> "Objective":
        """Load what the terms need.

        Raises:
            InputError: `perceptual_weight` is above 0 and no weights are given, or they cannot be read.
        """
        if config.perceptual_weight == 0:
            return cls(config, tissue_weights, compute, None)
        if vgg16 is None:
            raise InputError(
                f"pix2pix.perceptual_weight={config.perceptual_weight:g} needs VGG16's weights and none are given; "
                "name a safetensors file with features.* keys (quality.vgg16_weights) or set the weight to 0"
            )
        loss = PerceptualLoss(vgg16).to(compute.device).to(memory_format=compute.memory_format)
        return cls(config, tissue_weights, compute, loss)

    def __call__(
        self, batch: Batch, drawing: Drawing, logits: list[Tensor], reader: nn.Module | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its terms, unweighted.

        Args:
            batch: The step's slices.
            drawing: What the generator drew.
            logits: What the discriminator says of it, one (N, 1, h, w) a scale.
            reader: Reads tissues out of slices; None without `reader_weight`.
        """
        config, drawn = self.config, drawing.images
        terms = {
            "adversarial_loss": self._fooling(batch, logits),
            "l1_loss": self._distance(batch, drawn),
        }
        weights = [config.adversarial_weight, config.l1_weight]
        if config.structure_weight > 0:
            similarity = structural_similarity((drawn + 1) / 2, (batch.real + 1) / 2)
            terms["structure_loss"] = 1 - weighted_mean(similarity, batch.ventricle)
            weights.append(config.structure_weight)
        if config.grain_weight > 0:
            terms["grain_loss"] = grain_loss(drawing.grain, batch.real, self._tissues(batch))
            weights.append(config.grain_weight)
        if self.perceptual is not None:
            terms["perceptual_loss"] = self._perceived(batch, drawn, self.perceptual)
            weights.append(config.perceptual_weight)
        if reader is not None:
            terms["reading_loss"] = reading_loss(
                reader(batch.detail.cut(drawn)), batch.detail_masks(), self.tissue_weights
            )
            weights.append(config.reader_weight)
        loss = torch.stack([weight * term for weight, term in zip(weights, terms.values(), strict=True)]).sum()
        return loss, terms

    def _distance(self, batch: Batch, drawn: Tensor) -> Tensor:
        real, sigma = batch.real, self.config.l1_blur_px
        if sigma > 0:
            drawn, real = blur(torch.cat([drawn, real]), sigma).chunk(2)
        return region_weighted_l1(drawn, real, batch.pixel_weights, batch.condition.hole)

    def _tissues(self, batch: Batch) -> Tensor:
        """Return the ventricle's tissues (N, C - 1, H, W): what is fine around it is edges, not grain."""
        return F.one_hot(batch.masks[:, 0], len(self.tissue_weights)).permute(0, 3, 1, 2)[:, 1:].float()

    def _fooling(self, batch: Batch, logits: list[Tensor]) -> Tensor:
        adversarial = ADVERSARIAL_LOSSES[self.config.adversarial]
        return torch.stack([adversarial.generator(one.float(), batch.patch_weights(one)) for one in logits]).mean()

    def _perceived(self, batch: Batch, drawn: Tensor, perceptual: PerceptualLoss) -> Tensor:
        windows = [batch.detail.cut(images) for images in (drawn, batch.real)]
        with self.compute.fabric.autocast():
            distance: Tensor = perceptual(*windows)
        return distance
