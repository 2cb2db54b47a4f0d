"""How well the localiser finds ventricles of patients it has not seen, by cross-validation, and in what time.

Each fold trains on its training patients alone and boxes its test patients. Beside the overlap (IoU) stand that of a
central box of mean training size, the distance of the centres, and the share of slices whose whole ventricle lies in
the region that is cut around the predicted centre.

    python -m benchmarks.localiser --source acdc --root DIR [--head regression] [--set localiser.steps=500]
"""

import argparse
import tempfile
import time
from pathlib import Path

import pandas as pd

from engine.settings import Settings, load_settings
from imaging.sources.table import read_source, source_labels
from imaging.studies.archive import StudyArchive
from imaging.studies.archive_writer import write_studies
from imaging.studies.split import FoldSplit, split_patients
from runtime.checkpoint import delete_checkpoint
from runtime.compute import Compute, choose_compute
from runtime.model_card import ModelCard
from runtime.report import silent
from segmentation.localiser.box_prediction import box_scores, load_localiser
from segmentation.localiser.training import train_localiser


def main() -> None:
    """Train every fold, score its test patients and print."""
    options = _parse()
    overrides = [*options.set, *([f"localiser.head={options.head}"] if options.head else [])]
    settings = load_settings(options.profile, overrides)
    compute, config = choose_compute(settings.device, settings.precision), settings.localiser
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        archive = _archive(options, settings, folder)
        print(f"{options.source}: {len(archive.groups())} patients, {len(archive.keys())} studies")
        print(f"{config.head}, {config.input_px} px, {config.steps} steps of {config.batch}; {compute.description}")
        splits = split_patients(archive.groups(), options.folds, settings.validation_share, settings.split_seed)
        chosen = [split for split in splits if not options.only or split.fold in options.only]
        scores = pd.concat([_fold(archive, split, settings, compute, folder) for split in chosen], ignore_index=True)
    print(_table(scores).to_string(index=False, float_format="%.3f"))
    if options.output:
        scores.to_csv(options.output, index=False)


def _fold(archive: StudyArchive, split: FoldSplit, settings: Settings, compute: Compute, folder: Path) -> pd.DataFrame:
    """Return the scores of one fold's test studies, beside the seconds that its training took."""
    model = folder / f"fold_{split.fold}"
    start = time.perf_counter()
    train_localiser(archive, split, settings.localiser, compute, model, settings.split_seed, silent, ModelCard())
    delete_checkpoint(model)
    seconds = time.perf_counter() - start
    scores = box_scores(load_localiser(model, compute), archive, split, settings.region.size_px)
    scores = scores[scores["part"] == "test"].assign(fold=str(split.fold), seconds=seconds)
    print(f"fold {split.fold}: test IoU {scores['iou'].mean():.3f} after {seconds:.0f} s", flush=True)
    return scores


def _table(scores: pd.DataFrame) -> pd.DataFrame:
    """Return one row a fold and one of all: what the module's first lines name."""
    parts = [(fold, rows) for fold, rows in scores.groupby("fold")]
    return pd.DataFrame([_row(str(fold), rows) for fold, rows in [*parts, ("all", scores)]])


def _row(fold: str, rows: pd.DataFrame) -> dict[str, object]:
    error = rows["centre_error_mm"]
    return {
        "fold": fold,
        "studies": len(rows),
        "IoU": rows["iou"].mean(),
        "lowest IoU": rows["iou"].min(),
        "fixed box IoU": rows["fixed_box_iou"].mean(),
        "centre error mm": error.mean(),
        "95th percentile": error.quantile(0.95),
        "slices": int(rows["slices"].sum()),
        "wholly inside": 1 - rows["slices_outside"].sum() / rows["slices"].sum(),
        "training s": rows.groupby("fold")["seconds"].first().mean(),
    }


def _archive(options: argparse.Namespace, settings: Settings, folder: Path) -> StudyArchive:
    path = folder / "studies.h5"
    if not path.exists():
        items = read_source(options.source, options.root, settings.phantom, settings.source)
        write_studies(path, items, source_labels(options.source, settings.source), options.source)
    return StudyArchive.open(path)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--source", default="phantom")
    parser.add_argument("--root", type=Path, help="folder that holds the source's studies")
    parser.add_argument("--folder", type=Path, help="keep studies and models here, and use the studies found here")
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--head", default="", help="footprint, regression or soft_argmax; the profile's if absent")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--only", type=int, action="append", help="train only this fold; may be repeated")
    parser.add_argument("--output", type=Path, help="write the scores of every test study as CSV")
    return parser.parse_args()


if __name__ == "__main__":
    main()
