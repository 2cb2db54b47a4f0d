"""A model card as the text of a version in MLflow's model registry."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_FIELDS = ("network", "training_set", "source", "profile", "fold", "seed", "label_set", "slices", "steps", "precision")


def describe_version(card: Mapping[str, Any], scores: "pd.DataFrame", seed: int) -> str:
    """Return Markdown: what the model is, its Dice on test patients, what it is for and where the full card lies.

    Args:
        card: Of the model folder.
        scores: Table of the model's scores on the fold's test patients.
        seed: Which of the model's seeds.
    """
    lines = ["| | |", "|---|---|"]
    lines += [f"| {name.replace('_', ' ')} | {card[name]} |" for name in _FIELDS if name in card]
    for start in card.get("started_from", [])[:1]:
        where = ", ".join(f"{name} {start[name]}" for name in ("source", "profile", "fold") if name in start)
        lines.append(f"| started from | {where or 'a model whose card names no source'} |")
    lines += [
        "",
        "Mean Dice on the fold's test patients (rule `positive`):",
        "",
        "| tissue | Dice | patients |",
        "|---|---|---|",
    ]
    chosen = scores[(scores["seed"] == seed) & (scores["rule"] == "positive") & (scores["metric"] == "dice")]
    for tissue, rows in chosen.groupby("tissue", sort=False):
        lines.append(f"| {tissue} | {rows['value'].mean():.3f} | {rows['case_id'].nunique()} |")
    lines += ["", str(card.get("intended_use", "")), "The full card is `model_card.json` among the model's files."]
    return "\n".join(lines)
