"""Both user interfaces on this machine: Dagster's webserver and daemon, and MLflow's server.

Whatever answers a browser stands behind `pipeline.services.guard`. They listen on loopback unless a password or a proxy
that asks for one keeps strangers out.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import datetime
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from common.errors import InputError
from common.progress import quieten
from engine.links import note_mlflow, runs_page
from engine.tracking.store import EXPERIMENT, TrackingPlaces, find_experiment, prepare_store, shown, tracking_places
from engine.workspace import ARTIFACTS
from pipeline.services.dagster_home import POSTGRES_VARIABLE, prepare_dagster_home
from pipeline.services.guard import LOOPBACK, Address, Door, command, door_of

_START_TIMEOUT_S = 180.0
_STOP_TIMEOUT_S = 6.0
_END_TIMEOUT_S = 9.0  # after a signal, whatever hangs
_LAST_LINES = 15
_SQLITE = "sqlite:///"
_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Service:
    """One process to keep running, the address that tells that it does, and what has to be done before it starts."""

    name: str
    command: Sequence[str]
    health: urllib.request.Request | None = None
    secrets: Mapping[str, str] = field(default_factory=dict)  # in its environment, since a command is seen by all
    prepare: Callable[[], object] = lambda: None  # the services before it start meanwhile


def serve(
    home: Path,
    dagster_port: int = 3000,
    mlflow_port: int = 5000,
    workspace: Path | None = None,
    *,
    host: str = LOOPBACK,
    password_file: Path | None = None,
    behind_proxy: Sequence[str] = (),
) -> int:
    """Start the three services, say where they are, and stop all of them on a signal or when one dies.

    Args:
        home: The workspace (`SCARFORGE_HOME`); logs go to `home/logs`.
        dagster_port: Port of Dagster's webserver.
        mlflow_port: Port of MLflow's server.
        workspace: Dagster's workspace file; by default one that loads `pipeline.definitions`.
        host: Name or address that both listen on.
        password_file: File of one line `NAME:PASSWORD`, which both then ask for.
        behind_proxy: Names under which a proxy passes requests on: Dagster's, then MLflow's if it is another.

    Returns:
        130 after Ctrl-C, 143 after SIGTERM, 1 when a service ended by itself.

    Raises:
        InputError: A port is taken, `scarforge ui` runs in this workspace already, others than this machine would
            reach it without a password, the store cannot be used, or the settings of the nights are wrong.
    """
    home = home.absolute()
    dagster, mlflow = _addresses(host, (dagster_port, mlflow_port), password_file, behind_proxy)
    door = door_of(dagster)
    with _stop_signals() as stop, _only_one(home, dagster.url):
        try:
            _require_valid_nights()
            places = tracking_places(home, os.environ)
            places = replace(places, uri=_absolute(places.uri))
            _require_free(dagster, "Dagster")
            dagster_home = prepare_dagster_home(home)
            workspace = (workspace or dagster_home / "workspace.yaml").absolute()
            own = not places.uri.startswith("http")  # else a server that is named in the environment runs already
            shown_at = _where_browsers_find(mlflow, places.uri if not own else "")
            services = [_dagster_webserver(dagster, door, workspace, shown_at), _dagster_daemon(workspace)]
            if own:
                _require_free(mlflow, "MLflow")
                services.append(_mlflow(places, home / ARTIFACTS, mlflow, door))
                note_mlflow(home, mlflow.url)
            tracking = {"MLFLOW_TRACKING_URI": mlflow.url, **_login(door)} if own else {}
            environment = {**_environment(home, dagster_home), **tracking}
            _end_lost_runs(dagster_home)
            page = partial(_runs_page, mlflow.url, places.uri) if own else partial(shown, places.uri)
            pages: dict[str, Callable[[], str]] = {"Dagster": lambda: dagster.url, "MLflow": page}
            return _run(services, environment, home / "logs", stop, pages)
        except KeyboardInterrupt:
            return stop.code


def _addresses(
    host: str, ports: tuple[int, int], password_file: Path | None, behind_proxy: Sequence[str]
) -> tuple[Address, Address]:
    if len(behind_proxy) > len(ports):
        raise InputError(f"--behind-proxy {' '.join(behind_proxy)}: name Dagster's host, then MLflow's, and no more")
    names = behind_proxy or [""]
    file = password_file.absolute() if password_file else None
    dagster, mlflow = (
        Address(port, host, (name,) if name else (), file)
        for port, name in zip(ports, (names[0], names[-1]), strict=True)
    )
    return dagster, mlflow


@dataclass
class _Stop:
    """The signal that asked for an end. The first interrupts whatever goes on, later ones nothing."""

    number: int = 0

    @property
    def code(self) -> int:
        return 128 + self.number

    def __call__(self, number: int, _: object) -> None:
        if not self.number:
            self.number = number
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raise where the interruption was lost in code that catches everything."""
        if self.number:
            raise KeyboardInterrupt


