"""Scores of one of a sweep's models on the fold's test patients, as the scores assets form them."""

import math
from pathlib import Path

from pipeline.forge import Forge
from pipeline.outcome import Outcome, number
from training.files import write_json


def score_model(
    forge: Forge, fold: int, network: str, training_set: str, seed: int, model: Path, folder: Path
) -> Outcome:
    """Write `scores.csv` and `manifest.json` into `folder`; return mean Dice by rule and tissue."""
    from assets.inputs import open_slices, open_split, open_studies
    from assets.scores import dice_means
    from imaging.regions import read_regions
    from segmentation.held_out import HeldOutPatients
    from segmentation.predict import load_segmenter
    from segmentation.scores import ScoreIdentity, score_table, write_scores
    from training.compute import choose_compute

    settings = forge.settings()
    patients = HeldOutPatients(
        open_studies(forge),
        open_slices(forge, "real_slices", fold),
        read_regions(forge.finished("real_slices", fold).file("regions.csv")),
        open_split(forge, fold),
    )
    segmenter = load_segmenter(model, choose_compute(settings.device, settings.precision))
    identity = ScoreIdentity(fold, network, training_set, seed)
    table = score_table(patients.cases(segmenter.labels(patients.images())), identity, patients.labels)
    write_scores(folder / "scores.csv", table)
    write_json(folder / "manifest.json", forge.manifest())
    means = dice_means(table).to_dict("records")
    values = {f"dice/{row['rule']}/{row['tissue']}": float(row["dice"]) for row in means}
    return Outcome({name: number(value) for name, value in values.items() if math.isfinite(value)})
