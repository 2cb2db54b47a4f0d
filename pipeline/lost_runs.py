"""Ends the runs whose process is gone: after a SIGKILL or a power cut Dagster would show them as running for ever.

Such a run also keeps its slot of the pool `gpu`, for which every later training would wait.
"""

import os
import socket
from typing import NamedTuple

import dagster as dg
import psutil
from dagster._core.storage.tags import GRPC_INFO_TAG

PROCESS_TAG = "scarforge/process"  # host:number of the command that executes the run
_OPEN = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
_WHY = "its process is gone (killed, or the machine stopped); the same run again continues it"
_CLOCKS_S = 1.0  # Linux counts a process's start from the boot, whose time it knows to a second


class _Worker(NamedTuple):
    """The process that executes, or executed, a run on this machine, and when it is known to have been there."""

    number: int
    seen: float


def process_tags() -> dict[str, str]:
    """Return the tags by which a run that this process executes is known."""
    return {PROCESS_TAG: f"{socket.gethostname()}:{os.getpid()}"}


def end_lost_runs(instance: dg.DagsterInstance, of_interface: bool = False) -> list[str]:
    """Mark the runs of this machine whose process is gone as failed, and free their slots.

    Args:
        instance: Dagster's instance.
        of_interface: Also the runs that the interface had launched. Only its next start can tell that they ran here:
            there is one daemon for one database of runs.

    Returns:
        The ids of the runs that were ended.
    """
    ended = []
    for record in instance.get_run_records(dg.RunsFilter(statuses=_OPEN)):
        worker = _worker(instance, record, of_interface)
        if worker and not _is_there(worker):
            _end(instance, record.dagster_run)
            ended.append(record.dagster_run.run_id)
    return ended


def _worker(instance: dg.DagsterInstance, record: dg.RunRecord, of_interface: bool) -> _Worker | None:
    run = record.dagster_run
    host, _, number = run.tags.get(PROCESS_TAG, "").rpartition(":")
    if number:
        return _Worker(int(number), record.create_timestamp.timestamp()) if host == socket.gethostname() else None
    if of_interface and GRPC_INFO_TAG in run.tags:
        for event in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
            process = event.dagster_event and event.dagster_event.engine_event_data.metadata.get("pid")
            if process:
                return _Worker(int(str(process.value)), event.timestamp)
    return None


def _is_there(worker: _Worker) -> bool:
    """Tell whether a process still runs; a later one may have taken over its number."""
    try:
        return bool(psutil.Process(worker.number).create_time() <= worker.seen + _CLOCKS_S)
    except psutil.NoSuchProcess:
        return False


def _end(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    if run.status is dg.DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, message=_WHY)
    else:
        instance.report_run_failed(run, message=_WHY)
    instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
