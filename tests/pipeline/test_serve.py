"""The two user interfaces, started for real on a trivial asset graph."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from imaging.errors import InputError
from pipeline.serve import serve

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")]

DEFINITIONS = """
import dagster as dg

@dg.asset
def nothing() -> None: ...

defs = dg.Definitions(assets=[nothing])
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "definitions.py").write_text(DEFINITIONS)
    path = tmp_path / "workspace.yaml"
    path.write_text(f"load_from:\n  - python_file: {tmp_path / 'definitions.py'}\n")
    return path


@pytest.fixture
def served(tmp_path: Path, prepared: Path, workspace: Path) -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    dagster_port, mlflow_port = free_port(), free_port()
    code = (
        "import sys; from pathlib import Path; from pipeline.serve import serve;"
        f"sys.exit(serve(Path({str(prepared)!r}), {dagster_port}, {mlflow_port}, Path({str(workspace)!r})))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    environment.pop("PYTEST_CURRENT_TEST", None)
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    yield process, dagster_port, mlflow_port
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    process.communicate(timeout=60)


def first_lines(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline() for _ in range(count)]


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def still_there(processes: list[psutil.Process], seconds: float = 15.0) -> list[psutil.Process]:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.slow
def test_both_answer_and_ctrl_c_stops_everything(
    served: tuple[subprocess.Popen[str], int, int], prepared: Path
) -> None:
    process, dagster_port, mlflow_port = served
    lines = first_lines(process, 2)
    assert f"http://127.0.0.1:{dagster_port}" in lines[0], lines
    assert f"http://127.0.0.1:{mlflow_port}/#/experiments/1/runs?workflowType=machine_learning" in lines[1], lines
    for address in (f"http://127.0.0.1:{dagster_port}/server_info", f"http://127.0.0.1:{mlflow_port}/health"):
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert answer.status == 200
    children = family(process)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    assert still_there(children) == []
    logs = {path.name for path in (prepared / "logs").iterdir()}
    assert logs == {"dagster-daemon.log", "dagster-webserver.log", "mlflow.log"}


@pytest.mark.slow
def test_all_stop_when_one_dies(served: tuple[subprocess.Popen[str], int, int]) -> None:
    process, _, _ = served
    deadline = time.monotonic() + 60
    while len(psutil.Process(process.pid).children()) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    children = family(process)
    daemon = next(child for child in children if "dagster._daemon" in child.cmdline())
    daemon.kill()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "dagster-daemon ended with code -9" in output
    assert "dagster-daemon.log" in output
    assert still_there(children) == []


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(InputError, match=rf"port {port} for Dagster is taken"):
            serve(tmp_path, dagster_port=port)
