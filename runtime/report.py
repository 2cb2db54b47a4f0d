"""What a training is told of the machine, and how it tells the world what happens, without knowing who listens.

Reading this costs no PyTorch; the machine itself is in `runtime.compute`.
"""

from collections.abc import Callable, Mapping
from typing import Literal

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "bf16", "fp32"]

Report = Callable[[int, Mapping[str, float]], None]
"""Called once an epoch (or validation round) with the step reached and named metrics."""


def silent(step: int, metrics: Mapping[str, float]) -> None:
    """Report to nobody."""


class TrainingDivergedError(Exception):
    """A loss was not finite: the message gives the step and the last metrics."""
