"""Dagster's home: one folder in the workspace with its settings, its logs and, unless PostgreSQL has them, its runs.

Ends the runs whose process is gone: after a SIGKILL or a power cut Dagster would show them as running for ever.

Such a run may also keep its slot of the pool `gpu`, for which every later training would wait. A run is ended only
where its process is known to be gone; another machine's or another container's is left alone.
"""

import json
import os
import re
import socket
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import yaml
from dagster._core.storage.tags import GRPC_INFO_TAG, HIDDEN_TAG_PREFIX

from common.errors import UNFIT, InputError, one_line
from common.files import write_text
from engine.cluster.executor import pool_size
from engine.workspace import addressable, mark_home

POSTGRES_VARIABLE = "SCARFORGE_DAGSTER_POSTGRES"
_SCHEME = "postgresql+psycopg2://"

# Where no storage is named, Dagster keeps SQLite files beside `dagster.yaml`, wherever that is moved or copied.
_SETTINGS = """\
# Written once by scarforge; yours to change.
telemetry:
  enabled: false

nux:
  enabled: false # no invitation to a newsletter before the first page
{storage}
concurrency:
  runs:
    max_concurrent_runs: 2
  pools:
    default_limit: {places} # one training a GPU
    granularity: op

run_monitoring:
  enabled: true
  poll_interval_seconds: 30
  max_runtime_seconds: 172800 # two days, then a run is stopped as if cancelled; tag dagster/max_runtime: another limit
  free_slots_after_run_end_seconds: 60 # without this, a crashed run may block its pool for ever

run_retries:
  enabled: true
  max_retries: 0 # runs that ask for it only, as those of the nights do: a run that was killed is continued
  retry_on_asset_or_op_failure: false
"""

_POSTGRES = f"""
storage:
  postgres:
    postgres_url:
      env: {POSTGRES_VARIABLE} # read where it is needed, so that no password lies in this file
"""

_WORKSPACE = """\
load_from:
  - python_module:
      module_name: pipeline.definitions
      location_name: scarforge
"""


