"""`scarforge evaluate`: two folders of label maps in, tables of scores out.

Tables of an evaluation's summary for a console: one model's with all columns, several models' side by side.
"""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.errors import InputError
from common.files import mark_own
from common.pages.words import words
from common.progress import warn
from pipeline.commands.output import check_folder, print_json, print_markdown, records
from segmentation.comparison.text import markdown_table
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


def print_summary(summaries: Mapping[str, pd.DataFrame]) -> None:
    """Print Dice under the four rules and what else matters, of one model or of several beside each other.

    Args:
        summaries: `SUMMARY_COLUMNS` of `evaluation` by what the model is called; one may be called nothing.
    """
    dice = {name: table[table["metric"] == "dice"] for name, table in summaries.items()}
    further = {name: _further(table) for name, table in summaries.items()}
    print_markdown(_table(dice, "Dice under the four rules"))
    print_markdown("\n" + _table(further, "Distances, volumes and findings, of which summary.csv holds more"))


def _further(summary: pd.DataFrame) -> pd.DataFrame:
    joined = summary[summary["frame"].isin(["", ALL_FRAMES])]
    chosen = [joined[(joined["rule"] == rule) & joined["metric"].isin(names)] for rule, names in _FURTHER.items()]
    return pd.concat(chosen)


def _table(summaries: Mapping[str, pd.DataFrame], title: str) -> str:
    first, *_ = summaries.values()
    framed = ["frame"] if bool((first["frame"] != "").any()) else []
    of_models = list(summaries) if len(summaries) > 1 else ["mean", "95 % interval"]
    by_key = [{_key(row): row for row in each.to_dict("records")} for each in summaries.values()]
    rows = []
    for key in dict.fromkeys(key for each in by_key for key in each):
        found = [each[key] for each in by_key if key in each]
        metric = words(key[3].removesuffix("_ml")) + (f" ({found[0]['unit']})" if found[0]["unit"] else "")
        names = [words(key[0]), words(key[1]), *([key[2]] if framed else []), metric]
        rows.append([*names, *_values([each.get(key) for each in by_key]), *_ends(found)])
    headings = ["rule", "tissue", *framed, "metric", *of_models, "all background", "patients"]
    return f"# {title}\n\n{markdown_table(headings, rows)}"


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


def evaluate(reference: Path, prediction: Path, form: str, output: Path, as_json: bool = False) -> int:
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
    for note in evaluation.warnings:
        warn(f"warning: {note}")
    for problem in evaluation.problems:
        warn(f"scarforge: {problem}")
    if as_json:
        print_json(_as_json(evaluation, summary))
    else:
        _print(evaluation, summary, output)
    return 2 if evaluation.problems else 0


def _as_json(evaluation: Evaluation, summary: pd.DataFrame) -> dict[str, Any]:
    told = {"studies": evaluation.studies, "scored": evaluation.scored, "problems": list(evaluation.problems)}
    return told | {"notes": evaluation.warnings, "summary": records(summary)}


def _print(evaluation: Evaluation, summary: pd.DataFrame, output: Path) -> None:
    print_summary({"": summary})
    missing = evaluation.studies - evaluation.scored
    print(f"\n{evaluation.scored} of {evaluation.studies} studies were scored" + _without(missing))
    print(f"Tables: {output}")


def _without(missing: int) -> str:
    return f"; those without a usable label map ({missing}) are in none of these scores" if missing else ""
