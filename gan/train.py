"""Training Pix2Pix: step, validate, save; a killed training continues exactly where its last checkpoint was.

The generator that is kept is the averaged one of the round with the best *validation* measure, see
`validation_figures`.
"""

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from gan.config import Pix2PixConfig
from gan.players import Players
from gan.shades import write_shades
from gan.training_slices import ResidentSlices
from gan.validation import ValidationSlices, validation_figures
from gan.watch import name_troubles, require_finite
from imaging.progress import track
from imaging.slice_store import SliceStore
from imaging.tables import write_csv
from training.checkpoint import digest_of, load_checkpoint, save_checkpoint
from training.compute import Compute
from training.files import CHECKPOINT, write_atomically
from training.model_folder import finished_card, write_model_folder
from training.report import Report

_LOG = logging.getLogger(__name__)
# Losses are read from the device this often: each reading waits for it.
_STEPS_BETWEEN_CHECKS = 25
_SPEED = "images_per_s"


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
    vgg16_weights: Path | None = None,
) -> Pix2PixResult:
    """Train Pix2Pix, or continue the training whose checkpoint lies in `folder`; one that is over is not repeated.

    Args:
        training: Slices of training patients.
        validation_images: (N, H, W) in [0, 1], slices of validation patients.
        validation_masks: (N, H, W).
        config: The network and its training.
        compute: What to run on.
        folder: The model folder to write. The checkpoint stays there: who has nothing more to do with the model
            deletes it.
        seed: Seed of every random choice.
        report: Called at every validation round.
        card: Written into `model_card.json` together with the result.
        vgg16_weights: A safetensors file of VGG16, which a `perceptual_weight` above 0 needs.

    Raises:
        InputError: No validation slice shows a ventricle, a checkpoint belongs to another configuration, or
            VGG16's weights are wanted and missing.
        TrainingDivergedError: A loss was not finite.
    """
    slices = ResidentSlices.load(training, config, compute)
    validation = ValidationSlices.choose(validation_images, validation_masks, config)
    run = _Training(Players(slices, compute, seed, vgg16_weights), validation, folder)
    if (result := run.found(card)) is not None:
        return result
    run.restore()
    for step in track(range(run.step + 1, config.steps + 1), "training pix2pix (steps)"):
        run.take_step(step)
        if step % config.validate_every == 0 or step == config.steps:
            figures = run.validate()
            run.save()
            report(step, figures)
    return run.finish(card)


class _Training:
    """The state of a training and its rounds."""

    def __init__(self, players: Players, validation: ValidationSlices, folder: Path):
        self.players, self.validation, self.folder = players, validation, folder
        self.config, self.seed = players.config, players.seed
        held_out = digest_of(validation.images, validation.masks)
        self.origin: dict[str, str | int] = {
            "seed": self.seed,
            "training_set": players.slices.digest,
            "validation": held_out,
        }
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.troubles: list[str] = []
        self.best: dict[str, Any] = {"selection": -math.inf}
        self._begin_round()

    def take_step(self, step: int) -> None:
        """Take one optimiser step of each network."""
        self.step = step
        self._note(self.players.take_step(step))

    def validate(self) -> dict[str, float]:
        """Draw the validation slices again, keep the generator if it is the best so far, name troubles."""
        synthesiser = self.players.averaged_generator()
        figures = self._round_figures() | validation_figures(synthesiser, self.validation, self.seed)
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
                "weights": {name: tensor.clone() for name, tensor in self.players.averaged.state_dict().items()},
            }
        self._begin_round()
        return figures

    def save(self) -> None:
        """Write the history so far, then the checkpoint that it belongs to."""
        table = pd.DataFrame(self.history)
        write_atomically(self.folder / "history.csv", lambda part: write_csv(table, part))
        state = {name: part.state_dict() for name, part in self.players.parts().items()}
        rest = {"step": self.step, "history": self.history, "troubles": self.troubles, "best": self.best}
        save_checkpoint(self.folder / CHECKPOINT, self.config, self.origin, state | rest)

    def found(self, card: Mapping[str, Any]) -> Pix2PixResult | None:
        """Return the result of this very training where it is over, None where it has still to be done."""
        model = finished_card(self.folder, self.players.averaged.state_dict(), self.config, card, self.seed)
        if model is None or not (self.folder / "history.csv").is_file():
            return None
        return Pix2PixResult(self.folder, model["selected_step"], model["validation"], tuple(model["troubles"]))

    def restore(self) -> None:
        """Continue from the checkpoint, if there is one."""
        state = load_checkpoint(self.folder / CHECKPOINT, self.config, self.origin)
        if state is None:
            return
        for name, part in self.players.parts().items():
            part.load_state_dict(state[name])
        self.step, self.history = state["step"], state["history"]
        self.troubles, self.best = state["troubles"], state["best"]

    def finish(self, card: Mapping[str, Any]) -> Pix2PixResult:
        """Write the model folder, without the speed: equal trainings have equal model cards."""
        best = self.best
        figures = {name: value for name, value in best["figures"].items() if name != _SPEED}
        own = {
            "network": "pix2pix",
            "label_set": self.players.slices.labels.name,
            "region_px": int(self.players.slices.masks.shape[-1]),
            "selected_step": best["step"],
            "parameters": sum(parameter.numel() for parameter in self.players.averaged.parameters()),
            "validation": figures,
            "troubles": self.troubles,
        }
        if self.players.slices.shades is not None:
            write_shades(self.folder, self.players.slices.shades)
        write_model_folder(self.folder, best["weights"], self.config, {**card, **own})
        return Pix2PixResult(self.folder, best["step"], figures, tuple(self.troubles))

    def _begin_round(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._round_steps = 0
        self._round_start = time.monotonic()

    def _note(self, losses: Mapping[str, Tensor]) -> None:
        for name, value in losses.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._round_steps += 1
        if self.step % _STEPS_BETWEEN_CHECKS == 0:
            now = {name: float(value) for name, value in losses.items()}
            require_finite(self.step, now, self.history[-1] if self.history else {})

    def _round_figures(self) -> dict[str, float]:
        figures = {name: float(value) / self._round_steps for name, value in self._sums.items()}
        seconds = time.monotonic() - self._round_start
        figures["learning_rate"] = self.players.learning_rate
        figures[_SPEED] = self._round_steps * self.config.batch / max(seconds, 1e-9)
        return figures


def _as_text(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
