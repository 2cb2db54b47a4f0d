"""Toy patients, their scores and everything a report is made of; the ventricles are drawn by hand."""

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd

from imaging.labels import EMIDEC_LABELS, Tissue
from imaging.slices.balance import BalanceConfig
from imaging.slices.regions import RegionConfig
from runtime.model_card import ModelCard
from segmentation.comparison.arms import ScoredTable, compare_arms
from segmentation.report.material import Arm, Case, Provenance, ReportMaterial, Setup, Synthesis, Training
from segmentation.scoring.scores import ScoreIdentity, score_table
from segmentation.training.config import MixingConfig, NetworkConfig, TrainConfig

ARMS = ("real_only", "real_plus_gan")
NETWORK = "attention_res_unet"
SPACING_MM = (8.0, 1.0, 1.0)


def ventricle(infarct=True, no_reflow=True, slices=4, size=32):
    """A stack (S, H, W) of rings that get smaller towards the last slice, with an infarct above."""
    rows, columns = np.indices((size, size)) - size / 2
    radius = np.hypot(rows, columns)
    mask = np.zeros((slices, size, size), np.uint8)
    for index in range(slices):
        outer = 13 - index
        mask[index][radius < outer] = Tissue.NORMAL_MYOCARDIUM
        mask[index][radius < outer - 5] = Tissue.CAVITY
        wall = mask[index] == Tissue.NORMAL_MYOCARDIUM
        if infarct:
            mask[index][wall & (rows < -abs(columns))] = Tissue.INFARCT
        if infarct and no_reflow:
            mask[index][wall & (rows < -3 * abs(columns)) & (radius < outer - 3)] = Tissue.NO_REFLOW
    return mask


def worsened(mask, share, rng):
    """The mask with a share of its labels lost."""
    return np.where(rng.random(mask.shape) < share, 0, mask).astype(np.uint8)


def setup(**changed):
    network = NetworkConfig(name=NETWORK, widths=(4, 8), bottleneck=8, dropout=(0.0,))
    synthesis = Synthesis(123, 4, 77.0, "hinge", True, {"hybrid_injection": 1.0}, (0.1, 0.5), (0.1, 0.4))
    made = Setup(
        source="emidec <i>",
        profile="quick",
        patients={"normal": 3, "infarct": 4, "no_reflow": 5},
        slices=96,
        folds=5,
        validation_share=0.15,
        seeds=(0,),
        region=RegionConfig(size_px=32),
        balance=BalanceConfig(),
        training_slices=640,
        synthetic_slices=160,
        localiser_steps=321,
        synthesis=synthesis,
        networks={NETWORK: TrainConfig(network=network, steps=999, batch=7, learning_rate=0.004)},
        mixing=MixingConfig(),
    )
    return replace(made, **changed)


def training(arm, fold=0, seed=0):
    card = {
        "network": NETWORK,
        "training_set": arm,
        "seed": seed,
        "slices": 640,
        "steps": 999,
        "best_step": 500,
        "parameters": 1_230_000,
        "precision": "fp32",
        "validation": {"rule": "positive", "dice": {}, "mean": 0.5},
        "parents": {f"training_set_{arm}": f"digest-{arm}"},
    }
    history = pd.DataFrame(
        {"step": [500, 999], "loss": [1.0, 0.5], "dice/mean": [0.5, 0.4], "dice/infarct": [0.3, 0.2]}
    )
    return Training(fold, ModelCard.model_validate(card), history, f"http://127.0.0.1:5000/#/runs/{arm}", "")


@cache
def material(patients=10, arms=ARMS, seeds=(0,), loss=(0.3, 0.1), lesions=(True, True), keep=True, **changed):
    """A report's material of `patients`; every fifth is normal. `loss` is what each arm loses of its labels."""
    references = {
        f"P{number:02d}": ventricle(infarct=lesions[0] and number % 5 > 0, no_reflow=lesions[1])
        for number in range(patients)
    }
    tables, drawn = [], {}
    for arm, share in zip(ARMS, loss, strict=True):
        for seed in seeds if arm in arms else ():
            rng = np.random.default_rng([seed, len(arm)])
            own = {name: worsened(mask, share, rng) for name, mask in references.items()}
            drawn[Arm(NETWORK, arm, seed)] = own
            volumes = [(name, "", references[name], own[name], SPACING_MM) for name in references]
            scores = score_table(volumes, ScoreIdentity(0, NETWORK, arm, seed), EMIDEC_LABELS)
            tables.append(ScoredTable(scores, {"source": "toy"}))
    cases = [
        Case(name, "", np.full(mask.shape, 0.5, np.float16), mask, {arm: own[name] for arm, own in drawn.items()})
        for name, mask in references.items()
    ]
    return ReportMaterial(
        comparison=compare_arms(tables),
        scores=pd.concat([table.scores for table in tables], ignore_index=True),
        labels=EMIDEC_LABELS,
        setup=setup(**changed),
        trainings=[training(arm, seed=seed) for arm in arms for seed in seeds],
        cases=cases if keep else [],
        provenance=Provenance(
            {"studies": "abc123"},
            {"numpy": "2.0"},
            {"cores": "2"},
            ["scarforge run --source emidec --root DIR --fold 0"],
        ),
        notes=("A note <b>.",),
    )
