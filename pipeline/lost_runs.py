"""Ends the runs whose process is gone: after a SIGKILL or a power cut Dagster would show them as running for ever.

Such a run may also keep its slot of the pool `gpu`, for which every later training would wait. A run is ended only
where its process is known to be gone; another machine's or another container's is left alone.
"""

import json
import socket
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
from dagster._core.storage.tags import GRPC_INFO_TAG

PROCESS_TAG = "scarforge/process"  # of the command that executes the run
_OPEN = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
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
    except (ValueError, KeyError, TypeError):  # no such tag, or of an older version
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
