"""The published figures beside this run's, and how the protocols differ.

What the two published sources report, with their citations: the only figures here that this project did not measure.

A field that a source does not state is said so in words, never filled in.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd

from common.pages.words import ABSENT, count, interval, listed, number, words
from segmentation.comparison.statistics import CONFIDENCE, one_training_set, sources_of_variation
from segmentation.model_kind import REAL_ONLY, REAL_PLUS_GAN
from segmentation.report.material import ReportMaterial


@dataclass(frozen=True)
class PublishedStudy:
    """A published study: its results in one line, and how it was done, by aspect."""

    short: str
    citation: str
    result: str
    protocol: Mapping[str, str]


ASPECTS = (
    "data",
    "patients",
    "split",
    "test slices",
    "image",
    "training slices",
    "trainings",
    "checkpoint",
    "score",
    "uncertainty",
)

SYNTHESIS_STUDY = PublishedStudy(
    short="infarct-synthesis study",
    citation="Infarct synthesis with Pix2Pix, segmentation with Attention Res-UNet, EMIDEC; Cairo University 2025",
    result="Mean Dice of the four tissues 0.7268 with real slices only, 0.7752 with real and synthetic slices.",
    protocol=MappingProxyType(
        {
            "data": "EMIDEC (late gadolinium enhancement)",
            "patients": "100 public patients",
            "split": "one split by patient: 85 training, 15 test patients",
            "test slices": "98",
            "image": "128 × 128 region around the left ventricle, 1 × 1 mm, 2nd to 98th percentile",
            "training slices": "10,000 augmented; 5,000 augmented and 5,000 synthetic",
            "trainings": "one of each arm",
            "checkpoint": "of the generator: lowest training loss; of the segmenter: not stated",
            "score": "Dice; the rule for a tissue that is absent is not stated",
            "uncertainty": "none given",
        }
    ),
)

# Dice on the test patients (real only, real + GAN); results table of the study.
SYNTHESIS_DICE: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "cavity": (0.9350, 0.9365),
        "normal_myocardium": (0.8222, 0.8319),
        "infarct": (0.6126, 0.6651),
        "no_reflow": (0.5376, 0.6676),
    }
)
SYNTHESIS_MEAN = (0.7268, 0.7752)

HALSR_STUDY = PublishedStudy(
    short="HALSR-Net",
    citation="Fakhfakh, Sarry and Clarysse, HALSR-Net, Computerized Medical Imaging and Graphics 123, 2025, 102546",
    result="“Up to 98 % accuracy and F1-score” for cavity and myocardium on cine; no infarct, no synthetic data.",
    protocol=MappingProxyType(
        {
            "data": "cine: in-house, ACDC, LVQuan19",
            "patients": "public parts: ACDC 100, LVQuan19 56; the in-house number is not known here",
            "split": "by slice in the published code, so that a patient may be on both sides",
            "test slices": "not known here",
            "image": "256 × 256 in the published code, which lacks the first stage that finds the ventricle",
            "training slices": "real slices only",
            "trainings": "up to 300 epochs, batch 32; their number is not known here",
            "checkpoint": "early stopping on the set that is also scored",
            "score": "accuracy and F1-score",
            "uncertainty": "none given",
        }
    ),
)


_RULE = "positive"


class Beside(NamedTuple):
    """A row of the table: Dice of one tissue as (real only, real + GAN, difference), ours with the interval, or ""."""

    tissue: str
    published: tuple[str, str, str]
    ours: tuple[tuple[str, str, str, str], ...]


def figures_beside(material: ReportMaterial) -> list[Beside]:
    """Return a row for each published tissue, and their mean; one group of three columns a network of ours."""
    rows = [
        Beside(
            words(tissue),
            _three(*SYNTHESIS_DICE[tissue], digits=4),
            tuple(_ours(material, n, tissue) for n in material.networks),
        )
        for tissue in SYNTHESIS_DICE
    ]
    means = tuple((*_three(*_means(material, network)), "") for network in material.networks)
    return [*rows, Beside("mean", _three(*SYNTHESIS_MEAN, digits=4), means)]


def protocols_beside(material: ReportMaterial) -> list[tuple[str, str, str, str]]:
    """Return (aspect, this run, infarct-synthesis study, HALSR-Net)."""
    ours = _our_protocol(material)
    return [
        (aspect, ours[aspect], SYNTHESIS_STUDY.protocol[aspect], HALSR_STUDY.protocol[aspect]) for aspect in ASPECTS
    ]


def studies() -> tuple[PublishedStudy, ...]:
    """Return the published studies."""
    return SYNTHESIS_STUDY, HALSR_STUDY


def _ours(material: ReportMaterial, network: str, tissue: str) -> tuple[str, str, str, str]:
    without, with_gan = (_score(material, network, arm, tissue) for arm in (REAL_ONLY, REAL_PLUS_GAN))
    found = material.comparison.differences
    chosen = found[(found["network"] == network) & (found["tissue"] == tissue) & (found["rule"] == _RULE)]
    if chosen.empty:
        return number(without), number(with_gan), ABSENT, ""
    row = chosen.iloc[0]
    between = interval(row["low"], row["high"], "+.3f")
    difference = number(row["difference"], "+.3f")
    return number(without), number(with_gan), difference, "" if between == ABSENT else between


def _means(material: ReportMaterial, network: str) -> tuple[float, float]:
    """Return the mean over the published tissues of both arms, NaN where a tissue has no score."""
    without, with_gan = (
        float(np.mean([_score(material, network, arm, tissue) for tissue in SYNTHESIS_DICE]))
        for arm in (REAL_ONLY, REAL_PLUS_GAN)
    )
    return without, with_gan


def _score(material: ReportMaterial, network: str, arm: str, tissue: str) -> float:
    wanted = pd.Series({"network": network, "training_set": arm, "tissue": tissue, "rule": _RULE})
    summary = material.comparison.summary
    rows = summary[(summary[wanted.index] == wanted).all(axis=1)]
    return float(rows["mean"].iloc[0]) if len(rows) else float("nan")


def _three(without: float, with_gan: float, digits: int = 3) -> tuple[str, str, str]:
    form = f".{digits}f"
    return number(without, form), number(with_gan, form), number(with_gan - without, f"+{form}")


def _our_protocol(material: ReportMaterial) -> Mapping[str, str]:
    setup, folds = material.setup, material.comparison.folds
    low, high = setup.region.percentiles
    real = setup.real_beside_synthetic
    seeds = sorted({training.arm.seed for training in material.trainings}) or list(setup.seeds)
    return {
        "data": "built-in phantom, simulated patients" if setup.simulated else f"source {setup.source}",
        "patients": f"{setup.total_patients} patients",
        "split": f"{setup.folds} folds by patient, stratified; done: {listed([str(f) for f in folds])}; "
        f"{count(material.test_patients, 'test patient')} in all",
        "test slices": f"{_test_slices(material)}",
        "image": f"{setup.region.size_px} × {setup.region.size_px} region around the predicted left ventricle, "
        f"1 × 1 mm, percentiles {low:g} to {high:g}; scored in the study's own grid",
        "training slices": f"{setup.training_slices:,} augmented; {real:,} augmented and "
        f"{setup.synthetic_slices:,} synthetic",
        "trainings": f"{count(len(seeds), 'seed')} a fold and arm",
        "checkpoint": "best Dice of validation patients, who are neither trained on nor tested",
        "score": "Dice a patient, in 3-D, of patients who have the tissue (rule “positive”)",
        "uncertainty": f"{CONFIDENCE:.0%} intervals over {sources_of_variation(len(folds), len(seeds))}"
        f"{one_training_set(len(folds))}".replace("%", " %"),
    }


def _test_slices(material: ReportMaterial) -> str:
    total = sum(len(case.reference) for case in material.cases)
    return f"{total:,}" if total else "not kept"
