"""Training Pix2Pix: step, validate, save; a killed training continues exactly where its last checkpoint was.

The generator that is kept is the averaged one of the round with the best *validation* measure, see
`validation_figures`.

What goes wrong in adversarial training, recognised from a round's figures and named.

What does not live here: the training itself, and stopping it; only a loss that is not finite stops a
training.

The validation round: real slices of validation patients drawn again, and the measure that selects.

What does not live here: the full proof of quality (`gan.quality.proof`), which is made once, after training.
"""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from common.errors import InputError
from common.files import CHECKPOINT, write_atomically
from common.progress import track
from common.tables import write_csv
from gan.generation.hole import own_hole
from gan.generation.shades import tissue_shades, write_shades
from gan.generation.synthesiser import Synthesiser, noise_seeds
from gan.quality.proof import local_texture, mean_absolute_error, pairwise_variety, structural_similarity_of
from gan.quality.realism import patch_distance
from gan.training.batches import ResidentSlices
from gan.training.config import Pix2PixConfig
from gan.training.steps import Players
from imaging.labels import Tissue
from imaging.slices.part import PartSlices
from imaging.slices.store import SliceStore
from runtime.checkpoint import digest_of, load_checkpoint, save_checkpoint
from runtime.compute import Compute
from runtime.model_card import DiceValidation, ModelCard
from runtime.model_folder import finished_card, write_model_folder
from runtime.report import STEPS_BETWEEN_LOSS_CHECKS, Report, TrainingDivergedError, course_row, shown_row

EXPLODING_LOSS = "exploding loss"
WINNING_DISCRIMINATOR = "winning discriminator"
MODE_COLLAPSE = "mode collapse"

# Limits chosen wide: a healthy round is far from each of them.
_EXPLODING_FACTOR = 5.0
_WINNING_ACCURACY = 0.98
_COLLAPSED_VARIETY = 0.3


def name_troubles(round_figures: Mapping[str, float], earlier: Sequence[Mapping[str, float]]) -> list[str]:
    """Return the names of the troubles seen in one validation round.

    Args:
        round_figures: `generator_loss`, `discriminator_accuracy` (share of patches told apart, over the
            round), `variety` (how much drawn slices differ from one another, relative to real ones).
        earlier: The same of earlier rounds.
    """
    troubles = []
    lowest = min((figures["generator_loss"] for figures in earlier), default=math.inf)
    if round_figures["generator_loss"] > _EXPLODING_FACTOR * lowest:
        troubles.append(EXPLODING_LOSS)
    if round_figures["discriminator_accuracy"] > _WINNING_ACCURACY:
        troubles.append(WINNING_DISCRIMINATOR)
    if round_figures["variety"] < _COLLAPSED_VARIETY:
        troubles.append(MODE_COLLAPSE)
    return troubles


def require_finite(step: int, losses: Mapping[str, float], last: Mapping[str, float]) -> None:
    """Stop the training if a loss is not finite.

    Raises:
        TrainingDivergedError: Names the loss, the step and the figures of the last round.
    """
    broken = {name: value for name, value in losses.items() if not math.isfinite(value)}
    if broken:
        figures = shown_row(last) or "none yet"
        raise TrainingDivergedError(
            f"pix2pix: {broken} at step {step}; last metrics: {figures}; "
            "lower the learning rate or use fp32, then start again"
        )


_SMOOTHING_PX = 1.5
_PATCH_WEIGHT = 2.0  # how much unlike patches cost