@contextlib.contextmanager
def _stop_signals() -> Iterator[_Stop]:
    stop = _Stop()
    threading.Thread(target=_end_in_time, args=(stop,), daemon=True).start()
    # SIGINT too: a shell that starts a command in the background has it ignored.
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_in_time(stop: _Stop) -> None:
    """End this process and all that it started some seconds after the signal, whatever hangs."""
    while not stop.number:
        time.sleep(0.2)
    time.sleep(_END_TIMEOUT_S)
    for process in psutil.Process().children(recursive=True):
        _kill(process)
    os._exit(stop.code)


@contextlib.contextmanager
def _only_one(home: Path, url: str) -> Iterator[None]:
    """Keep a second interface, whose daemon would start the same nights, out of a workspace."""
    home.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(home / "ui.lock"), home / "ui.holder"
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        who = holder.read_text(encoding="utf-8").strip() if holder.exists() else "starting"
        raise InputError(
            f"{home}: `scarforge ui` runs there already ({who}); stop it, or set SCARFORGE_HOME to another workspace"
        ) from error
    try:
        now = datetime.datetime.now().astimezone().isoformat(" ", "minutes")
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}, {url}, since {now}\n", encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _absolute(place: str) -> str:
    """Return a path or a SQLite URI that names the same file from every folder; other addresses as they are."""
    scheme = _SQLITE if place.startswith(_SQLITE) else ""
    if "://" in place and not scheme:
        return place
    return scheme + str(Path(place.removeprefix(scheme)).absolute())


def _require_valid_nights() -> None:
    quieten()  # before the jobs are loaded: Dagster warns of its own use of what is in beta
    from pipeline.automation.scheduled_jobs import require_valid_nights

    require_valid_nights()


def _end_lost_runs(dagster_home: Path) -> None:
    """End what an interface that was killed had launched, so that nights and trainings do not wait for it.

    Runs in PostgreSQL may be those of another machine's interface, which lives.
    """
    import dagster as dg

    from pipeline.services.dagster_home import end_lost_runs

    with dg.DagsterInstance.from_config(str(dagster_home)) as instance:
        for run in end_lost_runs(instance, of_interface=POSTGRES_VARIABLE not in os.environ):
            print(f"run {run[:8]} had been killed and is ended", flush=True)


class _EndedError(Exception):
    """A service ended by itself."""


def _runs_page(address: str, uri: str) -> str:
    """Return the page that lists our runs; MLflow's own first page is about language models."""
    experiment = find_experiment(uri, EXPERIMENT)
    return f"{address}/#/{runs_page(experiment)}" if experiment else address


def _where_browsers_find(mlflow: Address, elsewhere: str) -> str:
    """Return the address of MLflow for links: the environment's, another server's, the proxy's name, or our own."""
    named = os.environ.get("SCARFORGE_MLFLOW_URL") or shown(elsewhere)
    if named:
        return named.rstrip("/")
    return f"//{mlflow.proxied[0]}" if mlflow.proxied else mlflow.url  # by the proxy's own scheme


def _mlflow(places: TrackingPlaces, artifacts: Path, address: Address, door: Door) -> Service:
    line = command("mlflow", address, "--artifacts", str(artifacts))
    secrets = {"MLFLOW_BACKEND_STORE_URI": places.uri}
    prepare = partial(prepare_store, places.uri, places.artifact_root)
    return Service("mlflow", line, _health(f"{address.url}/health", door), secrets, prepare)


def _dagster_webserver(address: Address, door: Door, workspace: Path, mlflow: str) -> Service:
    line = command("dagster", address, "--workspace", str(workspace), "--mlflow", mlflow)
    return Service("dagster-webserver", line, _health(f"{address.url}/server_info", door))


