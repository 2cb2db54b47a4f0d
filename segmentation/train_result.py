"""What a training ended with, and what its model card says of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imaging.slice_store import StoreAttributes
from imaging.tables import read_csv
from segmentation.config import TrainConfig

_INTENDED_USE = (
    "Research on segmentation of short-axis cardiac MRI regions prepared by this project; no medical device."
)


@dataclass(frozen=True)
class TrainResult:
    """What a training ended with.

    Attributes:
        steps: Optimiser steps run.
        best_step: Step of the weights that were kept.
        score: Their mean positive Dice over tissues on the validation patients.
        dice: Their positive Dice by tissue.
        parameters: Trainable parameters.
        images_per_second: Training slices a second, validation left out, mean over rounds.
    """

    steps: int
    best_step: int
    score: float
    dice: Mapping[str, float]
    parameters: int
    images_per_second: float


def describe_model(
    result: TrainResult, config: TrainConfig, attributes: StoreAttributes, precision: str
) -> dict[str, Any]:
    """Return what the training adds to the caller's model card."""
    return {
        "network": config.network.name,
        "label_set": attributes.label_set,
        "input_size": [attributes.region_px, attributes.region_px],
        "spacing_mm": attributes.spacing_mm,
        "parameters": result.parameters,
        "steps": result.steps,
        "best_step": result.best_step,
        "validation": {"rule": "positive", "dice": dict(result.dice), "mean": result.score},
        "precision": precision,
        "intended_use": _INTENDED_USE,
    }


def read_result(folder: Path, card: Mapping[str, Any]) -> TrainResult | None:
    """Return what the training of a model folder ended with, None where its history.csv cannot be read."""
    try:
        history = read_csv(folder / "history.csv")
    except (OSError, ValueError):
        return None
    return TrainResult(
        steps=card["steps"],
        best_step=card["best_step"],
        score=card["validation"]["mean"],
        dice=card["validation"]["dice"],
        parameters=card["parameters"],
        images_per_second=float(history["images_per_second"].mean()),
    )
