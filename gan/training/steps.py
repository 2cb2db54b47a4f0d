"""The networks that a training teaches, and one step of each: discriminator step, reader step, generator step.

Every random choice derives from (seed, purpose, step). What does not live here: rounds of validation,
checkpoints, and which generator is kept (`gan.training.loop`).

What the generator is taught: to fool the discriminator, to stay close to the real slice, to show its mask.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from common.errors import InputError
from common.seeds import derive_seed
from gan.generation.synthesiser import Synthesiser, discriminator_channels, generator_channels
from gan.networks.discriminator import Discriminator, TissueReader, reading_loss
from gan.networks.generator import Generator, blur, together
from gan.training.batches import Batch, ResidentSlices
from gan.training.config import Pix2PixConfig
from gan.training.losses import (
    ADVERSARIAL_LOSSES,
    PerceptualLoss,
    grain_loss,
    region_weighted_l1,
    weighted_mean,
)
from imaging.labels import LabelSet
from runtime.compute import Compute, FabricModule, FabricOptimizer
from runtime.schedules_and_averages import advance, last_rate, schedule, weight_average


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
        if config.grain_weight > 0:
            terms["grain_loss"] = grain_loss(drawing.grain, batch.real, self._tissues(batch) * batch.holes)
            weights.append(config.grain_weight)
        if self.perceptual is not None:
            terms["perceptual_loss"] = self._perceived(batch, drawn, self.perceptual)
            weights.append(config.perceptual_weight)
        if reader is not None:
            terms["reading_loss"] = reading_loss(
                reader(batch.detail.cut(drawn)), batch.detail_masks(), self.tissue_weights, self._read_in(batch)
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

    def _read_in(self, batch: Batch) -> Tensor | None:
        """Return where the tissues shall be read (N, h, w): of a repainted lesion all else is the camera's."""
        return batch.detail.cut(batch.holes)[:, 0] if self.config.paint == "lesion" else None

    def _fooling(self, batch: Batch, logits: list[Tensor]) -> Tensor:
        adversarial = ADVERSARIAL_LOSSES[self.config.adversarial]
        return torch.stack([adversarial.generator(one.float(), batch.patch_weights(one)) for one in logits]).mean()

    def _perceived(self, batch: Batch, drawn: Tensor, perceptual: PerceptualLoss) -> Tensor:
        windows = [batch.detail.cut(images) for images in (drawn, batch.real)]
        with self.compute.fabric.autocast():
            distance: Tensor = perceptual(*windows)
        return distance


_READER_LEARNING_RATE = 1e-3
_BETAS = (0.5, 0.999)  # as published (Isola et al. 2017)


