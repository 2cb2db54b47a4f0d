"""Whether a heart has an infarct and no-reflow: the judge of the unrolled wall, the fixed rule, and no rule.

Reads an experiment's arm of Attention Res-UNet on real slices, or the graph's own folder; folds may be missing.
Each fold's judge learns from that fold's training patients alone. `validation` patients decide whether it is worth
having; `test` patients are scored once. Dice are on the regions. A fold that was done is read from OUTPUT again.

    python -m benchmarks.lesion_judge --arm workspace/emidec/best/experiments/NAME/arms/ARM --output DIR
        [--part validation]
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from common.seeds import random_generator
from imaging.dice import dice
from imaging.slices.part import PartSlices
from imaging.slices.store import SliceStore
from imaging.studies.split import Part
from runtime.compute import choose_compute
from segmentation.corrector.judge import LESIONS, JudgeConfig, LesionJudge, read_judge, write_judge
from segmentation.corrector.training import train_judge
from segmentation.prediction.post_processing import SURE_AREA_PX, SURE_PROBABILITY
from segmentation.prediction.segmenter import Segmenter, load_segmenter

_MODEL = "attention_res_unet_real_only"
_RULES = ("no rule", "fixed rule", "judge")


def main() -> None:
    """Train the judges, judge the patients, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--part", choices=("validation", "test"), default="validation")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    folds = sorted(options.arm.glob(f"{_MODEL}/fold_[0-9]/seed_0"))
    patients = pd.concat([_fold(options.arm, model, options.part, options.output) for model in folds])
    print(table(patients).to_string(index=False))


def table(patients: pd.DataFrame) -> pd.DataFrame:
    """Return the figures of each lesion and rule, means with 95 % bootstrap intervals over patients."""
    rows = []
    for (lesion, rule), of in patients.groupby(["lesion", "rule"], sort=False):
        having = of["present"] == 1
        figures = {
            "official": of["official"],
            "positive": of.loc[having, "official"],
            "found": of.loc[having, "drawn"],
            "rightly none": 1 - of.loc[~having, "drawn"],
        }
        rows.append({"lesion": lesion, "rule": rule} | {name: _mean(values) for name, values in figures.items()})
    return pd.DataFrame(rows)


def _mean(values: pd.Series) -> str:
    found = values.to_numpy(dtype=float)
    drawn = random_generator(0, "bootstrap").integers(len(found), size=(4000, len(found)))
    low, high = np.quantile(found[drawn].mean(axis=1), [0.025, 0.975])
    return f"{found.mean():.3f} ({low:.3f} to {high:.3f}) of {len(found)}"


def _fold(arm: Path, model: Path, part: Part, output: Path) -> pd.DataFrame:
    place, kept = output / f"{model.parent.name}_{part}.csv", output / model.parent.name
    if not place.exists():
        store = SliceStore.open(arm / "real_slices" / model.parent.name / "slices.h5")
        compute = choose_compute("cpu", "auto", 1)
        if not (kept / "judge.json").exists():
            training = PartSlices.of_part(store, "train")
            write_judge(kept, train_judge(training, load_segmenter(model, compute, flips=False), JudgeConfig(), seed=0))
        judged = _judged(read_judge(kept), load_segmenter(model, compute), PartSlices.of_part(store, part))
        pd.DataFrame(judged).to_csv(place, index=False)
    return pd.read_csv(place)


def _judged(judge: LesionJudge, segmenter: Segmenter, slices: PartSlices) -> Iterator[dict[str, object]]:
    for stack in slices.stacks():
        images, reference = slices.images[stack.rows], slices.masks[stack.rows]
        probabilities = segmenter.probabilities(images)
        verdicts, believed = judge.verdicts(probabilities, images), True
        for lesion in LESIONS:
            lies, found = reference >= lesion, probabilities.argmax(axis=1) >= lesion
            sure = np.sort(probabilities[:, lesion:].sum(axis=1), axis=None)[-SURE_AREA_PX[lesion] :].mean()
            believed = believed and bool(sure >= SURE_PROBABILITY)
            rules = (True, believed, verdicts[lesion].drawn)
            for rule, drawn in zip(_RULES, rules, strict=True):
                kept = found & drawn
                shared, here, there = (np.count_nonzero(one) for one in (lies & kept, lies, kept))
                yield {
                    "case_id": stack.case_id,
                    "lesion": lesion.name.lower(),
                    "rule": rule,
                    "present": int(lies.any()),
                    "drawn": int(kept.any()),
                    "official": float(dice(shared, here, there)),
                    "probability": verdicts[lesion].probability,
                    "sure": float(sure),
                }


if __name__ == "__main__":
    main()
