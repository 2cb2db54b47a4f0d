"""What commands put out: where they write, checked before their work, and what they print as their result.

Hours are not spent on what cannot be saved. Printed is Markdown that fits the terminal, or JSON for programs; into a
file or a pipe goes the Markdown as it is.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from common.errors import InputError

HOME = "SCARFORGE_HOME"  # the workspace, in messages


def check_folder(path: Path, option: str = "--output") -> None:
    """Raise `InputError` unless `path` is a folder that can be written in, or can be made. Nothing is left behind.

    Args:
        path: The folder; its parents need not exist.
        option: How the user gave it, for the message.
    """
    if os.path.lexists(path) and not path.is_dir():
        raise InputError(f"{option} {path}: is {_what(path)}, not a folder; give a folder")
    _check_writable(path, option)


def check_file(path: Path, option: str) -> None:
    """Raise `InputError` unless `path` is a file that can be written, in a folder that exists.

    Args:
        path: The file, there or not.
        option: How the user gave it, for the message.
    """
    if path.is_dir():
        raise InputError(f"{option} {path}: is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise InputError(f"{option} {path}: there is no folder {path.parent}; make it, or give another place")
    _check_writable(path.parent, option)
    if path.exists() and not os.access(path, os.W_OK):
        raise InputError(f"{option} {path}: cannot be written (Permission denied); give another place")


def _check_writable(folder: Path, option: str) -> None:
    """Make and remove a file in the nearest folder that exists: permissions alone do not tell of what is read-only."""
    try:
        place = next(each for each in (folder, *folder.absolute().parents) if os.path.lexists(each))
        if not place.is_dir():
            raise InputError(f"{option} {folder}: {place} is {_what(place)}, not a folder; give another place")
        with tempfile.TemporaryFile(dir=place), suppress(FileNotFoundError):
            folder.lstat()  # fails where the name is too long
    except OSError as error:
        raise InputError(
            f"{option} {folder}: cannot be written ({error.strerror}); correct its permissions, or give another place"
        ) from error


def _what(path: Path) -> str:
    return "a file" if path.exists() else "a link that leads nowhere"


_GAP = 2  # spaces between columns
_NAMES = ("network", "training set", "arm", "against", "rule")  # leading columns that may become headings


def print_markdown(text: str) -> None:
    """Print paragraphs and tables; on a terminal no name is cut, however narrow it is."""
    if not sys.stdout.isatty():
        print(text)
        return
    console = Console()
    for part in rendered(text, console.width):
        console.print(part, highlight=False, markup=False)


def print_json(content: Mapping[str, Any]) -> None:
    """Print plain values as JSON."""
    print(json.dumps(content, indent=2, ensure_ascii=False))


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as plain values, null where there is no number."""
    found: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=15))
    return found


def rendered(text: str, width: int) -> Iterator[RenderableType]:
    """Yield what is printed of a Markdown text on a terminal of so many characters."""
    for is_table, lines in groupby(text.strip().splitlines(), lambda line: line.startswith("|")):
        if is_table:
            yield from _fitting(*_cells(list(lines)), width)
        else:
            for line in lines:
                yield Text(line.lstrip("# "), style="bold") if line.startswith("#") else Text(line)


def _cells(lines: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    headings, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return headings, rows


def _fitting(headings: list[str], rows: list[list[str]], width: int) -> Iterator[RenderableType]:
    """Yield a table; one that is too wide has its names above its parts, or a line for each value."""
    lead = 0
    while _needed(headings[lead:], [row[lead:] for row in rows]) > width and headings[lead] in _NAMES:
        lead += 1
    narrow = _needed(headings[lead:], [row[lead:] for row in rows], longest_word=True) > width
    for names, part in groupby(rows, lambda row: row[:lead]):
        if names:
            yield Text(", ".join(names), style="bold")
        rest = [row[lead:] for row in part]
        yield _lines(headings[lead:], rest) if narrow else _table(headings[lead:], rest, width)


def _needed(headings: Sequence[str], rows: Sequence[Sequence[str]], longest_word: bool = False) -> int:
    """Return the width of a table, or that below which its words are broken."""

    def of_cell(cell: str) -> int:
        return max(map(len, cell.split()), default=0) if longest_word else len(cell)

    return sum(max(map(of_cell, column)) + _GAP for column in zip(headings, *rows, strict=True))


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Table:
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False)
    columns = list(zip(headings, *rows, strict=True))
    for heading, wide in zip(headings, _widths(columns, width), strict=True):
        table.add_column(heading, overflow="fold", width=wide)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _widths(columns: Sequence[Sequence[str]], width: int) -> list[int]:
    """Return each column's width: its longest cell's, or less where cells have words to be parted and space lacks."""
    widths = [max(map(len, column)) for column in columns]
    least = [max(map(len, " ".join(column).split()), default=0) for column in columns]
    for _ in range(sum(widths) + _GAP * len(columns) - width):
        widest = max(range(len(columns)), key=lambda place: widths[place] - least[place])
        widths[widest] = max(widths[widest] - 1, least[widest])
    return widths


def _lines(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Text:
    told = ("\n".join(f"{name}: {cell}" for name, cell in zip(headings, row, strict=True)) for row in rows)
    return Text("\n\n".join(told))