class Players:
    """Generator, its average, discriminator and, where configured, the reader, with their optimisers.

    Args:
        slices: The training set.
        compute: What to run on.
        seed: Seed of weights, batches and dropout.
        vgg16_weights: For the perceptual loss.

    Raises:
        InputError: VGG16's weights are wanted and missing.
    """

    def __init__(self, slices: ResidentSlices, compute: Compute, seed: int, vgg16_weights: Path | None = None):
        self.slices, self.compute, self.seed = slices, compute, seed
        self.config, labels = slices.config, slices.labels
        config = self.config
        self.adversarial = ADVERSARIAL_LOSSES[config.adversarial]
        self.objective = Objective.build(config, slices.tissue_weights, compute, vgg16_weights)
        generator, discriminator = build_networks(config, labels, seed)
        self.average = weight_average(generator, config.average_decay, counted=2)
        self.generator, self.generator_optimiser = self._set_up(generator, config.learning_rate)
        self.discriminator, self.discriminator_optimiser = self._set_up(discriminator, config.learning_rate)
        self.generator_schedule = self._schedule(self.generator_optimiser, config.learning_rate)
        self.discriminator_schedule = self._schedule(self.discriminator_optimiser, config.learning_rate)
        self.reader: FabricModule | None = None
        if config.reader_weight > 0:
            self.reader, self.reader_optimiser = self._set_up(build_reader(labels, seed), _READER_LEARNING_RATE)
        averaged = compute.fabric.setup_module(self.averaged.to(memory_format=compute.memory_format))
        self.synthesiser = Synthesiser(averaged.eval(), config, labels, compute, slices.shades)

    def take_step(self, step: int) -> dict[str, Tensor]:
        """Take one optimiser step of each network and return the losses."""
        for scheduler in (self.generator_schedule, self.discriminator_schedule):
            advance(scheduler, step - 1)
        batch = self.slices.batch(self.seed, step)
        with seeded(derive_seed(self.seed, "pix2pix dropout", step), self.compute.device):
            drawing = self.draw(batch)
            losses = self.discriminator_step(batch, drawing.images.detach()) | self.reader_step(batch)
            losses |= self.generator_step(batch, drawing)
        if self.config.average_decay > 0:
            self.average.update_parameters(self.generator)
        return losses

    def draw(self, batch: Batch) -> Drawing:
        """Draw a batch's slices into their context."""
        parts = self.generator(self._layout(batch.condition.for_generator()), apart=True).float()
        images = batch.condition.place(together(parts), self.config.seam_px)
        if parts.shape[1] == 1 or self.config.grain_weight == 0:
            return Drawing(images, images)
        grain_alone = together(torch.cat([parts[:, :1].detach(), parts[:, 1:]], dim=1))
        return Drawing(images, batch.condition.place(grain_alone, self.config.seam_px))

    def discriminator_step(self, batch: Batch, drawn: Tensor) -> dict[str, Tensor]:
        """Teach the discriminator to tell real patches from drawn ones."""
        given = batch.condition.for_discriminator()
        both = torch.cat([batch.real, drawn])
        scales = self.discriminator(self._layout(torch.cat([given, given])), self._layout(both))
        losses, accuracies = [], []
        for logits in scales:
            on_real, on_drawn = logits.float().chunk(2)
            weights = batch.patch_weights(on_real)
            losses.append(self.adversarial.discriminator(on_real, on_drawn, weights))
            told_apart = 0.5 * ((on_real > on_drawn.mean()).float() + (on_drawn < on_real.mean()).float())
            accuracies.append(weighted_mean(told_apart, weights).detach())
        loss = torch.stack(losses).mean()
        self._descend(loss, self.discriminator_optimiser)
        return {"discriminator_loss": loss.detach(), "discriminator_accuracy": torch.stack(accuracies).mean()}

    def generator_step(self, batch: Batch, drawing: Drawing) -> dict[str, Tensor]:
        """Teach the generator what `gan.training.steps` says, with everything else frozen."""
        judges = [network for network in (self.discriminator, self.reader) if network is not None]
        for network in judges:
            network.requires_grad_(False)
        logits = self.discriminator(self._layout(batch.condition.for_discriminator()), self._layout(drawing.images))
        loss, terms = self.objective(batch, drawing, logits, self.reader)
        self._descend(loss, self.generator_optimiser)
        for network in judges:
            network.requires_grad_(True)
        return {"generator_loss": loss.detach()} | {name: value.detach() for name, value in terms.items()}

    def reader_step(self, batch: Batch) -> dict[str, Tensor]:
        """Teach the reader, if there is one, to read the tissues out of real slices."""
        if self.reader is None:
            return {}
        logits = self.reader(self._layout(batch.detail.cut(batch.real)))
        loss = reading_loss(logits, batch.detail_masks(), self.slices.tissue_weights)
        self._descend(loss, self.reader_optimiser)
        return {"reader_loss": loss.detach()}

    def averaged_generator(self) -> Synthesiser:
        """Return the averaged generator, ready to draw; without averaging, the present one."""
        if self.config.average_decay == 0:
            self.average.update_parameters(self.generator)
        return self.synthesiser

    @property
    def averaged(self) -> nn.Module:
        """The averaged generator."""
        return self.average.module

    @property
    def learning_rate(self) -> float:
        """The generator's present learning rate."""
        return last_rate(self.generator_schedule)

    def parts(self) -> dict[str, Any]:
        """Return what a checkpoint holds, by name; each has `state_dict` and `load_state_dict`."""
        reader = {"reader": self.reader, "reader_optimiser": self.reader_optimiser} if self.reader else {}
        return reader | {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "average": self.average,
            "generator_optimiser": self.generator_optimiser,
            "discriminator_optimiser": self.discriminator_optimiser,
            "generator_schedule": self.generator_schedule,
            "discriminator_schedule": self.discriminator_schedule,
        }

    def _set_up(self, network: nn.Module, learning_rate: float) -> tuple[FabricModule, FabricOptimizer]:
        network = network.to(memory_format=self.compute.memory_format)
        optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate, betas=_BETAS, fused=True)
        return self.compute.fabric.setup(network, optimiser)

    def _descend(self, loss: Tensor, optimiser: FabricOptimizer) -> None:
        optimiser.zero_grad()
        self.compute.fabric.backward(loss)
        optimiser.step()

    def _layout(self, tensor: Tensor) -> Tensor:
        return tensor.contiguous(memory_format=self.compute.memory_format)

    def _schedule(self, optimiser: FabricOptimizer, peak: float) -> LambdaLR:
        """Hold the learning rate, then let it fall to zero in a line over the last share of the steps."""
        steps, share = self.config.steps, self.config.decay_share
        falling = max(1, round(share * steps))
        return schedule(optimiser.optimizer, lambda step: (min(1.0, (steps - step) / falling) if share else 1.0) * peak)


def build_networks(config: Pix2PixConfig, labels: LabelSet, seed: int) -> tuple[Generator, Discriminator]:
    """Return both networks with weights drawn from `seed`."""
    with seeded(derive_seed(seed, "pix2pix weights"), torch.device("cpu")):
        generator = Generator(generator_channels(config, labels), config)
        discriminator = Discriminator(discriminator_channels(config, labels), config)
    return generator, discriminator


def build_reader(labels: LabelSet, seed: int) -> TissueReader:
    """Return the reader with weights drawn from `seed`."""
    with seeded(derive_seed(seed, "pix2pix reader weights"), torch.device("cpu")):
        return TissueReader(labels.num_classes)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's own generators, which dropout and initialisation use, and give them back as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
