"""What an asset asks the training process to do: plain values, so that they pass through Dagster Pipes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

RESULT_FILE = "training_result.json"
CURVES, VALIDATION = "curves.png", "validation.png"  # pictures of the course and of validation slices
ERROR_FILE = "error.txt"  # what the training process could not do, for the asset to raise
WRONG_INPUT, PASSING_FAULT = 2, 75  # its exit status; 75 is EX_TEMPFAIL of sysexits.h
Stage = Literal["lv_localiser", "pix2pix", "segmenter"]


@dataclass(frozen=True)
class TrainingTask:
    """One training: what is trained, on which files, how, and how it is tracked."""

    stage: Stage
    folder: str
    inputs: Mapping[str, str]
    config: Mapping[str, Any]
    fold: int
    seed: int
    device: str
    precision: str
    card: Mapping[str, Any]
    tracking: Mapping[str, Any]
    lock: str
    deterministic: bool = False

    def to_extras(self) -> dict[str, Any]:
        """Return plain values for Pipes."""
        return asdict(self)
