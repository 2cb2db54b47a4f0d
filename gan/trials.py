"""The source's ten trials and the improved configurations, trained alike and measured alike.

What does not live here: where slices, judge and weights come from, and how a training is tracked
(`pipeline.commands.trials`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import ValidationError

from common.errors import InputError
from gan.networks.features import inception_score
from gan.quality.fidelity import local_texture, peak_signal_to_noise, structural_similarity_of
from gan.quality.realism import Extractor, frechet_distance, kernel_distance
from gan.quality.slices import Images, PairDistance, Segment, inside_ventricle
from gan.training.config import HOLE_FIELDS, PRESETS, Pix2PixConfig
from imaging.dice import areas, dice
from imaging.labels import LabelSet
from imaging.slices.part import PartSlices

# As the source's table words them, and what is new here.
CHANGES: Mapping[str, str] = MappingProxyType(
    {
        "trial_1": "plain Pix2Pix, tanh, no weighting",
        "trial_2": "sigmoid",
        "trial_3": "weighted L1, λ 60, sigmoid, 7/6 layers",
        "trial_4": "λ 70, tanh, deeper discriminator",
        "trial_5": "λ 80, sigmoid, noise on background",
        "trial_6": "λ 90, instance norm, discriminator without mask",
        "trial_7": "λ 110, tanh, dropout, deeper U-Net",
        "trial_8": "λ 70, tanh, 6/5 layers, shallow discriminator",
        "trial_9": "λ 100, tanh, 6/5 layers (its mask-only discriminator, which is unclear, left out)",
        "trial_10": "the source's final configuration",
        "improved_no_context": "one-hot labels, no checkerboards, noise, averaging, perceptual loss",
        "context": "real background given, one-hot labels, no checkerboards, noise, averaging",
        "improved_context": "context with shades, grain, fine discriminator, tissue reader; as this profile has it",
    }
)
_MEASURES = ("frechet", "inception_score", "lpips", "psnr", "ssim", "kernel", "texture", "adherence")
_WITHOUT_VGG16 = "; no VGG16 weights, so without the perceptual loss"


@dataclass(frozen=True)
class Trial:
    """One row of the table: `name`, what it changes in words, and its configuration."""

    name: str
    change: str
    config: Pix2PixConfig


def plan_trials(
    profile: Pix2PixConfig, steps: int, overrides: Mapping[str, Any], only: Sequence[str], perceptual: bool
) -> list[Trial]:
    """Return the trials, all with the same number of steps and the same batch, and so of images seen.

    Args:
        profile: The profile's configuration, which is the trial `improved_context`; its batch is everyone's.
        steps: Optimiser steps of each.
        overrides: Values laid over every trial, such as `widths`.
        only: Names of the trials that are wanted; empty for all.
        perceptual: VGG16's weights are at hand; without, that term is left out and the change says so.

    Raises:
        InputError: A name does not exist, or an override does not fit a trial.
    """
    unknown = [name for name in only if name not in CHANGES]
    if unknown:
        raise InputError(f"trial {unknown[0]!r} does not exist; choose of {', '.join(CHANGES)}")
    names = [name for name in CHANGES if not only or name in only]
    rounds = {"steps": steps, "validate_every": max(1, -(-steps // 4)), "batch": profile.batch}
    return [_plan(name, profile, {**rounds, **overrides}, perceptual) for name in names]


def _plan(name: str, profile: Pix2PixConfig, values: Mapping[str, Any], perceptual: bool) -> Trial:
    base = profile if name == "improved_context" else PRESETS[name]
    # The profile's average is as long as its trainings.
    shared = {"average_decay": min(base.average_decay, profile.average_decay)} if base.average_decay else {}
    # The fold's masks were cut with the profile's holes.
    holes = {name: getattr(profile, name) for name in HOLE_FIELDS} if base.context else {}
    try:
        config = Pix2PixConfig.model_validate({**base.model_dump(), **shared, **holes, **values})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its values together"
        raise InputError(f"{name}: {where}: {first['msg']}; change --set pix2pix.* or leave it out") from error
    if config.perceptual_weight and not perceptual:
        return Trial(name, CHANGES[name] + _WITHOUT_VGG16, config.model_copy(update={"perceptual_weight": 0.0}))
    return Trial(name, CHANGES[name], config)


@dataclass(frozen=True)
class TrialInstruments:
    """What trials are measured with; a measure whose instrument is missing is left out.

    Attributes:
        extractors: Of features, for Fréchet and kernel distance and, where it has them, the Inception Score.
        perceptual: LPIPS by the name of its network.
        segment: Images (N, H, W) to masks (N, H, W), trained on real slices only.
    """

    extractors: Sequence[Extractor] = ()
    perceptual: Mapping[str, PairDistance] = field(default_factory=dict)
    segment: Segment | None = None


def measure_trial(
    redrawn: Images, real: PartSlices, drawn: PartSlices, instruments: TrialInstruments, labels: LabelSet
) -> dict[str, float]:
    """Return every figure of one trial by name.

    `frechet`, `kernel` (by extractor), `inception_score`, `lpips` (by network), `psnr` and `ssim` are those of
    `redrawn` beside `real`, with `_ventricle` of the ventricle alone; `texture` is the grain there, drawn over
    real. `adherence/<tissue>` is the judge's Dice on `drawn`.

    Args:
        redrawn: (N, H, W) the real slices drawn again.
        real: Real slices of validation patients.
        drawn: Slices drawn from masks, with these masks.
        instruments: What measures.
        labels: The label set.
    """
    figures = _realism(redrawn, real, instruments) | _fidelity(redrawn, real, instruments.perceptual)
    if instruments.segment is not None:
        found = instruments.segment(drawn.images)
        for value, tissue in labels.foreground:
            reference, prediction = drawn.masks == value, found == value
            if reference.any() or prediction.any():
                figures[f"adherence/{tissue}"] = float(
                    dice(*(counted.sum() for counted in areas(reference, prediction)))
                )
    return figures


def _fidelity(redrawn: Images, real: PartSlices, perceptual: Mapping[str, PairDistance]) -> dict[str, float]:
    ventricle = real.masks > 0
    figures = {
        "psnr": peak_signal_to_noise(redrawn, real.images),
        "psnr_ventricle": peak_signal_to_noise(redrawn, real.images, ventricle),
        "ssim": structural_similarity_of(redrawn, real.images),
        "ssim_ventricle": structural_similarity_of(redrawn, real.images, ventricle),
        "texture": local_texture(redrawn, ventricle) / max(local_texture(real.images, ventricle), 1e-6),
    }
    for network, distance in perceptual.items():
        own = network.removeprefix("LPIPS ")
        figures[f"lpips {own}"] = float(np.mean(distance(redrawn, real.images)))
        inside = (inside_ventricle(images, real.masks) for images in (redrawn, real.images))
        figures[f"lpips_ventricle {own}"] = float(np.mean(distance(*inside)))
    return figures


def _realism(redrawn: Images, real: PartSlices, instruments: TrialInstruments) -> dict[str, float]:
    figures: dict[str, float] = {}
    for extractor in instruments.extractors:
        for region in ("", "_ventricle"):
            pair = [_view(images, real.masks, region) for images in (redrawn, real.images)]
            vectors = [extractor.features(images) for images in pair]
            figures[f"frechet{region} {extractor.name}"] = frechet_distance(*vectors)
            figures[f"kernel{region} {extractor.name}"] = kernel_distance(*vectors)
            if not region and extractor.probabilities is not None:
                figures[f"inception_score {extractor.name}"] = inception_score(extractor.probabilities(vectors[0]))
    return figures


def _view(images: Images, masks: NDArray[np.uint8], region: str) -> Images:
    return inside_ventricle(images, masks) if region else images


def trials_table(trials: Sequence[Trial], figures: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """Return one row a trial: `trial`, `change`, `images_seen`, then every figure, empty where not measured."""
    rows = []
    for trial in trials:
        about = {"trial": trial.name, "change": trial.change, "images_seen": trial.config.steps * trial.config.batch}
        rows.append({**about, **figures[trial.name]})
    table = pd.DataFrame(rows)
    first = list(table.columns[:3])
    return table[first + sorted(table.columns[3:], key=_place)]


def _place(column: str) -> tuple[int, str]:
    """Return where a figure stands in the table: by measure as the source orders them, then by region."""
    measure = column.partition(" ")[0].partition("/")[0].removesuffix("_ventricle")
    return (_MEASURES.index(measure) if measure in _MEASURES else len(_MEASURES), "" if "/" in column else column)
