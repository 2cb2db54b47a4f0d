"""What nobody needs any longer in a workspace: it is listed, and deleted where that is asked for.

Deleted, when older than asked for: folders that a killed or refused build left beside its result, and the runs of
Dagster, with their events and printed lines, that no result's latest state stands on. Never: a finished result, and so
every champion, model, score and report and all that these were made of; MLflow's runs and databases; what MLflow still
lacks; what belongs to a run that goes on; and any file that ScarForge did not write.
"""

import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from common.errors import InputError
from common.pages.words import count
from engine.locks import is_held
from engine.tracking.run_folder import is_told
from pipeline.services.dagster_home import prepare_dagster_home

_DAY_S = 86_400
# .NAME.KEY.partial is being built, .NAME.old was replaced, .NAME.taken came from another arm, the last were set aside.
_LEFT = re.compile(r"\.(?P<name>.+?)\.(?:[^.]+\.partial|old|taken|unrecorded_\d+)")
_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_OTHERS = frozenset({"dagster", "locks", "logs", "mlflow_artifacts", "tracking_spool"})


@dataclass(frozen=True)
class Leftover:
    """A folder that a build left beside its result."""

    folder: Path
    changed: float  # seconds since 1970
    size_bytes: int


def clean(home: Path, days: float, delete: bool) -> str:
    """Delete what is older than some days, or only list it; return the lines that tell.

    Args:
        home: The workspace.
        days: How long such things are kept.
        delete: Whether they are deleted.

    Raises:
        InputError: There is no workspace.
    """
    if not (home / "dagster").is_dir():
        raise InputError(f"{home}: is no workspace; set SCARFORGE_HOME to the one that is to be cleaned")
    before = time.time() - days * _DAY_S
    folders, runs = [one for one in leftovers(home) if one.changed < before], _clean_runs(home, before, delete)
    if delete:
        for one in folders:
            shutil.rmtree(one.folder)
    return _told(folders, runs, days, delete)


def leftovers(home: Path) -> Iterator[Leftover]:
    """Yield the folders that builds left in a workspace, but those that a process works in or MLflow lacks."""
    for place, inside, _ in os.walk(home):
        inside[:] = sorted(name for name in inside if not (Path(place) == home and name in _OTHERS))
        for name in [name for name in inside if _LEFT.fullmatch(name)]:
            inside.remove(name)
            folder = Path(place, name)
            if not is_held(_lock_of(folder)) and is_told(folder):
                yield _leftover(folder)


def _lock_of(folder: Path) -> Path:
    found = _LEFT.fullmatch(folder.name)
    assert found is not None
    return folder.with_name(f".{found['name']}.lock")


def _leftover(folder: Path) -> Leftover:
    states = [path.lstat() for path in (folder, *folder.rglob("*"))]
    return Leftover(folder, max(state.st_mtime for state in states), sum(state.st_size for state in states))


def _clean_runs(home: Path, before: float, delete: bool) -> int:
    """Return how many of Dagster's runs are old and stood on by nothing, and delete them where that is asked for."""
    with dg.DagsterInstance.from_config(str(prepare_dagster_home(home))) as instance:
        kept = latest_runs(instance)
        old = [
            record.dagster_run.run_id
            for record in instance.get_run_records(dg.RunsFilter(statuses=_ENDED))
            if (record.end_time or time.time()) < before and record.dagster_run.run_id not in kept
        ]
        for run in old if delete else []:
            instance.delete_run(run)
            shutil.rmtree(home / "dagster" / "storage" / run, ignore_errors=True)
    return len(old)


def latest_runs(instance: dg.DagsterInstance) -> set[str]:
    """Return the runs that the latest materialisation of an asset, in any partition, belongs to."""
    storage, kind = instance.event_log_storage, dg.DagsterEventType.ASSET_MATERIALIZATION
    found = set()
    for key in instance.all_asset_keys():
        ids = list(storage.get_latest_storage_id_by_partition(key, kind).values())
        wanted = dg.AssetRecordsFilter(asset_key=key, storage_ids=ids)
        records = instance.fetch_materializations(wanted, limit=len(ids)).records if ids else []
        latest = instance.get_latest_materialization_event(key)
        found |= {record.event_log_entry.run_id for record in records} | ({latest.run_id} if latest else set())
    return found


def _told(folders: list[Leftover], runs: int, days: float, delete: bool) -> str:
    lines = [f"{one.size_bytes / 1e6:10.1f} MB  {one.folder}" for one in folders]
    verb, total = "deleted" if delete else "would be deleted", sum(one.size_bytes for one in folders) / 1e6
    lines.append(
        f"{count(len(folders), 'folder')} ({total:.1f} MB) and {count(runs, 'run')} of Dagster, older than {days:g} "
        f"{'day' if days == 1 else 'days'}, {verb}"
    )
    listed = ["Nothing was changed; --delete does it. No result is ever deleted."]
    return "\n".join(lines if delete else lines + listed)
