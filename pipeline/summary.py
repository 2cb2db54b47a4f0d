"""What a run prints at its end: the comparison or, without lesions, the scores; and where to look further."""

from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from imaging.sources import source_labels
from pipeline.compare_link import saved_links
from pipeline.forge import Forge
from pipeline.jobs import REAL_ONLY_HALF
from segmentation.scores import read_scores
from segmentation.yardsticks import absent_yardsticks


def print_result(forge: Forge, fold: int) -> None:
    """Print the result of a fold as a table, and the addresses of what lies beside it."""
    console = Console(width=None if Console().is_terminal else 150)
    if source_labels(forge.source, forge.settings().source).has_lesions:
        compared = forge.finished("comparison")
        console.print(Markdown(compared.file("comparison.md").read_text(encoding="utf-8")))
        console.print(f"\nReport: {compared.folder / 'report.html'}", highlight=False, soft_wrap=True)
        for network, url in saved_links(forge).items():
            console.print(f"Compare the arms of {network} in MLflow: {url}", highlight=False, soft_wrap=True)
    else:
        files = _score_files(forge, fold)
        console.print(_table(dice_table(files), f"Mean Dice on the test patients of fold {fold}"))
        for sentence in absent_yardsticks(_read(files)):
            console.print(sentence, highlight=False, soft_wrap=True)
    console.print(f"All stages, models and scores: {forge.workspace.root}", highlight=False, soft_wrap=True)
    console.print(f"Dagster and MLflow: SCARFORGE_HOME={forge.workspace.home} make ui", highlight=False, soft_wrap=True)


def dice_table(files: list[Path]) -> pd.DataFrame:
    """Return mean Dice by rule and tissue (rows) and network or yardstick (columns) over score tables."""
    scores = _read(files)
    dice = scores[scores["metric"] == "dice"]
    return dice.pivot_table(index=["rule", "tissue"], columns="network", values="value", sort=False).reset_index()


def _read(files: list[Path]) -> pd.DataFrame:
    return pd.concat([read_scores(path) for path in files])


def _score_files(forge: Forge, fold: int) -> list[Path]:
    names = [name for name in REAL_ONLY_HALF if name.endswith("_scores")]
    return [forge.finished(name, fold, seed).file("scores.csv") for name in names for seed in forge.settings().seeds]


def _table(frame: pd.DataFrame, title: str) -> Table:
    table = Table(title=title)
    for name in frame.columns:
        table.add_column(str(name).replace("_", " "))
    for row in frame.itertuples(index=False):
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row))
    return table
