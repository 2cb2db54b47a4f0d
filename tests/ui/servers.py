"""Both user interfaces as `make ui` starts them, in a workspace of their own."""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.mlflow_stores import free_port

ROOT = Path(__file__).parents[2]
PROFILE = os.environ.get("SCARFORGE_UI_PROFILE", "tiny")  # demo, for pictures worth showing
SECRET = "planted-Zq7vT2"  # what passwords and keys are in these tests
_START_TIMEOUT_S = 600.0  # includes the creation of MLflow's tables
_STOP_TIMEOUT_S = 120.0


@dataclass
class Servers:
    """Two addresses, as the command printed them, and what runs behind them."""

    process: subprocess.Popen[str]
    home: Path
    started: float
    dagster: str
    mlflow: str

    @property
    def logs(self) -> list[Path]:
        return sorted((self.home / "logs").glob("*.log"))

    def stop(self) -> None:
        """Stop as Ctrl-C does, and raise if anything is left."""
        family = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=_STOP_TIMEOUT_S)
        _, left = psutil.wait_procs(family, timeout=30)
        for process in left:
            process.kill()
        assert not left, f"still there after Ctrl-C: {left}"


def start_servers(home: Path) -> Servers:
    """Start `scarforge ui` on free ports and wait until it prints both addresses."""
    ports = ["--dagster-port", str(free_port()), "--mlflow-port", str(free_port())]
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "ui", *ports],
        cwd=home.parent,  # elsewhere than the workspace's parent by default, so that a relative path would show
        env=_environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        printed = _addresses(process)
    except BaseException:
        process.terminate()
        process.wait(timeout=_STOP_TIMEOUT_S)
        raise
    return Servers(process, home, started, printed["Dagster"], printed["MLflow"])


def _environment(home: Path) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("SCARFORGE_", "MLFLOW_"))}
    inherited.pop("PYTEST_CURRENT_TEST", None)
    return {
        **inherited,
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "SCARFORGE_HOME": str(home),
        "SCARFORGE_SOURCE": "phantom",
        "SCARFORGE_PROFILE": PROFILE,
        "NO_ALBUMENTATIONS_UPDATE": "1",
        "AWS_ACCESS_KEY_ID": f"id-{SECRET}",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "SCARFORGE_NOTIFY": f"jsons://hooks.test/services/{SECRET}",
    }


def _addresses(process: subprocess.Popen[str]) -> dict[str, str]:
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_forward, args=(process, lines), daemon=True).start()
    deadline, said, found = time.monotonic() + _START_TIMEOUT_S, "", {}
    while len(found) < 2:
        try:
            line = lines.get(timeout=1.0)
        except queue.Empty:
            assert process.poll() is None, f"scarforge ui ended with code {process.returncode}:\n{said}"
            assert time.monotonic() < deadline, f"no addresses after {_START_TIMEOUT_S:.0f} s:\n{said}"
            continue
        said += line
        if address := re.match(r"(Dagster|MLflow)\s+(http://\S+)", line):
            found[address[1]] = address[2]
    return found


def _forward(process: subprocess.Popen[str], lines: "queue.Queue[str]") -> None:
    assert process.stdout is not None
    with process.stdout as printed:
        for line in printed:
            lines.put(line)
