"""Training of the localiser: slices of training patients in, a model folder out; resumes exactly."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torchvision.ops import box_iou, generalized_box_iou_loss

from imaging.errors import InputError
from imaging.prepare import reference_box
from imaging.progress import track
from imaging.seeds import derive_seed
from imaging.split import FoldSplit
from imaging.study_archive import StudyArchive
from segmentation.localiser import median_box
from segmentation.localiser_augment import draw_views, view_boxes, view_images
from segmentation.localiser_config import LocaliserConfig
from segmentation.localiser_input import box_to_shares, extreme_points, field_of_view_mm, letterbox
from segmentation.localiser_network import LocaliserNet
from training.checkpoint import load_checkpoint, save_checkpoint
from training.compute import Compute
from training.files import write_atomically
from training.model_folder import write_model_folder
from training.report import Report, TrainingDivergedError

_SMOOTH_L1_BETA = 0.02  # shares of the field: errors of some mm count linearly


@dataclass(frozen=True)
class LocaliserResult:
    """What a training reached on the validation patients, and the step that did."""

    validation_iou: float
    best_step: int
    steps: int


@dataclass(frozen=True)
class LocaliserData:
    """Letterboxed studies of one part of the split.

    Attributes:
        slices: (N, 1, P, P), of all studies.
        study_of_slice: (N,), place of each slice's study.
        points: (studies, K, 2), outermost points of each study's labels.
        boxes: (studies, 4), reference boxes in shares.
    """

    slices: torch.Tensor
    study_of_slice: torch.Tensor
    points: torch.Tensor
    boxes: torch.Tensor


@dataclass
class _State:
    """Everything that a resumed training needs."""

    network: LocaliserNet
    optimiser: torch.optim.Optimizer
    step: int
    best_iou: float
    best_step: int
    best_weights: dict[str, torch.Tensor]
    history: list[dict[str, float]]

    def saved(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        content = {name: getattr(self, name) for name in ("step", "best_iou", "best_step", "best_weights", "history")}
        return content | {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict()}

    def restore(self, content: dict[str, Any]) -> None:
        """Take everything from a checkpoint."""
        self.network.load_state_dict(content.pop("network"))
        self.optimiser.load_state_dict(content.pop("optimiser"))
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
    card: Mapping[str, Any],
) -> LocaliserResult:
    """Train on the training patients; the weights are those of the best validation.

    Args:
        archive: The studies.
        split: Their parts; test patients are never read.
        config: Network and training; a field of view of None is fitted to the training studies.
        compute: Device and precision.
        folder: The model folder to write; may hold the checkpoint of a killed run.
        seed: Seed of weights, batches and views.
        report: Called at each validation with step and metrics.
        card: What else the model card shall say.

    Raises:
        InputError: A part has no study, or the checkpoint is another configuration's.
        TrainingDivergedError: The loss was not finite.
    """
    config = _fit_field_of_view(config, archive, split.train)
    training, validation = (gather(archive, part, config) for part in (split.train, split.validation))
    training, validation = _moved(training, compute), _moved(validation, compute)
    checkpoint = folder / "checkpoint"
    state = _start(config, training, compute, seed)
    saved = load_checkpoint(checkpoint, config)
    if saved is not None:
        state.restore(saved)
    losses: list[float] = []
    for step in track(range(state.step, config.steps), "training the localiser"):
        losses.append(_training_step(state, training, config, compute, derive_seed(seed, "localiser step", step), step))
        if (step + 1) % config.validate_every == 0 or step + 1 == config.steps:
            metrics = {"loss": float(np.mean(losses)), "learning_rate": _learning_rate(config, step)}
            metrics["validation_iou"] = validation_iou(state.network, validation, compute)
            _keep_best(state, step + 1, metrics)
            save_checkpoint(checkpoint, config, state.saved())
            report(step + 1, metrics)
            losses.clear()
    _finish(state, config, folder, card)
    return LocaliserResult(state.best_iou, state.best_step, config.steps)


def gather(archive: StudyArchive, case_ids: Sequence[str], config: LocaliserConfig) -> LocaliserData:
    """Letterbox all studies of some patients."""
    assert config.fov_mm is not None, "fitted before"
    chosen = set(case_ids)
    slices, study_of_slice, points, boxes = [], [], [], []
    for place, key in enumerate(key for key in archive.keys() if key[0] in chosen):  # noqa: SIM118
        study = archive.load(*key)
        slices.append(letterbox(study.image, config.fov_mm, config.input_px))
        study_of_slice += [place] * len(study.image)
        points.append(extreme_points(study.mask, config.fov_mm))
        boxes.append(box_to_shares(reference_box(study.mask), study.mask.shape, config.fov_mm))
    if not boxes:
        raise InputError(f"{archive.path}: holds none of the patients {sorted(chosen)[:5]}; check the split")
    return LocaliserData(torch.cat(slices), torch.tensor(study_of_slice), torch.stack(points), torch.stack(boxes))


def localiser_loss(predicted: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Return smooth L1 on the sides plus generalised IoU loss, for boxes (N, 4) in shares."""
    smooth = torch.nn.functional.smooth_l1_loss(predicted, boxes, beta=_SMOOTH_L1_BETA)
    return smooth + generalized_box_iou_loss(predicted, boxes, reduction="mean")


