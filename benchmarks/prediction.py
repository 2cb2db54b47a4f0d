"""Seconds that `scarforge predict` takes for a study, with the model loaded and with loading it, and what takes them.

The network is untrained (that does not change its time) and of the size a profile trains; the localiser answers a
central box, so that its own time is left out. Everything else is what the command does, files written included.

The shares are of the functions' own time in one study, as `cProfile` counts it.

    python -m benchmarks.prediction [--profile quick paper] [--network attention_res_unet halsr_net]
    python -m benchmarks.prediction --profile quick --slices 15 --size 480
"""

import argparse
import tempfile
import time
from itertools import islice
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import torch
from scipy.ndimage import zoom

from benchmarks.measuring import call_shares, told
from engine.settings import load_settings
from imaging.phantom import PhantomConfig, read_phantom
from imaging.slices.regions import RegionConfig
from imaging.studies.preparation import Box
from imaging.studies.study import Study
from imaging.volumes.new_studies import find_studies
from pipeline.commands.models import LoadedModel, Member, ModelName
from pipeline.commands.predict.predict import PredictionRun, PredictOptions
from pipeline.commands.predict.report import model_facts
from runtime.compute import Compute, choose_compute
from runtime.model_card import ModelCard
from runtime.model_folder import write_model_folder
from segmentation.networks.table import NETWORKS, build_network
from segmentation.prediction.familiarity import Familiarity, describe, fit_cloud
from segmentation.prediction.plausibility import MEASURES, SeenRange
from segmentation.prediction.segmenter import Segmenter, load_ensemble


class CentralBox:
    """A localiser that costs nothing."""

    def predict_image_box(self, image):
        """Return the middle 90 mm."""
        rows, columns = image.shape[1:]
        return Box(rows / 2 - 45, columns / 2 - 45, rows / 2 + 45, columns / 2 + 45)


def write_studies(folder: Path, count: int, slices: int, size: int) -> None:
    """Write phantom patients as NIfTI, of so many slices and, unless `size` is 0, so many pixels a side."""
    for number, study in enumerate(islice(read_phantom(PhantomConfig(patients=15)), count)):
        assert isinstance(study, Study)
        image = study.image[np.arange(slices) % len(study.image)]
        finer = [size / side for side in image.shape[1:]] if size else [1.0, 1.0]
        image = zoom(image, (1.0, *finer), order=1)
        file = nibabel.Nifti1Image(image.transpose(2, 1, 0), np.eye(4))
        between, row, column = study.spacing_mm
        file.header.set_zooms((column / finer[1], row / finer[0], between))
        nibabel.save(file, folder / f"study{number}.nii.gz")


def remembered(segmenter: Segmenter) -> Familiarity:
    """Return what a network of this size would remember: descriptions of the right length, of random numbers."""
    blank = np.zeros((1, 32, 32), np.float32)
    lengths = {
        name: len(values) for name, values in describe(segmenter.features(blank), blank, blank.astype(np.uint8)).items()
    }
    rng, patients = np.random.default_rng(0), np.arange(8).astype(str)
    clouds = {name: fit_cloud(rng.normal(size=(8, n)), patients, np.empty((0, n))) for name, n in lengths.items()}
    return Familiarity(clouds, SeenRange(dict.fromkeys(MEASURES, 0.0), dict.fromkeys(MEASURES, 1e6)))


def load(folder: Path, compute: Compute, flips: bool) -> LoadedModel:
    """Load the model as the command does."""
    name = ModelName("phantom", "benchmark", "network", "real_only")
    segmenter = load_ensemble([folder], compute, flips)
    return LoadedModel(
        name, (Member(folder, 0, 0),), segmenter, (CentralBox(),), "central box", RegionConfig(), (None,)
    )


def measure(profile: str, network: str, flips: bool, studies: Path, compute: Compute) -> dict[str, object]:
    """Return seconds to load and predict the first study, and medians over the others: of the clock, of all cores."""
    config = load_settings(profile).network(network)
    with tempfile.TemporaryDirectory() as folder:
        write_model_folder(
            Path(folder), build_network(config.network, 5).state_dict(), config, ModelCard(label_set="emidec")
        )
        start = time.perf_counter()
        model = load(Path(folder), compute, flips)
        loading = time.perf_counter() - start
        found = find_studies([studies])
        names = frozenset(study.case_id for study in found)
        run = PredictionRun(
            model, PredictOptions(str(model.name), Path(folder) / "out"), model_facts(model, "benchmark"), names
        )
        seconds, processor_s = [], []
        for study in found:
            start, used = time.perf_counter(), time.process_time()
            run.study(study)
            seconds.append(time.perf_counter() - start)
            processor_s.append(time.process_time() - used)
        assert len(run.rows) == len(found), run.problems
        print(f"{profile}, {network}{', flips' * flips}: {told(call_shares(lambda: run.study(found[-1])))}")
    return {
        "profile": profile,
        "network": network,
        "flips": flips,
        "load_and_first_s": loading + seconds[0],
        "loaded_s": float(np.median(seconds[1:])),
        "processor_s": float(np.median(processor_s[1:])),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--profile", nargs="+", default=["quick", "paper"])
    parser.add_argument("--network", nargs="+", default=list(NETWORKS))
    parser.add_argument("--studies", type=int, default=4)
    parser.add_argument("--slices", type=int, default=10, help="of a study")
    parser.add_argument("--size", type=int, default=0, help="pixels a side; the phantom's own if 0")
    options = parser.parse_args()
    compute = choose_compute()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        write_studies(Path(folder), options.studies, options.slices, options.size)
        rows = [
            measure(profile, network, flips, Path(folder), compute)
            for profile in options.profile
            for network in options.network
            for flips in (False, True)
        ]
    print(f"{compute.description}; studies of {options.slices} slices")
    print("targets for ten slices: load and first 6 s, loaded 1.5 s without flips")
    print(pd.DataFrame(rows).round(2).to_string(index=False))


if __name__ == "__main__":
    main()
