"""`scarforge evaluate`: two folders of label maps in, tables of scores out.

Tables of an evaluation's summary for a console: one model's with all columns, several models' side by side.
"""

from collections.abc import Hashable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from common.errors import InputError
from common.own_files import mark_own
from common.pages.words import words
from engine.forge import say
from pipeline.commands.output_place import check_folder
from segmentation.evaluation.evaluation import (
    ALL_FRAMES,
    Evaluation,
    evaluate_folders,
    patient_table,
    summarise_evaluation,
)
from segmentation.evaluation.label_maps import LABEL_FORMATS, LabelFormat
from segmentation.scoring.rules import DETECTION
from segmentation.scoring.scores import write_scores

Row = Mapping[Hashable, Any]

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
_KEY = ["rule", "tissue", "frame", "metric"]
_WIDTH, _WIDTH_OF_MODEL = 110, 40  # characters


def wide_console(models: int = 1) -> Console:
    """Return a console that does not cut the tables of so many models where nobody watches."""
    return Console(width=None if Console().is_terminal else _WIDTH + _WIDTH_OF_MODEL * models)


def print_summary(console: Console, summaries: Mapping[str, pd.DataFrame]) -> None:
    """Print Dice under the four rules and what else matters, of one model or of several beside each other.

    Args:
        console: Where to.
        summaries: `SUMMARY_COLUMNS` of `evaluation_summary` by what the model is called; one may be called nothing.
    """
    dice = {name: table[table["metric"] == "dice"] for name, table in summaries.items()}
    further = {name: _further(table) for name, table in summaries.items()}
    console.print(_table(dice, "Dice under the four rules"))
    console.print(_table(further, "Distances, volumes and findings, of which summary.csv holds more"))


def _further(summary: pd.DataFrame) -> pd.DataFrame:
    joined = summary[summary["frame"].isin(["", ALL_FRAMES])]
    chosen = [joined[(joined["rule"] == rule) & joined["metric"].isin(names)] for rule, names in _FURTHER.items()]
    return pd.concat(chosen)


def _table(summaries: Mapping[str, pd.DataFrame], title: str) -> Table:
    first, *_ = summaries.values()
    table = Table(title=title)
    framed = bool((first["frame"] != "").any())
    for name in ("rule", "tissue", *(["frame"] if framed else []), "metric"):
        table.add_column(name, no_wrap=True)
    headings = [name.replace(" ", "\n") for name in summaries] if len(summaries) > 1 else ["mean", "95 % interval"]
    for name in (*headings, "all background", "patients"):
        table.add_column(name, justify="right", no_wrap=True)
    by_key = [{_key(row): row for row in each.to_dict("records")} for each in summaries.values()]
    for key in dict.fromkeys(key for rows in by_key for key in rows):
        found = [rows[key] for rows in by_key if key in rows]
        frame = [key[2]] if framed else []
        metric = words(key[3].removesuffix("_ml")) + (f" ({found[0]['unit']})" if found[0]["unit"] else "")
        table.add_row(
            words(key[0]), words(key[1]), *frame, metric, *_values([rows.get(key) for rows in by_key]), *_ends(found)
        )
    return table


def _key(row: Row) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in _KEY)


def _values(rows: Sequence[Row | None]) -> list[str]:
    """Return mean and interval in two columns of one model, in a column each of several."""
    cells = [("–", "–") if row is None else (_number(row["mean"]), _interval(row)) for row in rows]
    return list(cells[0]) if len(cells) == 1 else [f"{mean} ({interval})" for mean, interval in cells]


def _ends(rows: Sequence[Row]) -> list[str]:
    """Return the yardstick's mean and how many patients count; every model's where these differ."""
    patients = dict.fromkeys(f"{row['patients']} of {row['of_patients']}" for row in rows)
    yardstick = dict.fromkeys(_number(row["all_background"]) for row in rows)
    return [" / ".join(yardstick), " / ".join(patients)]


def _interval(row: Row) -> str:
    return f"{_number(row['low'])} to {_number(row['high'])}" if np.isfinite(row["low"]) else "–"


def _number(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "–"


def label_format(form: str) -> LabelFormat:
    """Return a format by its name; `InputError` where there is none."""
    if form not in LABEL_FORMATS:
        raise InputError(f"format {form!r} is unknown; choose one of {', '.join(LABEL_FORMATS)}")
    return LABEL_FORMATS[form]


def evaluate(reference: Path, prediction: Path, form: str, output: Path) -> int:
    """Score the label maps in `prediction` against those in `reference` and write and print the tables.

    Returns:
        The exit status: 0, or 2 where something could not be scored or did not belong there.

    Raises:
        InputError: The format is unknown, a folder holds no label map, or nothing can be scored or written.
    """
    layout = label_format(form)
    check_folder(output)
    evaluation = evaluate_folders(reference, prediction, layout)
    summary = summarise_evaluation(evaluation)
    mark_own(output, ("scores.csv", "patients.csv", "summary.csv"))
    write_scores(output / "scores.csv", evaluation.scores)
    write_scores(output / "patients.csv", patient_table(evaluation))
    write_scores(output / "summary.csv", summary)
    _print(evaluation, summary, output)
    return 2 if evaluation.problems else 0


def _print(evaluation: Evaluation, summary: pd.DataFrame, output: Path) -> None:
    console = wide_console()
    print_summary(console, {"": summary})
    for note in chain.from_iterable(evaluation.notes.values()):
        say(f"warning: {note}")
    for problem in evaluation.problems:
        say(f"scarforge: {problem}")
    missing = evaluation.studies - evaluation.scored
    console.print(f"{evaluation.scored} of {evaluation.studies} studies were scored" + _without(missing), style="bold")
    console.print(f"Tables: {output}", highlight=False, soft_wrap=True)


def _without(missing: int) -> str:
    return f"; those without a usable label map ({missing}) are in none of these scores" if missing else ""
