"""How a training tells the world what happens, without knowing who listens."""

import time
from collections.abc import Callable, Mapping

STEPS_BETWEEN_LOSS_CHECKS = 25  # on a GPU, which each look at a loss waits for
TIME = "unix_time_s"  # the column of `history.csv` that says when a step was reached

Report = Callable[[int, Mapping[str, float]], None]
"""Called once an epoch (or validation round) with the step reached and named metrics."""


def silent(step: int, metrics: Mapping[str, float]) -> None:
    """Report to nobody."""


def course_row(step: int, metrics: Mapping[str, float]) -> dict[str, float]:
    """Return a row of `history.csv`: step, time and metrics."""
    return {"step": float(step), TIME: time.time(), **metrics}


def shown_row(row: Mapping[str, float]) -> str:
    """Return a row of the course in words, without its time, for a message."""
    return ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name != TIME)


class TrainingDivergedError(Exception):
    """A loss was not finite: the message gives the step and the last metrics."""
