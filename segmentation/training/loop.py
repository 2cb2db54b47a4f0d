"""Training of a segmenter: `train_round`, `validate`, `save`, until all steps are done.

Every random choice derives from (seed, purpose, step), and a checkpoint is written after each round; so a
training that was killed and is started again ends with the weights of one that was not (on a CPU bit for bit; on CUDA
some kernels add in an order of their own). Where `compute` was chosen for
several processes they train together (`runtime.compute`); the first one validates, writes and reports.

Gradient clipping that leaves short gradients alone.

What a training ended with, and what its model card says of it.
"""

import resource
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.errors import InputError
from common.files import CHECKPOINT, write_atomically
from common.progress import track
from common.seeds import derive_seed
from common.tables import read_csv, write_csv
from imaging.labels import LabelSet
from imaging.slices.part import PartSlices
from imaging.slices.store import SliceStore, StoreAttributes
from runtime.checkpoint import digest_of, load_checkpoint, save_checkpoint
from runtime.compute import Compute, Ranks, send
from runtime.model_card import ModelCard
from runtime.model_folder import finished_card, write_model_folder
from runtime.report import STEPS_BETWEEN_LOSS_CHECKS, Report, TrainingDivergedError, course_row, shown_row
from runtime.schedules_and_averages import advance, last_rate, schedule, weight_average
from segmentation.networks.blocks import SegmentationNetwork, SegmentationOutput, check_image, count_parameters
from segmentation.networks.table import build_network
from segmentation.prediction.post_processing import choose_steps
from segmentation.prediction.segmenter import Segmenter
from segmentation.scoring.overlap import mean_dice, positive_dice
from segmentation.training.batch_augmentation import apply_changes, draw_changes
from segmentation.training.batches import BatchSource, RowSampler, are_synthetic, count_pixels, open_batches
from segmentation.training.config import TrainConfig
from segmentation.training.losses import class_weights, loss_of_step, segmentation_loss
from segmentation.training.optimisers import build_optimiser, learning_rate_at
from segmentation.training.start_weights import lineage, start_from


def clip_gradients(parameters: Iterable[nn.Parameter], largest: float) -> None:
    """Shorten the gradient of all parameters together to a norm of at most `largest`, as `clip_grad_norm_` does.

    Most gradients are shorter. On a CPU, where a look at the norm waits for nothing, they are not multiplied by one.
    """
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None], foreach=True)
    if norm.device.type != "cpu" or not norm <= largest:
        nn.utils.clip_grads_with_norm_(trained, largest, norm, foreach=True)


_INTENDED_USE = (
    "Research on segmentation of short-axis cardiac MRI regions prepared by this project; no medical device."
)


@dataclass(frozen=True)
class TrainResult:
    """What a training ended with.

    Attributes:
        steps: Optimiser steps run.
        best_step: Step of the weights that were kept.
        score: Their mean positive Dice over tissues on the validation patients.
        dice: Their positive Dice by tissue.
        parameters: Trainable parameters.
        images_per_second: Training slices a second, validation left out, mean over rounds.
    """

    steps: int
    best_step: int
    score: float
    dice: Mapping[str, float]
    parameters: int
    images_per_second: float


def describe_model(
    result: TrainResult, config: TrainConfig, attributes: StoreAttributes, compute: Compute
) -> dict[str, Any]:
    """Return what the training adds to the caller's model card."""
    return {
        "network": config.network.name,
        "label_set": attributes.label_set,
        "input_size": [attributes.region_px, attributes.region_px],
        "spacing_mm": attributes.spacing_mm,
        "parameters": result.parameters,
        "steps": result.steps,
        "best_step": result.best_step,
        "validation": {"rule": "positive", "dice": dict(result.dice), "mean": result.score},
        **compute.said(),
        "intended_use": _INTENDED_USE,
    }


def read_result(folder: Path, card: ModelCard) -> TrainResult | None:
    """Return what the training of a model folder ended with, None where its history.csv cannot be read."""
    try:
        history = read_csv(folder / "history.csv")
    except (OSError, ValueError):
        return None
    return TrainResult(
        steps=card.steps,
        best_step=card.best_step,
        score=card.dice.mean,
        dice=card.dice.dice,
        parameters=card.parameters,
        images_per_second=float(history["images_per_second"].mean()),
    )


