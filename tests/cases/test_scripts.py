"""Every case of README.md has its script, and every script writes something."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cases.conftest import SCRIPTS

NUMBERS = sorted(path.name[:2] for path in SCRIPTS.glob("[0-9]*.py"))


@pytest.mark.parametrize("number", NUMBERS)
def test_a_script_writes_files(case: Callable[[str], Path], number: str) -> None:
    assert any(path.is_file() for path in case(number).rglob("*"))


def test_the_table_names_every_script() -> None:
    rows = re.findall(r"^\| ([0-9, ]+) \|", (SCRIPTS.parent / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(number.strip() for row in rows for number in row.split(",")) == NUMBERS
