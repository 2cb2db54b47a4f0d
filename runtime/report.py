"""How a training tells the world what happens, without knowing who listens."""

from collections.abc import Callable, Mapping

Report = Callable[[int, Mapping[str, float]], None]
"""Called once an epoch (or validation round) with the step reached and named metrics."""


def silent(step: int, metrics: Mapping[str, float]) -> None:
    """Report to nobody."""


class TrainingDivergedError(Exception):
    """A loss was not finite: the message gives the step and the last metrics."""