def train_segmenter(
    training: SliceStore,
    validation: PartSlices,
    config: TrainConfig,
    compute: Compute,
    folder: Path,
    seed: int,
    report: Report,
    card: ModelCard,
    start: Path | None = None,
) -> TrainResult:
    """Train one network on one training set and write its model folder.

    Args:
        training: Slices of training patients.
        validation: Slices of validation patients; they select the checkpoint and do nothing else.
        config: Network and training.
        compute: Device and precision.
        folder: Where the model folder goes. A checkpoint found in it is continued; a training that is over is not
            repeated. The checkpoint stays: who has nothing more to do with the model deletes it.
        seed: Decides weights, batches, augmentation and dropout.
        report: Called after each round with the step and the metrics.
        card: What the caller knows (digests, fold, seed); goes into model_card.json.
        start: Where the model lies that `config.start_from` names, see `runtime.pack.start_place`; None: there.

    Raises:
        InputError: Sizes do not fit the network, or the checkpoint has another configuration.
        TrainingDivergedError: A loss was not finite.
    """
    devices = [compute.device] if compute.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        run = _Training(training, validation, config, compute, folder, seed, start)
        if (result := run.found(card)) is not None:
            return result
        run.resume()
        rounds = range(run.rounds_left)
        for _ in track(rounds, f"training {config.network.name}") if run.ranks.is_first else rounds:
            metrics = run.train_round()
            metrics |= run.validate()
            run.save(metrics)
            if run.ranks.is_first:
                report(run.step, metrics)
            if run.is_stale:
                break
        return run.finish(card)


