"""The table of what commands end with: its statuses are those of the code, and each row is held by a test."""

import re
import signal
from pathlib import Path

from pipeline import outermost
from pipeline.commands.predict import predict

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (.+?) \| .*\| `(test_\w+)` \|$", PAGE, re.MULTILINE)


def test_every_status_of_the_code_has_a_row_and_no_other():
    signals = {128 + number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)}
    known = {0, outermost.OWN_FAULT, outermost.WRONG_INPUT, predict.WITH_FLAGS} | signals
    assert {int(named) for named, _ in ROWS if named.isdecimal()} == known
    assert predict.WITH_PROBLEMS == outermost.WRONG_INPUT


def test_every_row_is_held_by_a_test_that_exists():
    written = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(ROWS) > 20
    assert [test for _, test in ROWS if f"def {test}(" not in written] == []
