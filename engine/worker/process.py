"""What the process does that trains, started by an asset through Dagster Pipes (`python -m engine.worker`).

Here, and only here, Pipes, the tracker and a training function meet: `gan` and `segmentation` know neither,
and a crash or an out-of-memory kill ends this process and fails one step.

The three kinds of training are each fed from the files its task names.
"""

import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from dagster_pipes import PipesContext, open_dagster_pipes
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from common.errors import InputError
from common.files import CHECKPOINT, write_json
from common.progress import detail, figures_shown, quieten, say, show_figures
from engine.finished import checked_model
from engine.tracking.tracker import Tracker
from engine.transient import is_transient
from engine.worker.accelerator import accelerator
from engine.worker.pictures import beside_reference, boxed, drawn_below_real, most_lesion, save_pictures
from engine.worker.task import ERROR_FILE, PASSING_FAULT, RESULT_FILE, WRONG_INPUT, TrainingTask
from imaging.slices.part import PartSlices
from imaging.slices.store import SliceStore
from imaging.studies.leakage import assert_no_leak, assert_parts
from imaging.studies.split import FoldSplit, read_split
from runtime.checkpoint import checkpoint_step
from runtime.compute import Compute, choose_compute, keep_freed_memory
from runtime.model_card import ModelCard
from runtime.report import Report, TrainingDivergedError

if TYPE_CHECKING:
    from imaging.studies.archive import StudyArchive
    from segmentation.localiser.box_prediction import Localiser

_SHOWN = 6  # validation studies
_FIELD_PX = 192  # around the middle of a study, 1 mm a pixel


@dataclass(frozen=True)
class Trained:
    """What is left to track after a training: scores, the model with an example input, and validation slices."""

    scores: Mapping[str, float]
    module: Callable[[], nn.Module]
    example: NDArray[np.float32]
    sheet: Image.Image


def train_lv_localiser(task: TrainingTask, compute: Compute, report: Report) -> Trained:
    """Train the localiser of the ventricle on the fold's training patients."""
    from imaging.studies.archive import StudyArchive
    from segmentation.localiser.box_prediction import load_localiser
    from segmentation.localiser.config import LocaliserConfig
    from segmentation.localiser.training import train_localiser

    config = LocaliserConfig.model_validate(task.config)
    folder = Path(task.folder)
    archive = StudyArchive.open(Path(task.inputs["studies"]))
    split = _split(task)
    result = train_localiser(archive, split, config, compute, folder, task.seed, report, ModelCard(**task.card))
    size = config.input_px
    return Trained(
        scores={"validation/box_iou": result.validation_iou},
        module=lambda: load_localiser(folder, choose_compute("cpu", "fp32")).network,
        example=np.zeros((2, 1, size, size), np.float32),
        sheet=_boxed_studies(archive, split, load_localiser(folder, compute)),
    )


