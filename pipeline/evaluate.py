"""`scarforge evaluate`: two folders of label maps in, tables of scores out."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from imaging.errors import InputError
from pipeline.forge import say
from segmentation.evaluation import Evaluation, evaluate_folders
from segmentation.evaluation_summary import ALL_FRAMES, patient_table, summarise_evaluation
from segmentation.label_folders import LABEL_FORMATS
from segmentation.score_rules import DETECTION
from segmentation.scores import write_scores

# What is printed beside Dice: with the rule that says most; summary.csv has all.
_FURTHER = {
    "positive": (
        "hausdorff",
        "hausdorff_95",
        "average_surface_distance",
        "volume_difference_ml",
        "share_of_myocardium_difference",
        "mean_transmurality_difference",
    ),
    "official": ("ejection_fraction_difference", *DETECTION),
}


def evaluate(reference: Path, prediction: Path, form: str, output: Path) -> int:
    """Score the label maps in `prediction` against those in `reference` and write and print the tables.

    Returns:
        The exit status: 0, or 2 where something could not be scored or did not belong there.

    Raises:
        InputError: The format is unknown, a folder holds no label map, or nothing can be scored.
    """
    if form not in LABEL_FORMATS:
        raise InputError(f"format {form!r} is unknown; choose one of {', '.join(LABEL_FORMATS)}")
    evaluation = evaluate_folders(reference, prediction, LABEL_FORMATS[form])
    summary = summarise_evaluation(evaluation)
    write_scores(output / "scores.csv", evaluation.scores)
    write_scores(output / "patients.csv", patient_table(evaluation))
    write_scores(output / "summary.csv", summary)
    _print(evaluation, summary, output)
    return 2 if evaluation.problems else 0


def _print(evaluation: Evaluation, summary: pd.DataFrame, output: Path) -> None:
    console = Console(width=None if Console().is_terminal else 150)
    console.print(_table(summary[summary["metric"] == "dice"], "Dice under the four rules"))
    console.print(_table(_further(summary), "Distances, volumes and findings, of which summary.csv holds more"))
    for problem in evaluation.problems:
        say(f"scarforge: {problem}")
    missing = evaluation.studies - evaluation.scored
    console.print(f"{evaluation.scored} of {evaluation.studies} studies were scored" + _without(missing), style="bold")
    console.print(f"Tables: {output}", highlight=False, soft_wrap=True)


def _further(summary: pd.DataFrame) -> pd.DataFrame:
    joined = summary[summary["frame"].isin(["", ALL_FRAMES])]
    chosen = [joined[(joined["rule"] == rule) & joined["metric"].isin(names)] for rule, names in _FURTHER.items()]
    return pd.concat(chosen)


def _without(missing: int) -> str:
    return f"; those without a usable label map ({missing}) are in none of these scores" if missing else ""


def _table(rows: pd.DataFrame, title: str) -> Table:
    table = Table(title=title)
    framed = bool((rows["frame"] != "").any())
    for name in ("rule", "tissue", *(["frame"] if framed else []), "metric"):
        table.add_column(name, no_wrap=True)
    for name in ("mean", "95 % interval", "all background", "patients"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows.to_dict("records"):
        frame = [str(row["frame"])] if framed else []
        metric = str(row["metric"]).removesuffix("_ml").replace("_", " ") + (f" ({row['unit']})" if row["unit"] else "")
        table.add_row(str(row["rule"]), str(row["tissue"]), *frame, metric, *_cells(row))
    return table


def _cells(row: Mapping[Hashable, Any]) -> list[str]:
    interval = f"{_number(row['low'])} to {_number(row['high'])}" if np.isfinite(row["low"]) else "–"
    patients = f"{row['patients']} of {row['of_patients']}"
    return [_number(row["mean"]), interval, _number(row["all_background"]), patients]


def _number(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "–"
