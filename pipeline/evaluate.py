"""`scarforge evaluate`: two folders of label maps in, tables of scores out."""

from pathlib import Path

import pandas as pd

from imaging.errors import InputError
from imaging.own_files import mark_own
from pipeline.forge import say
from pipeline.output_place import check_folder
from pipeline.score_tables import print_summary, wide_console
from segmentation.evaluation import Evaluation, evaluate_folders
from segmentation.evaluation_summary import patient_table, summarise_evaluation
from segmentation.label_folders import LABEL_FORMATS
from segmentation.scores import write_scores


def evaluate(reference: Path, prediction: Path, form: str, output: Path) -> int:
    """Score the label maps in `prediction` against those in `reference` and write and print the tables.

    Returns:
        The exit status: 0, or 2 where something could not be scored or did not belong there.

    Raises:
        InputError: The format is unknown, a folder holds no label map, or nothing can be scored or written.
    """
    if form not in LABEL_FORMATS:
        raise InputError(f"format {form!r} is unknown; choose one of {', '.join(LABEL_FORMATS)}")
    check_folder(output)
    evaluation = evaluate_folders(reference, prediction, LABEL_FORMATS[form])
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
    for note in evaluation.notes:
        say(f"warning: {note}")
    for problem in evaluation.problems:
        say(f"scarforge: {problem}")
    missing = evaluation.studies - evaluation.scored
    console.print(f"{evaluation.scored} of {evaluation.studies} studies were scored" + _without(missing), style="bold")
    console.print(f"Tables: {output}", highlight=False, soft_wrap=True)


def _without(missing: int) -> str:
    return f"; those without a usable label map ({missing}) are in none of these scores" if missing else ""
