"""What one finished trial is measured on and with: the fold's validation slices, simulated masks, judge, features."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gan.generate import generate_slices, redraw
from gan.quality_realism import Extractor
from gan.quality_slices import PairedSlices
from gan.trials import TrialInstruments, measure_trial
from imaging.slice_store import SliceStore
from imaging.tables import read_csv
from pipeline.forge import Forge
from pipeline.settings import Settings
from pipeline.trials_page import save_pairs
from training.compute import Compute
from training.model_folder import read_model_json

if TYPE_CHECKING:
    from segmentation.predict import Segmenter


@dataclass(frozen=True)
class TrialMaterial:
    """Where a trial's figures come from.

    Attributes:
        forge: Source, profile and workspace.
        fold: The fold.
        settings: Resolved.
        compute: What is computed on.
        judge: Folder of the segmenter trained on real slices, or None.
        masks: Store of simulated masks, or None; then adherence is that of the redrawn validation slices.
    """

    forge: Forge
    fold: int
    settings: Settings
    compute: Compute
    judge: Path | None
    masks: Path | None

    def figures_of(self, model: Path, folder: Path) -> dict[str, float]:
        """Measure a model folder, and save `pairs.png` into `folder`."""
        from assets.inputs import open_slices

        store = open_slices(self.forge, "real_slices", self.fold)
        real = self._validation(store)
        redrawn = redraw(model, real.images, real.masks, self.compute, self.settings.split_seed)
        drawn = real.painted_as(redrawn) if self.masks is None else self._drawn(model, folder, self.masks)
        save_pairs(real, redrawn, store.label_set, folder / "pairs.png")
        figures = measure_trial(redrawn, real, drawn, self.instruments(), store.label_set)
        return {**figures, **course_of(model)}

    def _validation(self, store: SliceStore) -> PairedSlices:
        from assets.inputs import open_split

        split = open_split(self.forge, self.fold)
        seen = store.masks().any(axis=(1, 2))
        return PairedSlices.of(store, np.flatnonzero(store.rows["case_id"].isin(split.validation).to_numpy() & seen))

    def _drawn(self, model: Path, folder: Path, masks: Path) -> PairedSlices:
        """Draw slices from simulated masks; the file is not kept."""
        path, count = folder / "slices.h5", self.settings.quality.slices
        simulated = SliceStore.open(masks, verify=False)
        generate_slices(model, simulated, path, count, self.compute, self.settings.split_seed, "trials")
        with SliceStore.open(path, verify=False) as store:
            drawn = PairedSlices.of(store, np.arange(len(store)))
        path.unlink()
        return drawn

    def instruments(self) -> TrialInstruments:
        """Return what the settings and the finished judge allow."""
        from assets.quality_instruments import perceptual_distances

        segmenter = self._segmenter
        perceptual = perceptual_distances(self.settings.quality, self.compute)
        return TrialInstruments(self._extractors(), perceptual, None if segmenter is None else segmenter.labels)

    def _extractors(self) -> list[Extractor]:
        """Return ImageNet features where weights are given, else the judge's encoder where it is finished."""
        quality, found = self.settings.quality, []
        if quality.vgg16_weights:
            from gan.vgg_features import vgg16_features

            found.append(Extractor("VGG16", vgg16_features(Path(quality.vgg16_weights), self.compute)))
        if quality.inception_weights:
            from gan.inception_features import InceptionFeatures

            inception = InceptionFeatures(Path(quality.inception_weights), self.compute)
            found.append(Extractor("Inception", inception, inception.probabilities))
        if not found and self._segmenter is not None:
            found.append(Extractor("judge's encoder", self._segmenter.stage_statistics))
        return found

    @cached_property
    def _segmenter(self) -> "Segmenter | None":
        from segmentation.predict import load_segmenter

        return None if self.judge is None else load_segmenter(self.judge, self.compute)


def course_of(model: Path) -> dict[str, float]:
    """Return millions of parameters of a generator, minutes of its training, and the step that was kept."""
    card = read_model_json(model, "model_card.json")
    history = read_csv(model / "history.csv")
    batch = read_model_json(model, "config.json")["batch"]
    steps = history["step"].diff().fillna(history["step"])
    seconds = (steps * batch / history["images_per_s"]).sum()
    return {
        "parameters_M": card["parameters"] / 1e6,
        "minutes": float(seconds) / 60,
        "selected_step": float(card["selected_step"]),
    }
