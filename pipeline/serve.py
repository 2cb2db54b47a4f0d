"""Both user interfaces on this machine: Dagster's webserver and daemon, and MLflow's server.

All listen on loopback only, since none of them asks who is there.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from imaging.errors import InputError
from pipeline.dagster_home import POSTGRES_VARIABLE, prepare_dagster_home
from pipeline.quiet import quieten
from pipeline.tracking_store import EXPERIMENT, TrackingPlaces, find_experiment, prepare_store, tracking_places
from pipeline.workspace import ARTIFACTS

_HOST = "127.0.0.1"
_START_TIMEOUT_S = 180.0
_STOP_TIMEOUT_S = 15.0
_LAST_LINES = 15
_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Service:
    """One process to keep running, the address that tells that it does, and what has to be done before it starts."""

    name: str
    command: Sequence[str]
    health: str | None = None
    secrets: Mapping[str, str] = field(default_factory=dict)  # in its environment, since a command is seen by all
    prepare: Callable[[], object] = lambda: None  # the services before it start meanwhile


def serve(
    home: Path,
    dagster_port: int = 3000,
    mlflow_port: int = 5000,
    workspace: Path | None = None,
) -> int:
    """Start the three services, say where they are, and stop all of them on Ctrl-C or when one dies.

    Args:
        home: The workspace (`SCARFORGE_HOME`); logs go to `home/logs`.
        dagster_port: Port of Dagster's webserver.
        mlflow_port: Port of MLflow's server.
        workspace: Dagster's workspace file; by default one that loads `pipeline.definitions`.

    Returns:
        0 after Ctrl-C or SIGTERM, 1 when a service ended by itself.

    Raises:
        InputError: A port is taken, the store cannot be used, or the settings of the nights are wrong.
    """
    _require_valid_nights()
    home, places = home.absolute(), tracking_places(home, os.environ)
    _require_free(dagster_port, "Dagster")
    dagster_home = prepare_dagster_home(home)
    services = [
        _dagster_webserver(dagster_port, workspace or dagster_home / "workspace.yaml"),
        _dagster_daemon(workspace or dagster_home / "workspace.yaml"),
    ]
    mlflow_address = places.uri
    own = not places.uri.startswith("http")
    if own:  # else a server that is named in the environment runs already
        _require_free(mlflow_port, "MLflow")
        services.append(_mlflow(places, home / ARTIFACTS, mlflow_port))
        mlflow_address = f"http://{_HOST}:{mlflow_port}"
    environment = _environment(home, dagster_home, mlflow_address)
    _end_lost_runs(dagster_home)
    with _interrupt_on_signals(), _running(services, environment, home / "logs") as processes:
        try:
            _wait_until_healthy(services, processes, home / "logs")
            print(f"Dagster  http://{_HOST}:{dagster_port}")
            print(f"MLflow   {_runs_page(mlflow_address, places.uri) if own else mlflow_address}", flush=True)
            return _watch(processes, home / "logs")
        except KeyboardInterrupt:
            print("stopping", flush=True)
            return 0
        except _EndedError as error:
            print(error, file=sys.stderr, flush=True)
            return 1


def _require_valid_nights() -> None:
    quieten()  # before the jobs are loaded: Dagster warns of its own use of what is in beta
    from pipeline.nightly import require_valid_nights

    require_valid_nights()


def _end_lost_runs(dagster_home: Path) -> None:
    """End what an interface that was killed had launched, so that nights and trainings do not wait for it.

    Runs in PostgreSQL may be those of another machine's interface, which lives.
    """
    import dagster as dg

    from pipeline.lost_runs import end_lost_runs

    with dg.DagsterInstance.from_config(str(dagster_home)) as instance:
        for run in end_lost_runs(instance, of_interface=POSTGRES_VARIABLE not in os.environ):
            print(f"run {run[:8]} had been killed and is ended", flush=True)


class _EndedError(Exception):
    """A service ended by itself."""


def _runs_page(address: str, uri: str) -> str:
    """Return the page that lists our runs; MLflow's own first page is about language models."""
    experiment = find_experiment(uri, EXPERIMENT)
    return f"{address}/#/experiments/{experiment}/runs?workflowType=machine_learning" if experiment else address