@dataclass(frozen=True)
class PaintedSlices:
    """Slices that show what is painted.

    Holes and regions are (N, H, W), shades (N, labels).
    A region is where the drawing is measured: the ventricle, or the hole of its lesions.
    """

    slices: PartSlices
    holes: NDArray[np.uint8]
    regions: NDArray[np.bool_]
    shades: NDArray[np.float32]

    @classmethod
    def choose(cls, validation: PartSlices, config: Pix2PixConfig) -> "PaintedSlices":
        """Take at most `validation_slices`, evenly spread over those that show a ventricle, or a lesion.

        Raises:
            InputError: None does.
        """
        painted = validation.masks >= (Tissue.INFARCT if config.paint == "lesion" else Tissue.CAVITY)
        rows = np.flatnonzero(painted.any(axis=(1, 2)))
        if not len(rows):
            raise InputError(
                f"pix2pix: none of {len(validation)} validation slices shows a {config.paint}; "
                "check the split and the masks"
            )
        count = min(config.validation_slices, len(rows))
        chosen = validation.at(rows[np.linspace(0, len(rows) - 1, count).round().astype(int)])
        holes = own_hole(chosen.masks, config.paint, config.hole_margin_px)
        regions = (chosen.masks > 0) if config.paint == "ventricle" else holes > 0
        chosen = chosen.painted_as(np.asarray(chosen.images, dtype=np.float32))
        shades = tissue_shades(chosen.images, chosen.masks, int(validation.masks.max()) + 1)
        return cls(chosen, holes, regions, np.nan_to_num(shades, nan=0.5))


def validation_figures(
    synthesiser: Synthesiser,
    painted: PaintedSlices,
    seed: int,
) -> dict[str, float]:
    """Draw real slices again and measure how well they are met inside the ventricle, or the hole of their lesions.

    The measure that selects is `selection` = the share of the ventricle's shading that is met, with both slices
    smoothed by a Gaussian of 1.5 px - 2 x the distance between drawn and real patches around the
    ventricle (`gan.quality.realism`). SSIM or L1 of slices as they are take other grain for an error, however
    real, and prefer early, smooth drawings; the patches charge for blur, for exaggerated grain and for edges that
    are none. Both are cheap, need no network, and are stable on a few dozen slices, which a Fréchet distance is
    not.

    A generator that is told shades is told the slices' own, so that it is judged by what it makes of them.

    Args:
        synthesiser: The generator.
        painted: Real slices.
        seed: Seed of the noise.
    """
    images, masks = painted.slices.images, painted.slices.masks
    seeds = noise_seeds(seed, "validation", range(len(masks)))
    drawn = synthesiser.draw(masks, images, painted.holes, seeds, painted.shades)
    ventricle = painted.regions
    shading = _share_met(_smoothed(drawn)[ventricle], _smoothed(images)[ventricle])
    patches = patch_distance(drawn, images, painted.holes > 0, seed)
    return {
        "selection": shading - _PATCH_WEIGHT * patches,
        "patch_distance": patches,
        "ssim_ventricle": structural_similarity_of(drawn, images, ventricle),
        "shading_met": shading,
        "texture_ratio": local_texture(drawn, ventricle) / max(local_texture(images, ventricle), 1e-6),
        "l1_ventricle": mean_absolute_error(drawn, images, ventricle),
        "variety": pairwise_variety(drawn, ventricle) / max(pairwise_variety(images, ventricle), 1e-6),
    }


def _share_met(drawn: NDArray[np.float32], real: NDArray[np.float32]) -> float:
    """Return 1 - the mean error over the mean deviation from the mean, for pixels (P,)."""
    spread = float(np.abs(real - real.mean()).mean())
    return 1 - float(np.abs(drawn - real).mean()) / max(spread, 1e-6)