def _dagster_daemon(workspace: Path) -> Service:
    return Service("dagster-daemon", [sys.executable, "-P", "-m", "dagster._daemon", "run", "-w", str(workspace)])


def _health(url: str, door: Door) -> urllib.request.Request:
    login = {"Authorization": "Basic " + base64.b64encode(door.password.encode()).decode()} if door.password else {}
    return urllib.request.Request(url, headers=login)  # noqa: S310 - our own address


def _login(door: Door) -> dict[str, str]:
    """Return what the trainings show MLflow."""
    name, _, password = door.password.partition(":")
    return {"MLFLOW_TRACKING_USERNAME": name, "MLFLOW_TRACKING_PASSWORD": password} if name else {}


def _environment(home: Path, dagster_home: Path) -> dict[str, str]:
    named = {name: os.environ[name] for name in ("SCARFORGE_ROOT", "SCARFORGE_REMOTE") if os.environ.get(name)}
    return {
        **os.environ,
        **{name: _absolute(place) for name, place in named.items()},
        "SCARFORGE_HOME": str(home),
        "DAGSTER_HOME": str(dagster_home),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight processes for features that are not used here
        "PYTHONUNBUFFERED": "1",
    }


def _run(
    services: Sequence[Service],
    environment: Mapping[str, str],
    logs: Path,
    stop: _Stop,
    pages: Mapping[str, Callable[[], str]],
) -> int:
    """Run the services until a signal comes or one of them ends; say where their pages are once all of them answer."""
    with _running(services, environment, logs) as processes:
        try:
            _wait_until_healthy(services, processes, logs, stop)
            for name, page in pages.items():  # MLflow's is known after its first start only
                print(f"{name:<8} {page()}", flush=True)
            while True:
                stop.check()
                _require_alive(processes, logs)
                time.sleep(0.2)
        except KeyboardInterrupt:
            print("stopping", flush=True)
            return stop.code
        except _EndedError as error:
            print(error, file=sys.stderr, flush=True)
            return 1


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
        _end_all(list(processes.values()))


def _start(service: Service, environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    parent = os.getpid()
    with log.open("wb") as output:
        return subprocess.Popen(
            service.command,
            env={**environment, **service.secrets},
            cwd=environment["DAGSTER_HOME"],  # what Dagster starts imports from the current folder first
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
    services: Sequence[Service], processes: Mapping[str, subprocess.Popen[bytes]], logs: Path, stop: _Stop
) -> None:
    give_up = time.monotonic() + _START_TIMEOUT_S
    for service in services:
        while service.health and not _answers(service.health):
            stop.check()
            _require_alive(processes, logs)
            if time.monotonic() > give_up:
                raise _EndedError(f"{service.name} did not answer within {_START_TIMEOUT_S:.0f} s: see {logs}")
            time.sleep(0.2)


def _require_alive(processes: Mapping[str, subprocess.Popen[bytes]], logs: Path) -> None:
    for name, process in processes.items():
        if process.poll() is not None:
            log = logs / f"{name}.log"
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-_LAST_LINES:])
            raise _EndedError(f"{tail}\n{name} ended with code {process.returncode}: see {log}")


def _answers(health: urllib.request.Request) -> bool:
    try:
        with urllib.request.urlopen(health, timeout=2):  # noqa: S310 - our own address
            return True
    except OSError:
        return False


def _children(leader: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(leader.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _end_all(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End every process and what it started, runs included, politely first."""
    family = [child for leader in processes for child in _children(leader)]  # some lead groups of their own
    for leader in processes:
        _signal_group(leader, signal.SIGTERM)
    give_up = time.monotonic() + _STOP_TIMEOUT_S
    while any(_lives(process) for process in family) and time.monotonic() < give_up:
        time.sleep(0.05)
    for process in family:
        _kill(process)
    for leader in processes:
        _signal_group(leader, signal.SIGKILL)
        leader.wait()


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE  # an orphan's waits for nobody
    return False


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _require_free(address: Address, name: str) -> None:
    try:
        family, kind, _, _, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"port {address.port} for {name} is taken ({error.strerror}); stop what listens there or choose another"
            ) from error
        raise InputError(f"{name} cannot listen on {address.host}, port {address.port} ({error.strerror})") from error
