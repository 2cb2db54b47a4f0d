"""What the acceptance on a GPU is measured with: slices, and how large networks and batches are.

What does not live here: the measurements (`benchmarks.gpu_acceptance`).
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.growth import convolution_rate
from engine.settings import load_settings
from gan.training.batches import ResidentSlices
from gan.training.config import PRESETS, Pix2PixConfig
from gan.training.steps import Players
from imaging.phantom import PhantomConfig, read_phantom
from imaging.slices.part import PartSlices
from imaging.slices.regions import RegionConfig, write_real_slices
from imaging.slices.store import SliceStore
from imaging.sources.config import SourceConfig
from imaging.sources.table import read_source, source_labels
from imaging.studies.archive import StudyArchive
from imaging.studies.archive_writer import write_studies
from imaging.studies.preparation import reference_box
from imaging.studies.split import FoldSplit
from runtime.compute import Compute, choose_compute
from segmentation.training import loop
from segmentation.training.config import TrainConfig

_SMALL = {
    "attention_res_unet": {"widths": (4, 8), "bottleneck": 8},
    "halsr_net": {"widths": (4, 8), "bottleneck": 8, "module_width": 4, "dropout": (0, 0, 0)},
    "pix2pix": {"widths": (4, 8), "discriminator_widths": (4, 8), "validation_slices": 2},
}


def reference_slices(
    path: Path, archive: StudyArchive, split: FoldSplit, config: RegionConfig, seed: int
) -> SliceStore:
    """Write all regions around reference boxes, without a localiser, and open them."""
    keys = archive.keys()
    boxes = {key: reference_box(archive.load(*key).mask) for key in keys}
    write_real_slices(path, archive, split, boxes, config, seed, "benchmark")
    return SliceStore.open(path)


@dataclass(frozen=True)
class Bench:
    """What is measured with: the material, and how large everything is.

    Attributes:
        archive: Studies.
        split: All of them but three train; two validate.
        store: All regions, which the trainings take.
        compute: What is measured, in its default precision.
        folder: For what the trainings write.
        options: Seconds, batches, `small`.
        rate: Operations a second of the convolution.
    """

    archive: StudyArchive
    split: FoldSplit
    store: SliceStore
    compute: Compute
    folder: Path
    options: argparse.Namespace
    rate: float

    @classmethod
    def make(cls, options: argparse.Namespace, folder: Path) -> "Bench":
        """Write the slices, and see what a convolution reaches."""
        items = (
            read_source(options.source, options.root, PhantomConfig(), SourceConfig())
            if options.root
            else read_phantom(PhantomConfig(patients=options.patients, slices=(3, 4) if options.small else (6, 9)))
        )
        write_studies(folder / "studies.h5", items, source_labels(options.source, SourceConfig()), options.source)
        archive = StudyArchive.open(folder / "studies.h5")
        patients = sorted(archive.groups())
        split = FoldSplit(0, tuple(patients[:-3]), tuple(patients[-3:-1]), tuple(patients[-1:]))
        store = reference_slices(folder / "slices.h5", archive, split, RegionConfig(), 0)
        rate = convolution_rate(16, 32, 2) if options.small else convolution_rate(64, 128)
        return cls(archive, split, store, choose_compute(options.device), folder, options, rate)

    @property
    def validation(self) -> PartSlices:
        """The slices of the two patients."""
        return PartSlices.of_part(self.store, "validation")

    def segmenter(self, name: str, **changes: Any) -> TrainConfig:
        """Return how a network of published widths is trained, with changes."""
        config = load_settings("paper").network(name)
        network = config.network.model_dump() | (_SMALL[name] if self.options.small else {})
        if self.options.small:
            changes = {"crop_px": 32} | changes
        return TrainConfig.model_validate(config.model_dump() | changes | {"network": network})

    def narrow_segmenter(self, name: str, **changes: Any) -> TrainConfig:
        """Return the same of the quick profile's widths, which a CPU keeps up with; without dropout."""
        config = load_settings("quick").network(name).network.model_dump()
        config["dropout"] = tuple(0.0 for _ in config["dropout"])
        return (
            self.segmenter(name, **changes)
            if self.options.small
            else self.segmenter(name).model_copy(update={"network": config} | changes)
        )

    def pix2pix(self, preset: str, **changes: Any) -> Pix2PixConfig:
        """Return a preset of Pix2Pix with changes."""
        small = _SMALL["pix2pix"] if self.options.small else {}
        changes |= {"crop_px": 64} if self.options.small and PRESETS[preset].crop_px else {}
        return Pix2PixConfig.model_validate(PRESETS[preset].model_dump() | small | changes)

    def training(self, config: TrainConfig, compute: Compute, name: str = "run") -> Any:
        """Return a segmenter's training before its first step."""
        torch.cuda.empty_cache()
        run = loop._Training(self.store, self.validation, config, compute, self.folder / name, 0)
        run.network.train()
        return run

    def players(self, config: Pix2PixConfig, compute: Compute) -> Players:
        """Return Pix2Pix's networks before their first step."""
        torch.cuda.empty_cache()
        return Players(ResidentSlices.load(self.store, config, compute, 0), compute, 0)