def validation_iou(network: LocaliserNet, data: LocaliserData, compute: Compute) -> float:
    """Return the mean IoU over studies of the median box over slices."""
    medians = [
        median_box(network, data.slices[data.study_of_slice == place], compute) for place in range(len(data.boxes))
    ]
    predicted = torch.from_numpy(np.stack(medians)).clamp(0.0, 1.0)
    return float(box_iou(predicted, data.boxes.double().cpu()).diagonal().mean())


def _fit_field_of_view(config: LocaliserConfig, archive: StudyArchive, train: Sequence[str]) -> LocaliserConfig:
    if config.fov_mm is not None:
        return config
    chosen = set(train)
    shapes = [archive.load(*key).image.shape for key in archive.keys() if key[0] in chosen]  # noqa: SIM118
    if not shapes:
        raise InputError(f"{archive.path}: holds none of the training patients; check the split")
    return config.model_copy(update={"fov_mm": field_of_view_mm(shapes)})


def _moved(data: LocaliserData, compute: Compute) -> LocaliserData:
    return LocaliserData(
        data.slices.to(compute.device),
        data.study_of_slice.to(compute.device),
        data.points.to(compute.device),
        data.boxes.to(compute.device),
    )


def _start(config: LocaliserConfig, training: LocaliserData, compute: Compute, seed: int) -> _State:
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, "localiser weights"))
        network = LocaliserNet(config)
    network.anchor.copy_(_mean_box(training.boxes))
    network.to(compute.device).to(memory_format=compute.memory_format)
    optimiser = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    return _State(network, optimiser, 0, -1.0, 0, {}, [])


def _mean_box(boxes: torch.Tensor) -> torch.Tensor:
    """Return the box (4,) of mean size at the mean centre."""
    return boxes.mean(dim=0).cpu()


def _training_step(
    state: _State, data: LocaliserData, config: LocaliserConfig, compute: Compute, seed: int, step: int
) -> float:
    chosen = torch.randint(len(data.slices), (config.batch,), generator=torch.Generator().manual_seed(seed))
    chosen = chosen.to(compute.device)
    views = draw_views(config, config.batch, derive_seed(seed, "views"))
    images = view_images(views, data.slices[chosen]).to(memory_format=compute.memory_format)
    boxes = view_boxes(views, data.points[data.study_of_slice[chosen]])
    for group in state.optimiser.param_groups:
        group["lr"] = _learning_rate(config, step)
    state.network.train()
    with compute.fabric.autocast():
        predicted = state.network(images)
    loss = localiser_loss(predicted.float(), boxes)
    value = float(loss.detach())
    if not np.isfinite(value):
        raise TrainingDivergedError(f"localiser: the loss was {value} at step {step + 1}; lower learning_rate")
    state.optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(state.network.parameters(), 1.0)
    state.optimiser.step()
    state.step = step + 1
    return value


def _learning_rate(config: LocaliserConfig, step: int) -> float:
    """Return a linear warm-up over a twentieth of the steps, then a cosine down to 0."""
    warm = max(1, config.steps // 20)
    if step < warm:
        return config.learning_rate * (step + 1) / warm
    return config.learning_rate * 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(1, config.steps - warm))))


def _keep_best(state: _State, step: int, metrics: Mapping[str, float]) -> None:
    state.history.append({"step": step, **metrics})
    if metrics["validation_iou"] >= state.best_iou:
        state.best_iou, state.best_step = metrics["validation_iou"], step
        state.best_weights = {name: value.detach().cpu().clone() for name, value in state.network.state_dict().items()}


def _finish(state: _State, config: LocaliserConfig, folder: Path, card: Mapping[str, Any]) -> None:
    found = {
        "network": "lv_localiser",
        "input_px": config.input_px,
        "fov_mm": config.fov_mm,
        "spacing_mm": 1.0,
        "validation_iou": state.best_iou,
        "best_step": state.best_step,
        "intended_use": "box of the left ventricle in short-axis studies like those of its training; research only",
    }
    write_model_folder(folder, state.best_weights, config, {**card, **found})
    history = pd.DataFrame(state.history)
    write_atomically(folder / "history.csv", lambda part: history.to_csv(part, index=False))
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
