"""Why each step of post-processing was applied or not: what the validation patients of every model said.

What does not live here: the steps themselves and how a training chooses among them (`segmentation.post_processing`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segmentation.post_processing import STEPS, agreed_steps
from segmentation.unsure_lesions import official_gain

Card = Mapping[str, Any]


@dataclass(frozen=True)
class StepReason:
    """One of `STEPS`, whether it was applied, and why, in words with figures."""

    step: str
    applied: bool
    why: str


def explain_steps(cards: Sequence[Card]) -> tuple[StepReason, ...]:
    """Return what `agreed_steps` decides about each step, with the change in validation Dice that decided it.

    Args:
        cards: Model cards of all networks that are averaged; those of older models hold no choice.
    """
    applied = agreed_steps(cards)
    return tuple(StepReason(name, name in applied, _why(name, cards)) for name in STEPS)


def explain_sureness(judgements: Sequence[Card | None]) -> StepReason:
    """Return whether unsure lesions are left out: where that does not lower the lesions' official Dice.

    Args:
        judgements: What `unsure_lesions.judge` returned for each network; None for one that was not scored.
    """
    gain = official_gain(judgements)
    if gain is None:
        unknown = sum(one is None for one in judgements)
        why = f"{unknown} of {len(judgements)} networks were not scored, which tells what this does"
    else:
        patients = sum(one["patients"] for one in judgements if one)
        why = f"official Dice of the lesions of {patients} validation patients {gain:+.4f}"
    return StepReason("unsure_lesions", gain is not None and gain >= 0, why)


def _why(name: str, cards: Sequence[Card]) -> str:
    gains = [gain for card in cards if (gain := _gain(name, card)) is not None]
    if len(gains) < len(cards):
        return f"{len(cards) - len(gains)} of {len(cards)} networks were trained before there was a choice"
    chosen = sum(name in card["post_processing"]["chosen"] for card in cards)
    if len(cards) == 1:
        return f"validation Dice {gains[0]:+.4f}{'' if chosen or gains[0] <= 0 else ', but a tissue fell'}"
    return f"validation Dice {min(gains):+.4f} to {max(gains):+.4f}, chosen by {chosen} of {len(cards)} networks"


def _gain(name: str, card: Card) -> float | None:
    """Return by how much a step changed the mean `positive` Dice after those chosen before it; None if unknown."""
    choice = card.get("post_processing", {})
    dice = choice.get("mean_dice", {})
    if not {"none", name} <= dice.keys():
        return None
    earlier = list(STEPS)[: list(STEPS).index(name)]
    before = [step for step in earlier if step in choice["chosen"]] or ["none"]
    return float(dice[name]) - float(dice[before[-1]])