def _mlflow(places: TrackingPlaces, artifacts: Path, port: int) -> Service:
    command = [sys.executable, "-m", "mlflow", "server", "--host", _HOST, "--port", str(port)]
    command += ["--workers", "1", "--artifacts-destination", artifacts.as_uri()]
    secrets = {"MLFLOW_BACKEND_STORE_URI": places.uri}
    prepare = partial(prepare_store, places.uri, places.artifact_root)
    return Service("mlflow", command, f"http://{_HOST}:{port}/health", secrets, prepare)


def _dagster_webserver(port: int, workspace: Path) -> Service:
    command = [sys.executable, "-m", "dagster_webserver", "--host", _HOST, "--port", str(port)]
    return Service("dagster-webserver", [*command, "-w", str(workspace)], f"http://{_HOST}:{port}/server_info")


def _dagster_daemon(workspace: Path) -> Service:
    return Service("dagster-daemon", [sys.executable, "-m", "dagster._daemon", "run", "-w", str(workspace)])


def _environment(home: Path, dagster_home: Path, mlflow_address: str) -> dict[str, str]:
    return {
        **os.environ,
        "SCARFORGE_HOME": str(home),
        "DAGSTER_HOME": str(dagster_home),
        "MLFLOW_TRACKING_URI": mlflow_address,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight processes for features that are not used here
        "PYTHONUNBUFFERED": "1",
    }


@contextlib.contextmanager
def _running(
    services: Sequence[Service], environment: Mapping[str, str], logs: Path
) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    logs.mkdir(parents=True, exist_ok=True)
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for service in services:
            service.prepare()
            processes[service.name] = _start(service, environment, logs / f"{service.name}.log")
        yield processes
    finally:
        _stop(list(processes.values()))


def _start(service: Service, environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    parent = os.getpid()
    with log.open("wb") as output:
        return subprocess.Popen(
            service.command,
            env={**environment, **service.secrets},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C reaches this process only, which then stops all in order
            preexec_fn=lambda: _die_with(parent),
        )


def _die_with(parent: int) -> None:
    """Let Linux end this process when the process that supervises it is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)


def _wait_until_healthy(
    services: Sequence[Service], processes: Mapping[str, subprocess.Popen[bytes]], logs: Path
) -> None:
    give_up = time.monotonic() + _START_TIMEOUT_S
    for service in services:
        while service.health and not _answers(service.health):
            _require_alive(processes, logs)
            if time.monotonic() > give_up:
                raise _EndedError(f"{service.name} did not answer within {_START_TIMEOUT_S:.0f} s: see {logs}")
            time.sleep(0.2)


def _watch(processes: Mapping[str, subprocess.Popen[bytes]], logs: Path) -> int:
    while True:
        _require_alive(processes, logs)
        time.sleep(0.5)


def _require_alive(processes: Mapping[str, subprocess.Popen[bytes]], logs: Path) -> None:
    for name, process in processes.items():
        if process.poll() is not None:
            log = logs / f"{name}.log"
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-_LAST_LINES:])
            raise _EndedError(f"{tail}\n{name} ended with code {process.returncode}: see {log}")


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2):  # noqa: S310 - our own loopback address
            return True
    except OSError:
        return False


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End every process and what it started, runs included, politely first."""
    for process in processes:
        _signal_group(process, signal.SIGTERM)
    give_up = time.monotonic() + _STOP_TIMEOUT_S
    while any(_group_lives(process) for process in processes) and time.monotonic() < give_up:
        time.sleep(0.1)
    for process in processes:
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    process.poll()  # an ended leader would otherwise count
    try:
        os.killpg(process.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _require_free(port: int, name: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            raise InputError(
                f"port {port} for {name} is taken ({error.strerror}); stop what listens there or choose another"
            ) from error


@contextlib.contextmanager
def _interrupt_on_signals() -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    # SIGINT too: a shell that starts a command in the background has it ignored.
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