def _boxed_studies(archive: "StudyArchive", split: FoldSplit, localiser: "Localiser") -> Image.Image:
    """Return the middle slices of validation studies, the reference box in grey, the predicted one in white."""
    from imaging.overlay import contact_sheet
    from imaging.studies.preparation import crop_region, reference_box

    studies = [archive.load(*key) for key in archive.keys() if key[0] in split.validation][:_SHOWN]  # noqa: SIM118
    pictures = []
    for study in studies:
        middle = boxed(study.image[len(study.image) // 2], [reference_box(study.mask), localiser.predict_box(study)])
        centre = (study.image.shape[1] / 2, study.image.shape[2] / 2)
        pictures.append(crop_region(middle[None], centre, _FIELD_PX)[0])
    images = np.stack(pictures)
    titles = [f"{study.case_id} {study.frame}" for study in studies]
    return contact_sheet(images, np.zeros(images.shape, np.uint8), archive.label_set, len(images), titles)


def train_pix2pix(task: TrainingTask, compute: Compute, report: Report) -> Trained:
    """Train Pix2Pix on the fold's augmented slices, choosing its checkpoint on validation patients."""
    from gan.generation.slices import load_exportable, redraw
    from gan.generation.synthesiser import generator_channels
    from gan.training.config import Pix2PixConfig
    from gan.training.loop import train_pix2pix as train

    config = Pix2PixConfig.model_validate(task.config)
    folder, split = Path(task.folder), _split(task)
    training = _training_store(task, split)
    validation = PartSlices.of_part(_real_slices(task, split), "validation")
    weights = task.inputs.get("vgg16_weights")
    result = train(
        training,
        validation,
        config,
        compute,
        folder,
        task.seed,
        report,
        ModelCard(**task.card),
        Path(weights) if weights else None,
    )
    labels = training.label_set
    size, channels = training.attributes.region_px, generator_channels(config, labels)
    shown = validation.at(most_lesion(validation.masks, labels))
    return Trained(
        scores={f"validation/{name}": value for name, value in result.validation.items()},
        module=lambda: load_exportable(folder),
        example=np.zeros((2, channels, size, size), np.float32),
        sheet=drawn_below_real(shown, redraw(folder, shown.images, shown.masks, compute, task.seed), labels),
    )


def train_segmenter(task: TrainingTask, compute: Compute, report: Report) -> Trained:
    """Train one network on one training set with one seed."""
    from segmentation.prediction.familiarity import remember_training
    from segmentation.prediction.segmenter import load_exportable, load_segmenter
    from segmentation.training.config import TrainConfig
    from segmentation.training.loop import train_segmenter as train
    from segmentation.training.start_weights import refuse_tested

    config = TrainConfig.model_validate(task.config)
    folder, split = Path(task.folder), _split(task)
    if config.start_from is not None:
        refuse_tested(checked_model(config.start_from), task.card["source"], split.test)
    training = _training_store(task, split)
    real = _real_slices(task, split)
    validation = PartSlices.of_part(real, "validation")
    card = ModelCard(**task.card).completed(
        slices=len(training), patients=list(split.trained_on), region=dict(real.attributes.parameters)
    )
    result = train(training, validation, config, compute, folder, task.seed, report, card)
    remember_training(folder, real, split, compute)
    size = training.attributes.region_px
    scores = {f"validation/dice/{tissue}": value for tissue, value in result.dice.items()}
    shown = validation.at(most_lesion(validation.masks, training.label_set))
    predicted = load_segmenter(folder, compute).labels(shown.images)
    return Trained(
        scores={
            **scores,
            "validation/dice/mean": result.score,
            "images_per_second": result.images_per_second,
        },
        module=lambda: load_exportable(folder),
        example=np.zeros((2, 1, size, size), np.float32),
        sheet=beside_reference(shown.images, shown.masks, predicted, training.label_set, list(shown.case_ids)),
    )


STAGES: Mapping[str, Callable[[TrainingTask, Compute, Report], Trained]] = MappingProxyType(
    {"lv_localiser": train_lv_localiser, "pix2pix": train_pix2pix, "segmenter": train_segmenter}
)


def _split(task: TrainingTask) -> FoldSplit:
    return read_split(Path(task.inputs["patient_split"]), task.fold)


def _training_store(task: TrainingTask, split: FoldSplit) -> SliceStore:
    """Open the training set and assert the split again: a blocking check does not stop a separate run."""
    store = SliceStore.open(Path(task.inputs["training_set"]))
    assert_no_leak(store.rows, split, task.inputs["training_set"])
    return store


def _real_slices(task: TrainingTask, split: FoldSplit) -> SliceStore:
    """Open the fold's real slices, whose validation patients choose the checkpoint, and assert the split again."""
    store = SliceStore.open(Path(task.inputs["real_slices"]))
    assert_parts(store.rows, split, task.inputs["real_slices"])
    return store


def main() -> None:
    """Run the task that Dagster handed over; what goes wrong is left in `error.txt` for the asset to raise."""
    quieten()
    with open_dagster_pipes() as pipes:
        task = TrainingTask(**pipes.extras)
        try:
            run_task(task, pipes)
        except Exception as error:
            code, words = _verdict(error)
            (Path(task.folder) / ERROR_FILE).write_text(words, encoding="utf-8")
            if code != WRONG_INPUT:
                traceback.print_exc()
            raise SystemExit(code) from error


def _verdict(error: Exception) -> tuple[int, str]:
    """Return the exit status, and what the asset shall say."""
    if is_transient(error):
        return PASSING_FAULT, str(error) or type(error).__name__
    if isinstance(error, InputError | TrainingDivergedError):
        return WRONG_INPUT, str(error)
    if isinstance(error, torch.OutOfMemoryError):
        reason = str(error).partition(". ")[0]
        return 1, f"{reason}; set a smaller batch, or end what else uses the GPU, and rematerialise"
    return 1, f"{type(error).__name__}: {error}"


def run_task(task: TrainingTask, pipes: PipesContext | None = None) -> Trained:
    """Train as `task` says, one training at a time on one accelerator, tracked from start to end."""
    keep_freed_memory()
    with ExitStack() as lock:
        gpu = lock.enter_context(accelerator(task.device, task.lock))
        with start_tracker(task) as tracker:
            with lock:  # what comes after keeps nobody from training
                compute = choose_compute(task.device, task.precision, gpu=gpu, deterministic=task.deterministic)  # type: ignore[arg-type] # checked in Settings
                say(f"{task.stage}: {compute.description}")
                resumed = checkpoint_step(Path(task.folder) / CHECKPOINT)
                if resumed:
                    _log(pipes)(f"{task.tracking['name']}: continues after step {resumed}, the last checkpoint")
                trained = STAGES[task.stage](task, compute, report_to(tracker, pipes, task))
            tracker.final(trained.scores)
            for path in (Path(task.folder) / "history.csv", *save_pictures(Path(task.folder), trained.sheet)):
                tracker.artifact(path)
            tracker.model(Path(task.folder), trained.module, trained.example, name=str(task.tracking["name"]))
    write_json(Path(task.folder) / RESULT_FILE, _result(trained, tracker, resumed))
    return trained


def _result(trained: Trained, tracker: Tracker, resumed: int | None) -> dict[str, Any]:
    found = {"scores": dict(trained.scores), "run_id": tracker.run_id}
    return found | ({"resumed_after_step": resumed} if resumed else {})


def _log(pipes: PipesContext | None) -> Callable[[str], None]:
    return pipes.log.info if pipes else detail


def start_tracker(task: TrainingTask) -> Tracker:
    """Open (or continue) this training's MLflow run and record the data it trains on."""
    from imaging.slices.store import SliceStore

    tracking = task.tracking
    tracker = Tracker.of(tracking)
    if "training_set" in task.inputs:
        store = SliceStore.open(Path(task.inputs["training_set"]), verify=False)
        rows = store.rows[["case_id", "slice_index", "origin", "group"]]
        tracker.dataset(tracking["dataset"], store.digest, task.inputs["training_set"], "training", rows)
    return tracker


def report_to(tracker: Tracker, pipes: PipesContext | None, task: TrainingTask) -> Report:
    """Return the callback that carries each epoch's metrics to MLflow and one line to the log."""
    log = _log(pipes)

    def report(step: int, metrics: Mapping[str, float]) -> None:
        tracker.progress(step)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        log(f"{task.tracking['name']}: step {step}: {shown}")
        show_figures(metrics)
        if pipes:
            detail(f"    {task.tracking['name']}: step {step}: {figures_shown(metrics)}")

    return report
