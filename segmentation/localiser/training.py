"""Training of the localiser: slices of training patients in, a model folder out; resumes exactly.

The studies of one part of the split as the training takes them, and random views of their slices, drawn and applied a
batch at a time on the device.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torchvision.ops import box_iou

from common.errors import InputError, some_of
from common.files import CHECKPOINT, write_atomically
from common.progress import track
from common.seeds import derive_seed
from common.tables import write_csv
from imaging.studies.archive import StudyArchive
from imaging.studies.preparation import Box, PreparedStudy, reference_box
from imaging.studies.split import FoldSplit, split_digest
from runtime.checkpoint import load_checkpoint, save_checkpoint
from runtime.compute import Compute, send, send_together
from runtime.model_card import ModelCard
from runtime.model_folder import finished_card, write_model_folder
from runtime.report import STEPS_BETWEEN_LOSS_CHECKS, Report, TrainingDivergedError, course_row, shown_row
from runtime.schedules_and_averages import advance, last_rate, schedule
from segmentation.localiser.box_prediction import (
    box_to_shares,
    extreme_points,
    field_of_view_mm,
    letterbox,
    letterbox_labels,
    study_box,
)
from segmentation.localiser.config import LocaliserConfig
from segmentation.localiser.networks import BoxFinder, Targets, build_finder

_SHADING_KNOTS = 4  # a side: shading varies over a quarter of the field or slower


class Views(NamedTuple):
    """What is done to each slice of a batch: values drawn once, so that image, box and map move together."""

    turn: Tensor  # (N, 2, 2): output coordinates to input coordinates
    shift: Tensor  # (N, 2): place in the input of the output's centre
    gamma: Tensor  # (N, 1, 1, 1)
    noise: Tensor  # (N, 1, P, P)
    shading: Tensor  # (N, 1, K, K): factors on a coarse grid
    window: Tensor  # (N, 2, 1, 1): intensities that become 0 and 1

    def to(self, device: torch.device) -> "Views":
        """Return the same views on a device."""
        return Views(*send_together(self, device))


def draw_views(config: LocaliserConfig, count: int, seed: int) -> Views:
    """Draw `count` views; the same seed gives the same views on every device."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator) * 2 - 1

    zoom = torch.exp(uniform(count, 1, 1) * math.log(config.scale))
    angle = uniform(count) * math.radians(config.rotation_degrees)
    mirror = torch.ones(count, 2)
    if config.flips:
        angle = angle + torch.randint(4, (count,), generator=generator) * (math.pi / 2)
        mirror[:, 0] = torch.randint(2, (count,), generator=generator) * 2.0 - 1.0
    cosine, sine = torch.cos(angle), torch.sin(angle)
    rotation = torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)
    strength = torch.rand((count, 1, 1, 1), generator=generator) * config.noise
    return Views(
        turn=rotation * mirror[:, None, :] * zoom,
        shift=uniform(count, 2) * 2 * config.shift,  # coordinates run from -1 to 1: a share is twice as much
        gamma=torch.exp(uniform(count, 1, 1, 1) * math.log(config.gamma)),
        noise=torch.randn((count, 1, config.input_px, config.input_px), generator=generator) * strength,
        shading=torch.exp(uniform(count, 1, _SHADING_KNOTS, _SHADING_KNOTS) * math.log(config.shading)),
        window=torch.tensor([0.0, 1.0])[:, None, None] + uniform(count, 2, 1, 1) * config.window,
    )


def view_images(views: Views, images: Tensor) -> Tensor:
    """Return the slices (N, 1, P, P) as seen in the views; outside, they are mirrored: no edge tells the shift."""
    seen = _moved(views, images)
    window = views.window
    seen = seen * F.interpolate(views.shading, size=seen.shape[-2:], mode="bicubic", align_corners=True)
    seen = (seen - window[:, :1]) / (window[:, 1:] - window[:, :1])
    return (seen.clamp(0.0, 1.0) ** views.gamma + views.noise).clamp(0.0, 1.0)


