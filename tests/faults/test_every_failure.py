"""A few of the faults that `make faults` tries over the whole fold, here over its first stages."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NUMBERS = {"samples": 20, "kills": 4, "signals": 2, "damages": 6}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # 110 s of one processor
    pytest.mark.skipif(sys.platform != "linux" or shutil.which("gcc") is None, reason="the shim needs Linux and gcc"),
]


def test_after_any_fault_the_same_command_ends_with_the_same_bytes(tmp_path):
    found = tmp_path / "faults.json"
    numbers = [f"--{name}={number}" for name, number in NUMBERS.items()]
    where = ("--until", "real_slices", "--found", str(found))
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.sweep", *numbers, *where], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    samples = json.loads(found.read_text())
    assert len(samples) == sum(NUMBERS.values())
    assert {"lv_localiser", "real_slices"} <= {sample["stage"] for sample in samples if sample["struck"]}
    assert {-9, 0, 2} <= {sample["status"] for sample in samples}
