"""Odd inputs, each written once a session by its script in `scripts/`."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent / "scripts"


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder that a case's script has written, `case("04")` for `04_sform_pixdim.py`: to read, not to write in."""
    written: dict[str, Path] = {}

    def write(number: str) -> Path:
        if number not in written:
            (script,) = SCRIPTS.glob(f"{number}_*.py")
            place = tmp_path_factory.mktemp(script.stem)
            environment = {**os.environ, "CASE_OUT": str(place), "PYTHONPATH": str(SCRIPTS)}
            subprocess.run([sys.executable, str(script)], cwd=place, env=environment, check=True)
            written[number] = place
        return written[number]

    return write
