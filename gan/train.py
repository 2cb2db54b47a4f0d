"""Training Pix2Pix: discriminator step, generator step, validate, save.

Every random choice derives from (seed, purpose, step), so a training that was killed continues exactly where
its last checkpoint was. The generator that is kept is the averaged one of the round with the best
*validation* measure, see `validation_figures`.
"""

import copy
import logging
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning_fabric.wrappers import _FabricModule, _FabricOptimizer
from numpy.typing import NDArray
from torch import Tensor, nn

from gan.conditioning import discriminator_channels, generator_channels
from gan.config import Pix2PixConfig
from gan.discriminator import Discriminator
from gan.generate import Synthesiser
from gan.generator import Generator
from gan.losses import ADVERSARIAL_LOSSES, region_weighted_l1, structural_similarity, weighted_mean
from gan.training_slices import Batch, ResidentSlices
from gan.validation import ValidationSlices, validation_figures
from gan.watch import name_troubles, require_finite
from imaging.errors import InputError
from imaging.labels import LabelSet
from imaging.progress import track
from imaging.seeds import derive_seed
from imaging.slice_store import SliceStore
from training.checkpoint import load_checkpoint, save_checkpoint
from training.compute import Compute
from training.files import write_atomically
from training.model_folder import write_model_folder
from training.report import Report

_LOG = logging.getLogger(__name__)
# Losses are read from the device this often: each reading waits for it.
_STEPS_BETWEEN_CHECKS = 25


@dataclass(frozen=True)
class Pix2PixResult:
    """What a training reached.

    Attributes:
        folder: The model folder.
        selected_step: The step whose averaged generator was kept.
        validation: Figures of that round, see `validation_figures`.
        troubles: Names of the troubles seen, in the order in which they first came.
    """

    folder: Path
    selected_step: int
    validation: Mapping[str, float]
    troubles: tuple[str, ...]


def train_pix2pix(
    training: SliceStore,
    validation_images: NDArray[np.floating],
    validation_masks: NDArray[np.uint8],
    config: Pix2PixConfig,
    compute: Compute,
    folder: Path,
    seed: int,
    report: Report,
    card: Mapping[str, Any],
) -> Pix2PixResult:
    """Train Pix2Pix, or continue the training whose checkpoint lies in `folder`.

    Args:
        training: Slices of training patients.
        validation_images: (N, H, W) in [0, 1], slices of validation patients.
        validation_masks: (N, H, W).
        config: The network and its training.
        compute: What to run on.
        folder: The model folder to write.
        seed: Seed of every random choice.
        report: Called at every validation round.
        card: Written into `model_card.json` together with the result.

    Raises:
        InputError: No validation slice shows a ventricle, or a checkpoint belongs to another configuration.
        TrainingDivergedError: A loss was not finite.
    """
    slices = ResidentSlices.load(training, config, compute)
    validation = ValidationSlices.choose(validation_images, validation_masks, config)
    run = _Training(slices, validation, compute, folder, seed)
    run.restore()
    for step in track(range(run.step + 1, config.steps + 1), "training pix2pix (steps)"):
        run.take_step(step)
        if step % config.validate_every == 0 or step == config.steps:
            figures = run.validate()
            run.save()
            report(step, figures)
    return run.finish(card)