def view_maps(views: Views, maps: Tensor) -> Tensor:
    """Return maps (N, K, P, P) in [0, 1] as seen in the views, mirrored outside as the images are."""
    return _moved(views, maps).clamp(0.0, 1.0)


def view_boxes(views: Views, points: Tensor) -> Tensor:
    """Return the boxes (N, 4) in shares, clipped, around outermost points (N, K, 2) as seen in the views."""
    towards = (points - views.shift[:, None]).transpose(1, 2)
    seen = torch.linalg.solve_ex(views.turn, towards).result  # (N, 2, K); `solve` would ask a GPU whether it went well
    boxes = torch.cat([seen.amin(dim=2), seen.amax(dim=2)], dim=1)
    return ((boxes + 1) / 2).clamp(0.0, 1.0)


def _moved(views: Views, images: Tensor) -> Tensor:
    theta = torch.cat([views.turn, views.shift[:, :, None]], dim=2)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


@dataclass(frozen=True)
class LocaliserData:
    """Letterboxed studies.

    Attributes:
        slices: (N, 1, P, P), of all studies.
        labels: (N, 1, P, P) in [0, 1], where each slice has any label.
        study_of_slice: (N,), place of each slice's study.
        footprints: (studies, 1, P, P), each study's labels projected over its slices.
        points: (studies, K, 2), outermost points of each study's labels.
        boxes: (studies, 4), reference boxes in shares.
    """

    slices: Tensor
    labels: Tensor
    study_of_slice: Tensor
    footprints: Tensor
    points: Tensor
    boxes: Tensor

    def to(self, device: torch.device) -> "LocaliserData":
        """Return the same data on a device."""
        return LocaliserData(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def targets(self, views: Views, chosen: Tensor) -> Targets:
        """Return what the chosen slices (B,) should tell, seen in the views."""
        studies = self.study_of_slice[chosen]
        maps = torch.cat([self.labels[chosen], self.footprints[studies]], dim=1)
        return Targets(view_boxes(views, self.points[studies]), view_maps(views, maps))


def gather(archive: StudyArchive, case_ids: Sequence[str], config: LocaliserConfig) -> LocaliserData:
    """Letterbox all studies of some patients.

    Raises:
        InputError: The archive holds none of them, or an image has no contrast.
    """
    assert config.fov_mm is not None, "fitted before"
    side, pixels = config.fov_mm, config.input_px
    slices, labels, points, boxes = [], [], [], []
    for study in _load(archive, case_ids):
        slices.append(letterbox(study.image, side, pixels))
        labels.append(letterbox_labels(study.mask, side, pixels))
        points.append(extreme_points(study.mask, side))
        boxes.append(box_to_shares(reference_box(study.mask), study.mask.shape, side))
    return LocaliserData(
        slices=torch.cat(slices),
        labels=torch.cat(labels),
        study_of_slice=torch.repeat_interleave(torch.tensor([len(study) for study in slices])),
        footprints=torch.stack([study.amax(dim=0) for study in labels]),
        points=torch.stack(points),
        boxes=torch.stack(boxes),
    )


def fit_field_of_view(config: LocaliserConfig, archive: StudyArchive, train: Sequence[str]) -> LocaliserConfig:
    """Return the configuration with a field of view that fits the training patients, unless it names one.

    Raises:
        InputError: The archive holds none of the patients.
    """
    if config.fov_mm is not None:
        return config
    shapes: list[tuple[int, ...]] = []
    boxes: list[Box] = []
    for study in _load(archive, train):
        shapes.append(study.image.shape)
        boxes.append(reference_box(study.mask))
    return config.model_copy(update={"fov_mm": field_of_view_mm(shapes, boxes, config.margin_mm)})


def _load(archive: StudyArchive, case_ids: Sequence[str]) -> Iterator[PreparedStudy]:
    chosen = set(case_ids)
    keys = [key for key in archive.keys() if key[0] in chosen]  # noqa: SIM118
    if not keys:
        raise InputError(
            f"{archive.path}: holds none of the patients [{some_of(map(repr, sorted(chosen)))}]; check the split"
        )
    return (archive.load(*key) for key in keys)


@dataclass(frozen=True)
class LocaliserResult:
    """What a training reached on the validation patients, and the step that did."""

    validation_iou: float
    best_step: int
    steps: int


_PARTS = ("network", "optimiser", "schedule")


@dataclass
class _State:
    """Everything that a resumed training needs."""

    network: BoxFinder
    optimiser: torch.optim.Optimizer
    schedule: LambdaLR
    step: int
    best_iou: float
    best_step: int
    best_weights: dict[str, torch.Tensor]
    history: list[dict[str, float]]

    def saved(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        content = {name: getattr(self, name) for name in ("step", "best_iou", "best_step", "best_weights", "history")}
        return content | {name: getattr(self, name).state_dict() for name in _PARTS}

    def restore(self, content: dict[str, Any]) -> None:
        """Take everything from a checkpoint."""
        for name in _PARTS:
            getattr(self, name).load_state_dict(content.pop(name))
        for name, value in content.items():
            setattr(self, name, value)


def train_localiser(
    archive: StudyArchive,
    split: FoldSplit,
    config: LocaliserConfig,
    compute: Compute,
    folder: Path,
    seed: int,
    report: Report,
    card: ModelCard,
) -> LocaliserResult:
    """Train on the training patients; the weights are those of the best validation.

    Args:
        archive: The studies.
        split: Their parts; test patients are never read.
        config: Network and training; a field of view of None is fitted to the training studies.
        compute: Device and precision.
        folder: The model folder to write. A checkpoint found in it is continued; a training that is over is not
            repeated. The checkpoint stays: who has nothing more to do with the model deletes it.
        seed: Seed of weights, batches and views.
        report: Called at each validation with step and metrics.
        card: What else the model card shall say.

    Raises:
        InputError: A part has no study, or the checkpoint is another configuration's.
        TrainingDivergedError: The loss was not finite.
    """
    config = fit_field_of_view(config, archive, split.train)
    training, validation = (
        gather(archive, part, config).to(compute.device) for part in (split.train, split.validation)
    )
    checkpoint = folder / CHECKPOINT
    state = _start(config, training, compute, seed)
    if (known := finished_card(folder, state.network.state_dict(), config, card, seed)) is not None:
        return LocaliserResult(known.validation_iou, known.best_step, config.steps)
    origin: dict[str, str | int] = {"seed": seed, "studies": archive.digest, "patient_split": split_digest(split)}
    saved = load_checkpoint(checkpoint, config, origin)
    if saved is not None:
        state.restore(saved)
    losses: list[torch.Tensor] = []
    for step in track(range(state.step, config.steps), "training the localiser"):
        losses.append(_training_step(state, training, config, compute, derive_seed(seed, "localiser step", step), step))
        ends_round = (step + 1) % config.validate_every == 0 or step + 1 == config.steps
        _check_losses(state, losses, compute, ends_round)
        if ends_round:
            loss = float(np.mean(torch.stack(losses).cpu().tolist()))
            metrics = {"loss": loss, "learning_rate": last_rate(state.schedule)}
            metrics["validation_iou"] = validation_iou(state.network, validation, compute)
            _keep_best(state, step + 1, metrics)
            _write_history(state, folder)
            save_checkpoint(checkpoint, config, origin, state.saved())
            report(step + 1, metrics)
            losses.clear()
    _finish(state, config, folder, card.completed(**compute.said()))
    return LocaliserResult(state.best_iou, state.best_step, config.steps)


def validation_iou(network: BoxFinder, data: LocaliserData, compute: Compute) -> float:
    """Return the mean IoU over studies of the study's box."""
    studies = (data.slices[data.study_of_slice == place] for place in range(len(data.boxes)))
    predicted = torch.from_numpy(np.stack([study_box(network, slices, compute) for slices in studies])).clamp(0.0, 1.0)
    return float(box_iou(predicted, data.boxes.double().cpu()).diagonal().mean())


def _start(config: LocaliserConfig, training: LocaliserData, compute: Compute, seed: int) -> _State:
    with torch.random.fork_rng(devices=[]):  # weights are drawn on the CPU
        torch.manual_seed(derive_seed(seed, "localiser weights"))
        network = build_finder(config)
    network.anchor.copy_(training.boxes.mean(dim=0))
    network.to(compute.device).to(memory_format=compute.memory_format)
    fused = compute.device.type == "cuda"  # a CPU's fused kernel gives other last bits and no speed that counts here
    optimiser = torch.optim.AdamW(
        network.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=fused
    )
    rates = schedule(optimiser, partial(_learning_rate, config))
    return _State(network, optimiser, rates, 0, -1.0, 0, {}, [])


def _training_step(
    state: _State, data: LocaliserData, config: LocaliserConfig, compute: Compute, seed: int, step: int
) -> torch.Tensor:
    """Take one optimiser step and return its loss (), on the device."""
    chosen = torch.randint(len(data.slices), (config.batch,), generator=torch.Generator().manual_seed(seed))
    chosen = send(chosen, compute.device)
    views = draw_views(config, config.batch, derive_seed(seed, "views")).to(compute.device)
    images = view_images(views, data.slices[chosen]).to(memory_format=compute.memory_format)
    targets = data.targets(views, chosen)
    advance(state.schedule, step)
    state.network.train()
    with compute.fabric.autocast():
        outputs = state.network(images)
    loss = state.network.loss(outputs.float(), targets)
    state.optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(state.network.parameters(), 1.0)
    state.optimiser.step()
    state.step = step + 1
    return loss.detach()


def _check_losses(state: _State, losses: list[torch.Tensor], compute: Compute, ends_round: bool) -> None:
    """Stop the training at a loss that is not finite: before a checkpoint would hold what came of it."""
    every = 1 if compute.device.type == "cpu" else STEPS_BETWEEN_LOSS_CHECKS
    if not ends_round and len(losses) % every:
        return
    recent = torch.stack(losses[-every:]).cpu().tolist()
    bad = next((place for place, value in enumerate(recent) if not np.isfinite(value)), None)
    if bad is None:
        return
    known = shown_row((state.history or [{}])[-1])
    kept = "the last checkpoint is kept" if state.history else "there is no checkpoint yet"
    raise TrainingDivergedError(
        f"localiser: the loss was {recent[bad]} at step {state.step - len(recent) + bad + 1}; "
        f"last metrics: {known or 'none yet'}; lower learning_rate; {kept}"
    )


def _learning_rate(config: LocaliserConfig, step: int) -> float:
    """Return a linear warm-up over a twentieth of the steps, then a cosine down to 0."""
    warm = max(1, config.steps // 20)
    if step < warm:
        return config.learning_rate * (step + 1) / warm
    return config.learning_rate * 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(1, config.steps - warm))))


def _keep_best(state: _State, step: int, metrics: Mapping[str, float]) -> None:
    state.history.append(course_row(step, metrics))
    if metrics["validation_iou"] >= state.best_iou:
        state.best_iou, state.best_step = metrics["validation_iou"], step
        state.best_weights = {name: value.detach().cpu().clone() for name, value in state.network.state_dict().items()}


def _write_history(state: _State, folder: Path) -> None:
    history = pd.DataFrame(state.history).astype({"step": int})
    write_atomically(folder / "history.csv", lambda part: write_csv(history, part))


def _finish(state: _State, config: LocaliserConfig, folder: Path, card: ModelCard) -> None:
    found = {
        "network": "lv_localiser",
        "head": config.head,
        "input_px": config.input_px,
        "fov_mm": config.fov_mm,
        "spacing_mm": 1.0,
        "validation_iou": state.best_iou,
        "best_step": state.best_step,
        "intended_use": "box of the left ventricle in short-axis studies like those of its training; research only",
    }
    _write_history(state, folder)
    write_model_folder(folder, state.best_weights, config, card.completed(**found))