def _smoothed(images: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(ndimage.gaussian_filter(images, (0, _SMOOTHING_PX, _SMOOTHING_PX)), dtype=np.float32)


_LOG = logging.getLogger(__name__)
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
    validation: PartSlices,
    config: Pix2PixConfig,
    compute: Compute,
    folder: Path,
    seed: int,
    report: Report,
    card: ModelCard,
    vgg16_weights: Path | None = None,
) -> Pix2PixResult:
    """Train Pix2Pix, or continue the training whose checkpoint lies in `folder`; one that is over is not repeated.

    Args:
        training: Slices of training patients.
        validation: Slices of validation patients.
        config: The network and its training.
        compute: What to run on.
        folder: The model folder to write. The checkpoint stays there: who has nothing more to do with the model
            deletes it.
        seed: Seed of every random choice.
        report: Called at every validation round.
        card: Written into `model_card.json` together with the result.
        vgg16_weights: A safetensors file of VGG16, which a `perceptual_weight` above 0 needs.

    Raises:
        InputError: No validation slice shows what is painted, a checkpoint belongs to another configuration, or
            VGG16's weights are wanted and missing.
        TrainingDivergedError: A loss was not finite.
    """
    slices = ResidentSlices.load(training, config, compute, seed)
    painted = PaintedSlices.choose(validation, config)
    run = _Training(Players(slices, compute, seed, vgg16_weights), painted, folder)
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

    def __init__(self, players: Players, validation: PaintedSlices, folder: Path):
        self.players, self.validation, self.folder = players, validation, folder
        self.config, self.seed = players.config, players.seed
        held_out = digest_of(validation.slices.images, validation.slices.masks)
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
        self.history.append(course_row(self.step, figures))
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

    def found(self, card: ModelCard) -> Pix2PixResult | None:
        """Return the result of this very training where it is over, None where it has still to be done."""
        model = finished_card(self.folder, self.players.averaged.state_dict(), self.config, card, self.seed)
        if model is None or isinstance(model.validation, DiceValidation):
            return None
        if not (self.folder / "history.csv").is_file():
            return None
        return Pix2PixResult(self.folder, model.selected_step, model.validation, tuple(model.troubles))

    def restore(self) -> None:
        """Continue from the checkpoint, if there is one."""
        state = load_checkpoint(self.folder / CHECKPOINT, self.config, self.origin)
        if state is None:
            return
        for name, part in self.players.parts().items():
            part.load_state_dict(state[name])
        self.step, self.history = state["step"], state["history"]
        self.troubles, self.best = state["troubles"], state["best"]

    def finish(self, card: ModelCard) -> Pix2PixResult:
        """Write the model folder, without the speed: equal trainings have equal model cards."""
        best = self.best
        figures = {name: value for name, value in best["figures"].items() if name != _SPEED}
        own = {
            "network": "pix2pix",
            "label_set": self.players.slices.labels.name,
            "region_px": int(self.players.slices.masks.shape[-1]),
            "selected_step": best["step"],
            "parameters": sum(parameter.numel() for parameter in self.players.averaged.parameters()),
            **self.players.compute.said(),
            "validation": figures,
            "troubles": self.troubles,
        }
        if self.players.slices.shades is not None:
            write_shades(self.folder, self.players.slices.shades)
        write_model_folder(self.folder, best["weights"], self.config, card.completed(**own))
        return Pix2PixResult(self.folder, best["step"], figures, tuple(self.troubles))

    def _begin_round(self) -> None:
        self._names: tuple[str, ...] = ()
        self._sums: Tensor | None = None  # of the losses of these names
        self._round_steps = 0
        self._round_start = time.monotonic()

    def _note(self, losses: Mapping[str, Tensor]) -> None:
        self._names, values = tuple(losses), torch.stack(list(losses.values()))
        self._sums = values if self._sums is None else self._sums + values
        self._round_steps += 1
        if self.step % STEPS_BETWEEN_LOSS_CHECKS == 0:
            now = dict(zip(self._names, values.cpu().tolist(), strict=True))
            require_finite(self.step, now, self.history[-1] if self.history else {})

    def _round_figures(self) -> dict[str, float]:
        sums = [] if self._sums is None else self._sums.cpu().tolist()
        figures = {name: value / self._round_steps for name, value in zip(self._names, sums, strict=True)}
        seconds = time.monotonic() - self._round_start
        figures["learning_rate"] = self.players.learning_rate
        figures[_SPEED] = self._round_steps * self.config.batch / max(seconds, 1e-9)
        return figures


def _as_text(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
