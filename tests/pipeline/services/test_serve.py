"""The two user interfaces, started for real on a trivial asset graph."""

import base64
import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from common.errors import InputError
from pipeline.services import ui as served_module
from pipeline.services.ui import serve
from tests.foreign_requests import foreign_requests

ROOT = Path(__file__).parents[3]
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
def home(tmp_path: Path, empty_store: Path) -> Path:
    """A workspace before its first start: its database knows no experiment yet."""
    shutil.copy2(empty_store, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "definitions.py").write_text(DEFINITIONS)
    path = tmp_path / "workspace.yaml"
    path.write_text(f"load_from:\n  - python_file: {tmp_path / 'definitions.py'}\n")
    return path


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A current folder with files that are named like libraries."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for name in ("gql", "mlflow", "uvicorn", "starlette", "yaml", "pipeline"):
        (folder / f"{name}.py").write_text(f"raise RuntimeError('a stray {name}.py was imported')\n")
    return folder


@pytest.fixture
def password(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.touch(0o600)
    path.write_text("ada:only for this test")
    return path


@pytest.fixture
def served(
    home: Path, workspace: Path, elsewhere: Path, password: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    dagster_port, mlflow_port = free_port(), free_port()
    asks = f"password_file=Path({str(password)!r})" if hasattr(request, "param") else ""
    code = (
        "import sys; from pathlib import Path; from pipeline.services.ui import serve;"
        f"sys.exit(serve(Path({str(home)!r}), {dagster_port}, {mlflow_port}, Path({str(workspace)!r}), {asks}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    environment.pop("PYTEST_CURRENT_TEST", None)
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", code],
        env=environment,
        cwd=elsewhere,
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


def answered(port: int, method: str, path: str, headers: dict[str, str]) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


def expect_foreign_requests_refused(port: int, sibling: str) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    upgrade["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
    for attack in foreign_requests(sibling):
        host = {"Host": f"{attack.host or '127.0.0.1'}:{port}"}
        extra = upgrade if attack.websocket else {}
        status = answered(port, attack.method, attack.path, {**host, **extra, **attack.headers})
        assert status == (421 if attack.host else 403), attack


@pytest.mark.slow
def test_both_answer_their_own_pages_only_and_ctrl_c_stops_everything(
    served: tuple[subprocess.Popen[str], int, int], home: Path, tmp_path: Path
) -> None:
    process, dagster_port, mlflow_port = served
    lines = first_lines(process, 2)
    assert f"http://127.0.0.1:{dagster_port}" in lines[0], lines
    assert f"http://127.0.0.1:{mlflow_port}/#/experiments/1/runs?workflowType=machine_learning" in lines[1], lines
    for address in (f"http://127.0.0.1:{dagster_port}/server_info", f"http://127.0.0.1:{mlflow_port}/health"):
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert answer.status == 200
    expect_foreign_requests_refused(dagster_port, f"http://127.0.0.1:{mlflow_port}")
    expect_foreign_requests_refused(mlflow_port, f"http://127.0.0.1:{dagster_port}")
    expect_artifact_kept(f"http://127.0.0.1:{mlflow_port}", tmp_path, home)
    with pytest.raises(InputError, match=rf"runs there already \(process {process.pid} on \S+, http.*:{dagster_port}"):
        serve(home)
    children, asked = family(process), time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert time.monotonic() - asked < 10
    assert process.stdout is not None
    assert process.stdout.read() == "stopping\n"
    assert still_there(children) == []
    logs = {path.name for path in (home / "logs").iterdir()}
    assert logs == {"dagster-daemon.log", "dagster-webserver.log", "mlflow.log"}


def variable_of(process: subprocess.Popen[str], name: str) -> str:
    """Return what Dagster's webserver hands down to the trainings."""
    webserver = next(child for child in family(process) if "dagster" in child.cmdline())
    return webserver.environ()[name]


def expect_artifact_kept(uri: str, folder: Path, home: Path) -> None:
    """Send a file as a training does."""
    (folder / "weights.txt").write_text("0.5")
    client = MlflowClient(uri)
    run = client.create_run("1")
    client.log_artifact(run.info.run_id, str(folder / "weights.txt"))
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["weights.txt"]
    assert len(list((home / "mlflow_artifacts").rglob("weights.txt"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("served", ["password"], indirect=True)
def test_both_ask_for_the_password_and_all_stop_when_one_dies(
    served: tuple[subprocess.Popen[str], int, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: Path
) -> None:
    process, dagster_port, mlflow_port = served
    first_lines(process, 2)
    login = {"Authorization": "Basic " + base64.b64encode(b"ada:only for this test").decode()}
    for port, path in ((dagster_port, "/runs"), (mlflow_port, "/version")):
        assert answered(port, "GET", path, {}) == 401
        assert answered(port, "GET", path, login) == 200
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, variable_of(process, name))
    expect_artifact_kept(f"http://127.0.0.1:{mlflow_port}", tmp_path, home)
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


def test_nothing_starts_where_others_would_reach_it_without_a_password(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"host 192\.168\.1\.5: other machines reach it"):
        serve(tmp_path / "home", host="192.168.1.5")
    assert not (tmp_path / "home").exists()


def test_a_third_name_of_a_proxy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--behind-proxy a b c: name Dagster's host, then MLflow's, and no more"):
        serve(tmp_path, behind_proxy=["a", "b", "c"])


@pytest.mark.slow
def test_a_code_location_that_cannot_be_loaded_is_named_and_nothing_is_called_ready(
    tmp_path: Path, home: Path, workspace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "definitions.py").write_text("raise ValueError('no scanner at this hospital')\n")
    assert serve(home, free_port(), free_port(), workspace) == 1
    said = capfd.readouterr()
    assert said.out == ""
    assert "the code location 'definitions.py' cannot be loaded: ValueError: no scanner at this hospital" in said.err
    assert "dagster-webserver ended with code 1" in said.err


STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[1:] == ["first"]:
    child = subprocess.Popen([sys.executable, __file__], start_new_session=True)
    print(child.pid, flush=True)
time.sleep(600)
"""


def test_what_does_not_hear_is_killed_in_whatever_group_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_module, "_STOP_TIMEOUT_S", 0.5)
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    command = [sys.executable, str(tmp_path / "stubborn.py"), "first"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as first:
        assert first.stdout is not None
        second = psutil.Process(int(first.stdout.readline()))
        served_module._end_all([first])
        assert first.returncode == -signal.SIGKILL
    assert still_there([second]) == []


def test_a_signal_ends_even_what_catches_everything() -> None:
    code = textwrap.dedent("""
        import time
        from pipeline.services import ui as serve
        serve._END_TIMEOUT_S = 0.5
        with serve._stop_signals():
            for _ in range(600):
                try:
                    print("on", flush=True)
                    time.sleep(1)
                except BaseException:
                    pass
    """)
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "on\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 143


def test_paths_name_the_same_file_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert served_module._absolute("studies") == str(tmp_path / "studies")
    assert served_module._absolute("sqlite:///mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"
    assert served_module._absolute("sqlite:////srv/mlflow.db") == "sqlite:////srv/mlflow.db"
    for address in ("s3://bucket/results", "http://mlflow:5000", "postgresql+psycopg2://ada@db/mlflow"):
        assert served_module._absolute(address) == address