def prepare_dagster_home(home: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """Write `dagster.yaml` and `workspace.yaml` in the workspace unless they are there, and give the folder.

    Runs are kept in SQLite files of that folder, or in the database that `SCARFORGE_DAGSTER_POSTGRES` names.

    Args:
        home: The workspace (`SCARFORGE_HOME`).
        environment: Usually `os.environ`.

    Returns:
        The absolute folder that `DAGSTER_HOME` has to name, by a link where its own name can be in no address.

    Raises:
        InputError: The variable names no PostgreSQL database, its driver is not installed, or the `dagster.yaml` that
            is there keeps runs elsewhere.
    """
    mark_home(home.absolute())
    folder = addressable(home.absolute()) / "dagster"
    _write_settings(folder, _asks_for_postgres(environment), pool_size(environment))
    _write_once(folder / "workspace.yaml", _WORKSPACE)
    return folder


def _asks_for_postgres(environment: Mapping[str, str]) -> bool:
    url = environment.get(POSTGRES_VARIABLE, "")
    if url and not url.startswith(_SCHEME):
        # SQLAlchemy 2.1 would look for another driver behind `postgresql://` than the one that dagster-postgres has.
        raise InputError(f"{POSTGRES_VARIABLE}: expected {_SCHEME}USER:PASSWORD@HOST:5432/DATABASE")
    if url and find_spec("dagster_postgres") is None:
        raise InputError(f"{POSTGRES_VARIABLE} needs dagster-postgres; pip install 'scarforge[postgres]'")
    return bool(url)


def _write_settings(folder: Path, postgres: bool, places: int) -> None:
    path = folder / "dagster.yaml"
    written = _readable(path) if path.exists() else ""
    untouched = re.sub(r"default_limit: \d+", f"default_limit: {places}", written) == _settings(False, places)
    if not written or (postgres and untouched):
        write_text(path, _settings(postgres, places))
        return
    there = _keeps_runs_in_postgres(path)
    if postgres and not there:
        raise InputError(
            f"{path} was changed by hand and keeps runs elsewhere, while {POSTGRES_VARIABLE} is set; write into it"
            f"{_POSTGRES}or move it away to have a new one written"
        )
    if there and not postgres:
        raise InputError(
            f"{path} keeps runs in PostgreSQL, while {POSTGRES_VARIABLE} is not set; set it, "
            "or move the file away to keep new runs in SQLite"
        )


def _readable(path: Path) -> str:
    """Return the text of a file of settings that is YAML and names them."""
    try:
        text = path.read_text(encoding="utf-8")
        if not isinstance(yaml.safe_load(text), dict | None):
            raise TypeError("it names no settings")  # noqa: TRY301 # told as the other faults of the file
    except (UnicodeDecodeError, yaml.YAMLError, TypeError) as error:
        raise InputError(
            f"{path}: cannot be read ({one_line(error)}); correct it, or move it away to have a new one written"
        ) from error
    return text


def _settings(postgres: bool, places: int) -> str:
    return _SETTINGS.format(storage=_POSTGRES if postgres else "", places=places)


def _keeps_runs_in_postgres(path: Path) -> bool:
    """Tell whether a `dagster.yaml` reads the database's address from our variable."""
    storage = (yaml.safe_load(_readable(path)) or {}).get("storage") or {}
    url = (storage.get("postgres") or {}).get("postgres_url")
    return isinstance(url, dict) and url.get("env") == POSTGRES_VARIABLE


def _write_once(path: Path, text: str) -> None:
    if not path.exists():
        write_text(path, text)


PROCESS_TAG = f"{HIDDEN_TAG_PREFIX}scarforge_process"  # of the command that executes the run; no list of runs shows it
_CREATED = dg.DagsterRunStatus.NOT_STARTED
_OPEN = [_CREATED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
_WHY = "its process is gone (killed, or the machine stopped); the same run again continues it"
_CLOCKS_S = 1.0  # Linux counts a process's start from the boot, whose time it knows to a second


def process_tags() -> dict[str, str]:
    """Return the tags by which a run that this process executes is known."""
    return {PROCESS_TAG: json.dumps(_identity(psutil.Process().pid))}


def end_lost_runs(instance: dg.DagsterInstance, of_interface: bool = False) -> list[str]:
    """Mark the runs of this machine whose process is gone as failed (cancelled ones as such), and free their slots.

    Args:
        instance: Dagster's instance.
        of_interface: Also the runs that an interface had launched. Only for a database of runs that one machine has:
            such a run does not tell where it was launched.

    Returns:
        The ids of the runs that were ended.
    """
    ended = []
    for run in instance.get_runs(dg.RunsFilter(statuses=_OPEN)):
        if run.status is _CREATED and run.parent_run_id is not None:
            continue  # the interface creates a run once more just now, and copies the tags of the first
        # The interface copies tags when a run is launched once more, so its own comes first.
        launched = GRPC_INFO_TAG in run.tags
        if (of_interface and _worker_is_gone(instance, run)) if launched else _command_is_gone(run):
            _end(instance, run)
            ended.append(run.run_id)
    return ended


def _identity(pid: int) -> dict[str, Any]:
    """Return what tells a process from every other: machine, boot, container, number and start."""
    return {
        "host": socket.gethostname(),
        "machine": _text("/etc/machine-id"),
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "container": Path("/proc/self/ns/pid").readlink().name if Path("/proc/self/ns/pid").exists() else "",
        "pid": pid,
        "start": _start(pid),
    }


def _command_is_gone(run: dg.DagsterRun) -> bool:
    """Tell whether the command that executes a run is known to be gone."""
    try:
        told = json.loads(run.tags.get(PROCESS_TAG, ""))
        here = _identity(psutil.Process().pid)
        if any(told[name] != here[name] for name in ("host", "machine")):
            return False
        if told["boot"] != here["boot"]:
            return True
        return bool(told["container"] == here["container"] and _start(int(told["pid"])) != told["start"])
    except UNFIT:  # no such tag, or of an older version
        return False


def _worker_is_gone(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Tell whether the worker of a run of the interface is gone; a later process may have taken over its number."""
    for event in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        process = event.dagster_event and event.dagster_event.engine_event_data.metadata.get("pid")
        if process:
            try:
                began = psutil.Process(int(str(process.value))).create_time()
            except psutil.NoSuchProcess:
                return True
            return bool(began > event.timestamp + _CLOCKS_S)
    return False


def _start(pid: int) -> str:
    """Return when a process started, which no step of the clock changes where there is /proc; empty without one."""
    try:
        # After the command's name in brackets, which may hold anything, the start is the 20th word (proc(5)).
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except OSError:
        return f"{psutil.Process(pid).create_time():.0f}" if psutil.pid_exists(pid) else ""


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _end(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    if run.status is dg.DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, message=_WHY)
    else:
        instance.report_run_failed(run, message=_WHY)
    instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
