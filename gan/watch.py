"""What goes wrong in adversarial training, recognised from a round's figures and named.

What does not live here: the training itself, and stopping it; only a loss that is not finite stops a
training.
"""

import math
from collections.abc import Mapping, Sequence

from training.report import TrainingDivergedError

EXPLODING_LOSS = "exploding loss"
WINNING_DISCRIMINATOR = "winning discriminator"
MODE_COLLAPSE = "mode collapse"

# Limits chosen wide: a healthy round is far from each of them.
_EXPLODING_FACTOR = 5.0
_WINNING_ACCURACY = 0.98
_COLLAPSED_VARIETY = 0.3


def name_troubles(round_figures: Mapping[str, float], earlier: Sequence[Mapping[str, float]]) -> list[str]:
    """Return the names of the troubles seen in one validation round.

    Args:
        round_figures: `generator_loss`, `discriminator_accuracy` (share of patches told apart, over the
            round), `variety` (how much drawn slices differ from one another, relative to real ones).
        earlier: The same of earlier rounds.
    """
    troubles = []
    lowest = min((figures["generator_loss"] for figures in earlier), default=math.inf)
    if round_figures["generator_loss"] > _EXPLODING_FACTOR * lowest:
        troubles.append(EXPLODING_LOSS)
    if round_figures["discriminator_accuracy"] > _WINNING_ACCURACY:
        troubles.append(WINNING_DISCRIMINATOR)
    if round_figures["variety"] < _COLLAPSED_VARIETY:
        troubles.append(MODE_COLLAPSE)
    return troubles


def require_finite(step: int, losses: Mapping[str, float], last: Mapping[str, float]) -> None:
    """Stop the training if a loss is not finite.

    Raises:
        TrainingDivergedError: Names the loss, the step and the figures of the last round.
    """
    broken = {name: value for name, value in losses.items() if not math.isfinite(value)}
    if broken:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in last.items()) or "none yet"
        raise TrainingDivergedError(
            f"pix2pix: {broken} at step {step}; last metrics: {figures}; "
            "lower the learning rate or use fp32, then start again"
        )