class _Training:
    """The state of one training and its phases."""

    def __init__(
        self,
        training: SliceStore,
        validation: PartSlices,
        config: TrainConfig,
        compute: Compute,
        folder: Path,
        seed: int,
        start: Path | None = None,
    ) -> None:
        self.config, self.compute, self.folder, self.seed = config, compute, folder, seed
        self.start = start or config.start_from
        self.ranks = Ranks(compute.fabric)
        self.part = self.ranks.part_of(config.batch)
        self.labels: LabelSet = training.label_set
        self.validation, self.attributes = validation, training.attributes
        held_out = digest_of(validation.images, validation.masks, validation.studies)
        self.origin: dict[str, str | int] = {"seed": seed, "training_set": training.digest, "validation": held_out}
        if self.ranks.of_first(self.origin) != self.origin:
            raise InputError(f"{training.path}: holds other slices than the first node's; copy the same to every node")
        _check_sizes(config, training.attributes.region_px)
        torch.manual_seed(derive_seed(seed, "weights"))
        network = build_network(config.network, self.labels.num_classes)
        if self.start is not None:
            start_from(network, self.start, config.network)
        network = cast(SegmentationNetwork, self.ranks.join_norms(network))
        self.network = network.to(compute.device).to(memory_format=compute.memory_format)
        self.parameters = list(self.network.parameters())
        self.average = weight_average(self.network, config.average_decay)
        self.optimiser = build_optimiser(self.network, config)
        self.history: list[dict[str, float]] = []
        self.schedule = schedule(self.optimiser, self.learning_rate)
        if config.compiled and self.ranks.count > 1:
            raise InputError("compiled training by several processes has never run; set compiled to false")
        # Fabric's wrapper runs the forward pass in autocast; weights and state stay in the plain objects.
        forward = _compile(self.network, compute) if config.compiled else self.network
        self.forward, self.step_optimiser = compute.fabric.setup(forward, self.optimiser)
        real_from = config.steps - round(config.real_last_share * config.steps) if config.real_last_share else None
        self.sampler = RowSampler(training, config.batch, config.balanced_sampling, seed, self.part, real_from)
        self.batches: BatchSource = open_batches(training, self.sampler, compute, config.resident_limit_mb)
        self.row_weights = _row_weights(training, config.synthetic_weight)
        weights = class_weights(config, self.labels, lambda: count_pixels(training))
        self.class_weights = None if weights is None else torch.tensor(weights, device=compute.device)
        self.step, self.best_step, self.best_score = 0, 0, -1.0
        self.best_weights: dict[str, Tensor] = {}

    @property
    def rounds_left(self) -> int:
        """Rounds until all steps are run."""
        return -(-(self.config.steps - self.step) // self.config.validate_every) if not self.is_stale else 0

    @property
    def is_stale(self) -> bool:
        """Whether `patience` rounds have gone by without a better score."""
        if self.config.patience is None:
            return False
        return self.step - self.best_step >= self.config.patience * self.config.validate_every

    def train_round(self) -> dict[str, float]:
        """Run the steps up to the next validation; return the round's mean losses and its speed."""
        last = min(self.step + self.config.validate_every, self.config.steps)
        first, start = self.step, time.perf_counter()
        self.network.train()
        parts: list[dict[str, Tensor]] = []
        while self.step < last:
            parts.append(self.train_step())
            self.step += 1
            self._check_losses(parts, self.step == last)
        self._check_weights()
        means = {name: float(torch.stack([part[name] for part in parts]).mean()) for name in parts[0]}
        seconds = time.perf_counter() - start
        return means | {
            "learning_rate": last_rate(self.schedule),
            "images_per_second": (last - first) * self.config.batch / seconds,
            "peak_memory_mb": _peak_memory_mb(self.compute.device),
        }

    def learning_rate(self, step: int) -> float:
        """Return the rate of a step of this round."""
        return learning_rate_at(self.config, step, [row["dice/mean"] for row in self.history])

    def train_step(self) -> dict[str, Tensor]:
        """Run one optimiser step; return its named losses."""
        images, masks = self._augmented_batch()
        advance(self.schedule, self.step)
        torch.manual_seed(derive_seed(self.seed, "dropout", self.step * self.ranks.count + self.ranks.index))
        output = self.forward(self.compute.lay_out(images))
        output, masks = self._whole_batch(output, masks)
        loss, parts = segmentation_loss(
            output,
            masks,
            loss_of_step(self.config, self.step, masks, self.labels.num_classes, self._slice_weights()),
            self.class_weights,
            self.config.auxiliary_weight,
        )
        self.ranks.backward(loss)
        clip_gradients(self.parameters, self.config.clip_norm)
        self.step_optimiser.step()
        self.step_optimiser.zero_grad()
        self.average.update_parameters(self.network)
        return parts

    def validate(self) -> dict[str, float]:
        """Score the averaged weights on the validation patients and remember them if they are the best."""
        dice = self.ranks.of_first(self._validation_dice() if self.ranks.is_first else {})
        score = mean_dice(dice)
        if score > self.best_score:
            self.best_step, self.best_score = self.step, score
            self.best_weights = {
                name: tensor.cpu().clone() for name, tensor in self.average.module.state_dict().items()
            }
        return {f"dice/{tissue}": value for tissue, value in dice.items()} | {"dice/mean": score}

    def save(self, metrics: Mapping[str, float]) -> None:
        """Write history.csv, then the checkpoint that it belongs to."""
        self.history.append(course_row(self.step, metrics))
        if not self.ranks.is_first:
            return
        table = pd.DataFrame(self.history).astype({"step": int})
        write_atomically(self.folder / "history.csv", lambda part: write_csv(table, part))
        state = {
            "step": self.step,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "best_step": self.best_step,
            "best_score": self.best_score,
            "best_weights": self.best_weights,
            "history": self.history,
        }
        save_checkpoint(self.folder / CHECKPOINT, self.config, self.origin, state)

    def found(self, card: ModelCard) -> TrainResult | None:
        """Return the result of this very training where it is over, None where it has still to be done."""
        # a model folder need not be on a disk that all nodes share
        return self.ranks.of_first(self._found(card) if self.ranks.is_first else None)

    def _found(self, card: ModelCard) -> TrainResult | None:
        model = finished_card(self.folder, self.network.state_dict(), self.config, card, self.seed)
        return None if model is None else read_result(self.folder, model)

    def resume(self) -> None:
        """Continue from the folder's checkpoint, if there is one."""
        own = load_checkpoint(self.folder / CHECKPOINT, self.config, self.origin) if self.ranks.is_first else None
        state = self.ranks.of_first(own)
        if state is None:
            return
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.step, self.best_step = state["step"], state["best_step"]
        self.best_score, self.best_weights = state["best_score"], state["best_weights"]
        self.history = state["history"]

    def finish(self, card: ModelCard) -> TrainResult:
        """Write the model folder and return the figures."""
        best = next(row for row in self.history if row["step"] == self.best_step)
        result = TrainResult(
            steps=self.step,
            best_step=self.best_step,
            score=self.best_score,
            dice={tissue: best[f"dice/{tissue}"] for _, tissue in self.labels.foreground if f"dice/{tissue}" in best},
            parameters=count_parameters(self.network),
            images_per_second=float(np.mean([row["images_per_second"] for row in self.history])),
        )
        if self.ranks.is_first:
            described = describe_model(result, self.config, self.attributes, self.compute)
            if self.start is not None:
                described["started_from"] = lineage(self.start)
            self.average.module.load_state_dict(self.best_weights)
            described["post_processing"] = choose_steps(
                self.validation, self._validation_labels(self.config.flips_at_test_time), self.labels
            )
            write_model_folder(self.folder, self.best_weights, self.config, card.completed(**described))
        self.ranks.wait()
        return result

    def _validation_labels(self, flips: bool = False) -> NDArray[np.uint8]:
        """Return what the averaged weights draw (N, H, W) on the validation slices."""
        segmenter = Segmenter([cast(SegmentationNetwork, self.average.module)], self.labels, self.compute, flips)
        return segmenter.labels(self.validation.images)

    def _validation_dice(self) -> dict[str, float]:
        prediction = self._validation_labels()
        return positive_dice(self.validation.masks, prediction, self.validation.studies, self.labels)

    def _whole_batch(self, output: SegmentationOutput, masks: Tensor) -> tuple[SegmentationOutput, Tensor]:
        """Return output and masks of the whole batch, of which this process has computed a part."""
        if self.ranks.count == 1:
            return output, masks
        auxiliary = None if output.auxiliary is None else self.ranks.gather(output.auxiliary.float())
        return SegmentationOutput(self.ranks.gather(output.logits.float()), auxiliary), self.ranks.gather(masks)

    def _slice_weights(self) -> Tensor | None:
        """Return the weight of each slice (N,) of the step's whole batch; None where all weigh the same."""
        if self.row_weights is None:
            return None
        weights = self.row_weights[self.sampler.batch_rows(self.step)]
        return send(torch.from_numpy(weights), self.compute.device)

    def _augmented_batch(self) -> tuple[Tensor, Tensor]:
        images, masks = self.batches.batch(self.step)
        config = self.config
        if config.augmentation is None and config.crop_px is None:
            return images, masks
        seed = derive_seed(self.seed, "augmentation", self.step)
        changes = draw_changes(config.augmentation, config.batch, images.shape[-1], config.crop_px, seed)
        if self.ranks.count > 1:
            changes = changes.part(self.part)
        return apply_changes(images, masks, changes, derive_seed(self.seed, "noise", self.step))

    def _check_losses(self, parts: list[dict[str, Tensor]], is_last: bool) -> None:
        every = 1 if self.compute.device.type == "cpu" else STEPS_BETWEEN_LOSS_CHECKS
        if not is_last and len(parts) % every:
            return
        recent = torch.stack([part["loss"] for part in parts[-every:]])
        if bool(torch.isfinite(recent).all()):
            return
        bad = int((~torch.isfinite(recent)).nonzero()[0])
        self._diverged(f"the loss of step {self.step - len(recent) + bad + 1} is {recent[bad].item()}")

    def _check_weights(self) -> None:
        """Raise before a checkpoint would be written: a finite loss can have gradients that are not."""
        floats = [tensor for tensor in self.network.state_dict().values() if tensor.is_floating_point()]
        if not bool(torch.stack([torch.isfinite(tensor).all() for tensor in floats]).all()):
            self._diverged(f"a weight is not finite after step {self.step}")

    def _diverged(self, what: str) -> NoReturn:
        known = shown_row((self.history or [{}])[-1])
        kept = (
            f"the last checkpoint in {self.folder}/checkpoint is kept" if self.history else "there is no checkpoint yet"
        )
        raise TrainingDivergedError(
            f"{self.config.network.name}: {what}; last metrics: {known or 'none yet'}; "
            f"lower learning_rate or look at the training set; {kept}"
        )


def _row_weights(training: SliceStore, synthetic_weight: float) -> NDArray[np.float32] | None:
    """Return the weight of each row of a training set in the loss; None where all weigh the same."""
    synthetic = are_synthetic(training)
    if synthetic_weight == 1 or not synthetic.any():
        return None
    return np.where(synthetic, np.float32(synthetic_weight), np.float32(1))


def _check_sizes(config: TrainConfig, region_px: int) -> None:
    if config.crop_px is not None and config.crop_px > region_px:
        raise InputError(
            f"crop_px {config.crop_px} is larger than the stored regions of {region_px} pixels; "
            f"set it to {region_px} or less"
        )
    for side in (config.crop_px or region_px, region_px):  # trained on, predicted on
        check_image(torch.empty(1, 1, side, side, device="meta"), 1, len(config.network.widths))


def _compile(network: nn.Module, compute: Compute) -> nn.Module:
    # CUDA graphs spare the launches of the many small kernels; a CPU has none.
    mode = "reduce-overhead" if compute.device.type == "cuda" else None
    return cast(nn.Module, torch.compile(network, mode=mode))  # shares its weights with `network`


def _peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3  # kilobytes on Linux