class _Training:
    """The state of a training and its steps."""

    def __init__(
        self,
        slices: ResidentSlices,
        validation: ValidationSlices,
        compute: Compute,
        folder: Path,
        seed: int,
    ):
        self.slices, self.validation = slices, validation
        self.compute, self.folder, self.seed = compute, folder, seed
        self.config, self.labels = config, labels = slices.config, slices.labels
        generator, discriminator = build_networks(config, labels, seed)
        self.averaged = copy.deepcopy(generator).requires_grad_(False).eval()
        self.generator, self.generator_optimiser = self._set_up(generator, config.learning_rate)
        self.discriminator, self.discriminator_optimiser = self._set_up(
            discriminator, config.discriminator_learning_rate
        )
        averaged = compute.fabric.setup_module(self.averaged.to(memory_format=compute.memory_format))
        self.synthesiser = Synthesiser(averaged.eval(), config, labels, compute)
        self.adversarial = ADVERSARIAL_LOSSES[config.adversarial]
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.troubles: list[str] = []
        self.best: dict[str, Any] = {"selection": -math.inf}
        self._begin_round()

    def take_step(self, step: int) -> None:
        """Take one optimiser step of each network."""
        self.step = step
        self._set_learning_rates()
        batch = self.slices.batch(self.seed, step)
        with _seeded(derive_seed(self.seed, "pix2pix dropout", step), self.compute.device):
            drawn = self._draw(batch)
            losses = self.discriminator_step(batch, drawn.detach()) | self.generator_step(batch, drawn)
        self._follow_average()
        self._note(losses)

    def discriminator_step(self, batch: Batch, drawn: Tensor) -> dict[str, Tensor]:
        """Teach the discriminator to tell real patches from drawn ones."""
        given = batch.condition.for_discriminator()
        both = torch.cat([batch.real, drawn])
        logits = self.discriminator(self._layout(torch.cat([given, given])), self._layout(both)).float()
        on_real, on_drawn = logits.chunk(2)
        weights = batch.patch_weights(on_real)
        loss = self.adversarial.discriminator(on_real, on_drawn, weights)
        self._descend(loss, self.discriminator_optimiser)
        told_apart = 0.5 * ((on_real > on_drawn.mean()).float() + (on_drawn < on_real.mean()).float())
        accuracy = weighted_mean(told_apart, weights)
        return {"discriminator_loss": loss.detach(), "discriminator_accuracy": accuracy.detach()}

    def generator_step(self, batch: Batch, drawn: Tensor) -> dict[str, Tensor]:
        """Teach the generator to fool the frozen discriminator and to stay close to the real slice."""
        config = self.config
        self.discriminator.requires_grad_(False)
        logits = self.discriminator(self._layout(batch.condition.for_discriminator()), self._layout(drawn)).float()
        adversarial = self.adversarial.generator(logits, batch.patch_weights(logits))
        l1 = region_weighted_l1(drawn, batch.real, batch.pixel_weights, batch.condition.hole)
        loss = config.adversarial_weight * adversarial + config.l1_weight * l1
        if config.structure_weight > 0:
            similarity = structural_similarity((drawn + 1) / 2, (batch.real + 1) / 2)
            loss = loss + config.structure_weight * (1 - weighted_mean(similarity, batch.ventricle))
        self._descend(loss, self.generator_optimiser)
        self.discriminator.requires_grad_(True)
        parts = {"generator_loss": loss, "adversarial_loss": adversarial, "l1_loss": l1}
        return {name: value.detach() for name, value in parts.items()}

    def validate(self) -> dict[str, float]:
        """Draw the validation slices again, keep the generator if it is the best so far, name troubles."""
        figures = self._round_figures() | validation_figures(self.synthesiser, self.validation, self.seed)
        require_finite(self.step, figures, self.history[-1] if self.history else {})
        for trouble in name_troubles(figures, self.history):
            _LOG.warning("pix2pix, step %d: %s (%s)", self.step, trouble, _as_text(figures))
            if trouble not in self.troubles:
                self.troubles.append(trouble)
        self.history.append({"step": float(self.step)} | figures)
        if figures["selection"] > self.best["selection"]:
            self.best = {
                "selection": figures["selection"],
                "step": self.step,
                "figures": figures,
                "weights": {name: tensor.clone() for name, tensor in self.averaged.state_dict().items()},
            }
        self._begin_round()
        return figures

    def save(self) -> None:
        """Write the checkpoint and the history so far."""
        state = {name: part.state_dict() for name, part in self._parts().items()}
        rest = {"step": self.step, "history": self.history, "troubles": self.troubles, "best": self.best}
        save_checkpoint(self.folder / "checkpoint", self.config, state | rest | {"seed": self.seed})
        table = pd.DataFrame(self.history)
        write_atomically(self.folder / "history.csv", lambda part: table.to_csv(part, index=False))

    def restore(self) -> None:
        """Continue from the checkpoint, if there is one."""
        state = load_checkpoint(self.folder / "checkpoint", self.config)
        if state is None:
            return
        if state["seed"] != self.seed:
            raise InputError(
                f"{self.folder}: its checkpoint was made with seed {state['seed']}, not {self.seed}; "
                "restore that seed or delete the folder to start again"
            )
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.step, self.history = state["step"], state["history"]
        self.troubles, self.best = state["troubles"], state["best"]

    def finish(self, card: Mapping[str, Any]) -> Pix2PixResult:
        """Write the model folder and delete the checkpoint."""
        best = self.best
        own = {
            "network": "pix2pix",
            "label_set": self.labels.name,
            "region_px": int(self.slices.masks.shape[-1]),
            "selected_step": best["step"],
            "parameters": sum(parameter.numel() for parameter in self.averaged.parameters()),
            "validation": best["figures"],
            "troubles": self.troubles,
        }
        write_model_folder(self.folder, best["weights"], self.config, {**card, **own})
        shutil.rmtree(self.folder / "checkpoint", ignore_errors=True)
        return Pix2PixResult(self.folder, best["step"], best["figures"], tuple(self.troubles))

    def _set_up(self, network: nn.Module, learning_rate: float) -> tuple[_FabricModule, _FabricOptimizer]:
        network = network.to(memory_format=self.compute.memory_format)
        optimiser = torch.optim.Adam(
            network.parameters(), lr=learning_rate, betas=(self.config.beta1, 0.999), foreach=True
        )
        return self.compute.fabric.setup(network, optimiser)

    def _parts(self) -> dict[str, Any]:
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "averaged": self.averaged,
            "generator_optimiser": self.generator_optimiser,
            "discriminator_optimiser": self.discriminator_optimiser,
        }

    def _draw(self, batch: Batch) -> Tensor:
        drawn = self.generator(self._layout(batch.condition.for_generator())).float()
        return batch.condition.place(drawn, self.config.seam_px)

    def _descend(self, loss: Tensor, optimiser: _FabricOptimizer) -> None:
        optimiser.zero_grad()
        self.compute.fabric.backward(loss)
        optimiser.step()

    def _layout(self, tensor: Tensor) -> Tensor:
        return tensor.contiguous(memory_format=self.compute.memory_format)

    def _set_learning_rates(self) -> None:
        """Hold the learning rates, then let them fall to zero in a line over the last share of the steps."""
        config = self.config
        falling = max(1, round(config.decay_share * config.steps))
        factor = min(1.0, (config.steps - self.step + 1) / falling) if config.decay_share else 1.0
        self.generator_optimiser.param_groups[0]["lr"] = factor * config.learning_rate
        self.discriminator_optimiser.param_groups[0]["lr"] = factor * config.discriminator_learning_rate

    @torch.no_grad()
    def _follow_average(self) -> None:
        """Move the averaged weights and statistics towards the present ones, faster at the beginning."""
        decay = min(self.config.average_decay, (1 + self.step) / (10 + self.step))
        decay = decay if self.config.average_decay > 0 else 0.0
        present = self.generator.state_dict()
        for name, average in self.averaged.state_dict().items():
            if average.is_floating_point():
                average.lerp_(present[name], 1 - decay)
            else:
                average.copy_(present[name])

    def _begin_round(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._round_steps = 0
        self._round_start = time.monotonic()

    def _note(self, losses: Mapping[str, Tensor]) -> None:
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
        self._round_steps += 1
        if self.step % _STEPS_BETWEEN_CHECKS == 0:
            now = {name: float(value) for name, value in losses.items()}
            require_finite(self.step, now, self.history[-1] if self.history else {})

    def _round_figures(self) -> dict[str, float]:
        figures = {name: float(value) / self._round_steps for name, value in self._sums.items()}
        seconds = time.monotonic() - self._round_start
        figures["learning_rate"] = self.generator_optimiser.param_groups[0]["lr"]
        figures["images_per_s"] = self._round_steps * self.config.batch / max(seconds, 1e-9)
        return figures


def build_networks(config: Pix2PixConfig, labels: LabelSet, seed: int) -> tuple[Generator, Discriminator]:
    """Return both networks with weights drawn from `seed`."""
    with _seeded(derive_seed(seed, "pix2pix weights"), torch.device("cpu")):
        generator = Generator(generator_channels(config, labels), config)
        discriminator = Discriminator(discriminator_channels(config, labels), config)
    return generator, discriminator


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's own generators, which dropout and initialisation use, and give them back as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _as_text(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
