"""What commands print as their result: Markdown that fits the terminal, or JSON for programs.

Into a file or a pipe goes the Markdown as it is.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import pandas as pd
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

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


def print_rows(rows: Sequence[Mapping[str, str]]) -> None:
    """Print rows of one shape as a table."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    print_markdown("\n".join(f"| {' | '.join(line)} |" for line in lines))


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
