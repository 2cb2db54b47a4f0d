"""The three kinds of training, each fed from the files its task names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from engine.finished import checked_model
from engine.worker.pictures import beside_reference, boxed, drawn_below_real, most_lesion
from engine.worker.task import TrainingTask
from imaging.slices.part import PartSlices
from imaging.slices.store import SliceStore
from imaging.studies.leakage import assert_no_leak, assert_parts
from imaging.studies.split import FoldSplit, read_split
from runtime.compute import Compute, choose_compute
from runtime.model_card import ModelCard
from runtime.report import Report

if TYPE_CHECKING:
    from imaging.studies.archive import StudyArchive
    from segmentation.localiser.use import Localiser

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
    from segmentation.localiser.config import LocaliserConfig
    from segmentation.localiser.training import train_localiser
    from segmentation.localiser.use import load_localiser

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
