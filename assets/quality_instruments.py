"""What synthetic slices are measured with: extractors, a judge, the generator itself, a segmenter they teach."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
from numpy.typing import NDArray

from assets.parts.inputs import slices_file, split_file, varied_slices_file
from assets.parts.training_run import train_in_own_process
from engine.forge import Forge, require_fold
from segmentation.model_kind import ModelKind

if TYPE_CHECKING:
    from engine.settings import QualitySettings, Settings
    from gan.quality.proof import Extractor, Instruments
    from gan.quality.slices import PairDistance
    from gan.quality.variety import Draw
    from imaging.slices.part import PartSlices
    from runtime.compute import Compute
    from segmentation.prediction.segmenter import Segmenter
    from segmentation.training.config import TrainConfig

JUDGE = ModelKind.parse("attention_res_unet_real_only")


def instruments_of(
    forge: Forge, fold: int, validation: "PartSlices", compute: "Compute", taught: Path | None
) -> "Instruments":
    """Return everything that measures; `taught` is the model folder of `teach_by_synthetic`."""
    from gan.quality.proof import Instruments
    from segmentation.prediction.segmenter import load_segmenter

    settings = forge.settings()
    judge = load_segmenter(forge.finished(JUDGE.name, fold, settings.seeds[0]).model(), compute)
    return Instruments(
        extractors(settings.quality, judge, compute),
        judge.labels,
        _draw(forge, fold, validation, compute),
        perceptual_distances(settings.quality, compute),
        None if taught is None else load_segmenter(taught, compute).labels,
        settings.quality.classifier_steps,
    )


def extractors(settings: "QualitySettings", judge: "Segmenter", compute: "Compute") -> list["Extractor"]:
    """Return ImageNet VGG16 and Inception where weights are given, and always the judge's own encoder.

    Of the encoder, all stages: its bottleneck alone holds where tissues are and is blind to grain and edges, so
    that it took painted means for more real than real slices of other patients.
    """
    from gan.quality.proof import Extractor

    found = []
    if settings.vgg16_weights:
        from gan.networks.features import vgg16_features

        found.append(Extractor("ImageNet VGG16", vgg16_features(Path(settings.vgg16_weights), compute)))
    if settings.inception_weights:
        from gan.networks.features import InceptionFeatures

        inception = InceptionFeatures(Path(settings.inception_weights), compute)
        found.append(Extractor("ImageNet Inception", inception, inception.probabilities))
    return [*found, Extractor(f"encoder stages of {JUDGE.name}", judge.stage_statistics)]


def perceptual_distances(settings: "QualitySettings", compute: "Compute") -> dict[str, "PairDistance"]:
    """Return LPIPS on the networks whose weights are given, AlexNet first."""
    from gan.quality.fidelity import perceptual_distance

    found: dict[str, PairDistance] = {}
    if settings.alexnet_weights:
        found["LPIPS AlexNet"] = perceptual_distance(Path(settings.alexnet_weights), "alexnet", compute)
    if settings.vgg16_weights:
        found["LPIPS VGG16"] = perceptual_distance(Path(settings.vgg16_weights), "vgg16", compute)
    return found


def utility_config(settings: "Settings") -> "TrainConfig | None":
    """Return how the segmenter on synthetic slices is trained, None where it is switched off."""
    config, steps = settings.network(JUDGE.network), settings.quality.utility_steps
    if steps == 0:
        return None
    if steps is None:
        return config
    changed = {"steps": steps, "validate_every": min(config.validate_every, steps)}
    return type(config).model_validate({**config.model_dump(mode="json"), **changed})


def _draw(forge: Forge, fold: int, validation: "PartSlices", compute: "Compute") -> "Draw | None":
    """Return a function that draws validation slices again with given seeds of the noise, which transplants lack.

    None for slices of a folder, which come without what made them.
    """
    from gan.generation.hole import own_hole
    from gan.generation.slices import load_generator
    from gan.generation.transplant import retransplant

    settings = forge.settings()
    if settings.from_folder:
        return None
    if settings.transplants:
        again = retransplant(validation.images, validation.masks, settings.transplant)
        return lambda rows, _: again[rows]
    generator = load_generator(forge.finished("pix2pix", fold).model(), compute)
    holes = own_hole(validation.masks, generator.config.paint, generator.config.hole_margin_px)

    def draw(rows: NDArray[np.integer[Any]], seeds: Sequence[int]) -> NDArray[np.float32]:
        return generator.draw(validation.masks[rows], validation.images[rows], holes[rows], seeds)

    return draw


def teach_by_synthetic(context: dg.AssetExecutionContext, forge: Forge, folder: Path) -> Path | None:
    """Train a segmenter on synthetic slices alone where that is configured, and return its model folder."""
    fold, settings = require_fold(context), forge.settings()
    config = utility_config(settings)
    if config is None:
        return None
    model = folder / "utility"
    model.mkdir(exist_ok=True)
    inputs = {
        "training_set": varied_slices_file(forge, fold),
        "real_slices": slices_file(forge, "real_slices", fold),
        "patient_split": split_file(forge),
    }
    tags = {"stage": "utility", "network": JUDGE.network, "training_set": "synthetic"}
    train_in_own_process(context, forge, model, "segmenter", inputs, config, settings.seeds[0], tags)
    return model
