"""What a run prints at its end: the comparison, and where to look further."""

from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown


def print_comparison(folder: Path, home: Path) -> None:
    """Print the comparison as a table, and the addresses of what lies beside it."""
    console = Console(width=None if Console().is_terminal else 150)
    console.print(Markdown((folder / "comparison.md").read_text(encoding="utf-8")))
    console.print(f"\nTables and figures: {folder}", highlight=False, soft_wrap=True)
    console.print(f"All stages, models and scores: {folder.parent}", highlight=False, soft_wrap=True)
    console.print(f"Dagster and MLflow: SCARFORGE_HOME={home} make ui", highlight=False, soft_wrap=True)
