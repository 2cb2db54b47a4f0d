"""CSV tables whose texts a spreadsheet shows and never computes: names of studies come from elsewhere.

A text that a spreadsheet would take for a formula (`=cmd|...`, OWASP's "CSV injection") is written with an apostrophe
before it, which `read_csv` takes away again; every other table is written as pandas writes it, byte for byte.
"""

import csv
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from common.errors import InputError

_FORMULA = r"(?:[=@\t\r]|[+-](?!$|[\d\s.,:%eE+-]*$))"  # a sign before a number, or alone, is harmless
_WRITTEN_WITH_CARE = re.compile(rf"'*{_FORMULA}")
_READ_WITH_CARE = re.compile(rf"'+{_FORMULA}")


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table without its index; what UTF-8 cannot hold, as in a folder's name, is written as an escape."""
    careful = _changed(table, _WRITTEN_WITH_CARE, lambda text: f"'{text}")
    # pandas leaves a carriage return unquoted, behind which a new line would begin.
    returns = any(careful[name].map(lambda cell: isinstance(cell, str) and "\r" in cell).any() for name in careful)
    quoting: Literal[0, 2] = csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL
    careful.to_csv(path, index=False, quoting=quoting, errors="backslashreplace")


def read_csv(path: Path, **options: Any) -> pd.DataFrame:
    """Read a table that `write_csv` wrote, text for text.

    Args:
        path: The file.
        options: Those of `pandas.read_csv`.

    Raises:
        InputError: Its columns are separated by semicolons.
    """
    table: pd.DataFrame = pd.read_csv(path, **options)
    refuse_semicolons(path, table.columns)
    return _changed(table, _READ_WITH_CARE, lambda text: text[1:])


def refuse_semicolons(path: Path, columns: Iterable[object]) -> None:
    """Raise `InputError` where the heading of a table is one column: a spreadsheet of some countries wrote it."""
    heading = list(columns)
    if len(heading) == 1 and ";" in str(heading[0]):
        raise InputError(f"{path}: is separated by semicolons; save it with commas")


def _changed(table: pd.DataFrame, pattern: re.Pattern[str], change: Any) -> pd.DataFrame:
    """Return the table with `change` applied to the texts that begin with `pattern`; itself if there are none."""
    columns = {}
    for name in table.columns:
        if pd.api.types.is_numeric_dtype(table[name]):
            continue
        found = table[name].map(lambda cell: isinstance(cell, str) and pattern.match(cell) is not None).astype(bool)
        if found.any():
            column = table[name].astype(object)
            column[found] = column[found].map(change)
            columns[name] = column
    return table.assign(**columns) if columns else table
