"""What a run prints at its end: the comparison or, without lesions, the scores; and where to look further."""

from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from imaging.sources import source_labels
from imaging.tables import read_csv
from pipeline.compare_link import saved_links
from pipeline.forge import Forge
from pipeline.jobs import REAL_ONLY_HALF


def print_result(forge: Forge, fold: int) -> None:
    """Print the result of a fold as a table, and the addresses of what lies beside it."""
    console = Console(width=None if Console().is_terminal else 150)
    if source_labels(forge.source, forge.settings().source).has_lesions:
        folder = forge.folder("comparison")
        console.print(Markdown((folder / "comparison.md").read_text(encoding="utf-8")))
        console.print(f"\nReport: {folder / 'report.html'}", highlight=False, soft_wrap=True)
        for network, url in saved_links(forge).items():
            console.print(f"Compare the arms of {network} in MLflow: {url}", highlight=False, soft_wrap=True)
    else:
        console.print(_table(dice_table(_score_files(forge, fold)), f"Mean Dice on the test patients of fold {fold}"))
    console.print(f"All stages, models and scores: {forge.workspace.root}", highlight=False, soft_wrap=True)
    console.print(f"Dagster and MLflow: SCARFORGE_HOME={forge.home} make ui", highlight=False, soft_wrap=True)


def dice_table(files: list[Path]) -> pd.DataFrame:
    """Return mean Dice by rule and tissue (rows) and network or yardstick (columns) over score tables."""
    scores = pd.concat([read_csv(path, dtype={"case_id": str, "frame": str}) for path in files])
    dice = scores[scores["metric"] == "dice"]
    return dice.pivot_table(index=["rule", "tissue"], columns="network", values="value", sort=False).reset_index()


def _score_files(forge: Forge, fold: int) -> list[Path]:
    names = [name for name in REAL_ONLY_HALF if name.endswith("_scores")]
    return [forge.folder(name, fold, seed) / "scores.csv" for name in names for seed in forge.settings().seeds]


def _table(frame: pd.DataFrame, title: str) -> Table:
    table = Table(title=title)
    for name in frame.columns:
        table.add_column(str(name).replace("_", " "))
    for row in frame.itertuples(index=False):
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row))
    return table
