"""`scarforge compare`: folders of label maps and their reference in, the comparison's tables and page out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from common.errors import InputError
from common.files import mark_own, write_atomically
from common.progress import say
from common.tables import write_csv
from imaging.labels import LabelSet
from pipeline.commands.evaluate import label_format
from pipeline.commands.output import check_folder, print_markdown
from segmentation.comparison.text import render_comparison
from segmentation.evaluation.compared_folders import FolderComparison, compare_folders
from segmentation.scoring.scores import write_scores

_FIGURE_DPI = 120
_FIGURES = ("differences.png", "pairs.png")
_TABLES = ("scores.csv", "summary.csv", "differences.csv", "pairs.csv")


def compare(reference: Path, predictions: Sequence[Path], names: Sequence[str], form: str, output: Path) -> int:
    """Compare each folder with the first, patient by patient, and write and print the tables.

    Args:
        reference: Folder of reference label maps.
        predictions: Folders of predicted ones, two or more.
        names: What they are called; by default as their folders.
        form: A key of `LABEL_FORMATS`.
        output: Folder of the tables, the figures and the page.

    Returns:
        The exit status: 0, or 2 where something could not be scored or did not belong there.

    Raises:
        InputError: The format is unknown, names are not one a folder, folders do not fit each other, or nothing can be
            scored or written.
    """
    folders = name_folders(predictions, names)
    labels = label_format(form)
    check_folder(output)
    found = compare_folders(reference, folders, labels)
    markdown = render_comparison(found.comparison, labels.labels)
    _write(found, markdown, output)
    _write_page(found, list(folders), labels.labels, output)
    _print(found, markdown, output)
    return 2 if found.problems else 0


def name_folders(folders: Sequence[Path], names: Sequence[str]) -> Mapping[str, Path]:
    """Return each folder by the name that it goes by.

    Raises:
        InputError: There are not as many names as folders, or two are the same.
    """
    if names and len(names) != len(folders):
        raise InputError(f"{len(names)} names for {len(folders)} folders; give --name once for each, in their order")
    chosen = list(names) or [folder.absolute().name for folder in folders]
    twice = [name for name, times in Counter(chosen).items() if times > 1 or not name.strip()]
    if twice:
        raise InputError(f"two folders would be called {twice[0]!r}; give --name once for each, in their order")
    return dict(zip(chosen, folders, strict=True))


def _write(found: FolderComparison, markdown: str, output: Path) -> None:
    from segmentation.report.charts import forest_figure, pairs_figure

    comparison = found.comparison
    mark_own(output, (*_TABLES, *_FIGURES, "comparison.md", "report.html"))
    write_scores(output / "scores.csv", found.scores)
    tables = (comparison.summary, *(_named(found, table) for table in (comparison.differences, comparison.pairs)))
    for name, table in zip(_TABLES[1:], tables, strict=True):
        write_atomically(output / name, partial(write_csv, table))
    write_atomically(output / "comparison.md", partial(_write_text, markdown))
    for name, draw in zip(_FIGURES, (forest_figure, pairs_figure), strict=True):
        draw(comparison).savefig(output / name, dpi=_FIGURE_DPI)


def _write_page(found: FolderComparison, names: Sequence[str], labels: LabelSet, output: Path) -> None:
    from segmentation.report.pages import render_folders_page

    page = render_folders_page(found.comparison, names, labels)
    write_atomically(output / "report.html", partial(_write_text, page))


def _write_text(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


def _named(found: FolderComparison, table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with the two folders of each row by their names."""
    named = table.rename(columns={"network": "second_folder"})
    named.insert(0, "first_folder", found.comparison.names[0])
    return named


def _print(found: FolderComparison, markdown: str, output: Path) -> None:
    print_markdown(markdown)
    for note in found.notes:
        say(f"warning: {note}")
    for problem in found.problems:
        say(f"scarforge: {problem}")
    print(f"{found.patients} of {found.of_patients} patients were compared")
    print(f"Tables, figures and page: {output}")
