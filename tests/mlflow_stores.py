"""A prepared SQLite store, made once and copied; a real `mlflow server` that tests may kill."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.tracking.store import prepare_store, tracking_places


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables and nothing in them; making one takes seconds."""
    home = tmp_path_factory.mktemp("empty_store")
    prepare_store(tracking_places(home, {}).uri, experiment="Default")
    return home / "mlflow.db"


@pytest.fixture
def prepared(tmp_path: Path, empty_store: Path) -> Path:
    """A workspace with a store of its own, with the experiment in it."""
    shutil.copy2(empty_store, tmp_path / "mlflow.db")
    places = tracking_places(tmp_path, {})
    prepare_store(places.uri, places.artifact_root)
    return tmp_path


def told(home: Path, key: str, folder: Path | None = None, uri: str = "", name: str = "run", **more: Any) -> Any:
    """What a tracker is told of a run, by default of the workspace's own store."""
    return {
        "uri": uri or tracking_places(home, {}).uri,
        "home": str(home),
        "folder": "" if folder is None else str(folder),
        "key": key,
        "name": name,
        "tags": {"stage": "training", **more.pop("tags", {})},
        "params": more.pop("params", {}),
        "parent": more.pop("parent", {}),
        "dataset": "d",
    }


class MlflowServer:
    """A server on a loopback port of its own; it keeps its store when it is killed."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
        environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # eight processes that are not needed here
        environment.pop("PYTEST_CURRENT_TEST", None)
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.home}/mlflow.db"]
        command += ["--artifacts-destination", str(self.home / "artifacts")]
        with (self.home / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, cwd=self.home, start_new_session=True
            )
        self._wait_until_it_answers()

    def kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _wait_until_it_answers(self) -> None:
        assert self._process is not None
        for _ in range(600):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                return
            assert self._process.poll() is None, (self.home / "server.log").read_text()
            time.sleep(0.1)
        raise AssertionError((self.home / "server.log").read_text())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def mlflow_server(tmp_path: Path, empty_store: Path) -> Iterator[MlflowServer]:
    """A server that was not started yet."""
    shutil.copy2(empty_store, tmp_path / "mlflow.db")
    server = MlflowServer(tmp_path)
    yield server
    server.kill()


@pytest.fixture
def silent_uri() -> Iterator[str]:
    """An address that accepts connections and never answers, as a server that hangs does."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(50)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
