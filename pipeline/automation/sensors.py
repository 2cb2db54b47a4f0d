"""What is watched besides the clock: the folder of studies, runs that fail, candidates that fall behind.

When a folder of studies has changed and come to rest: a digest of its listing, never of its contents.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg

from common.errors import InputError
from common.files import Mark
from engine.run_tags import BY_SENSOR, NIGHT_TAG
from imaging.sources.table import source_format
from pipeline.automation.messages import Message, notifiers, notify
from pipeline.automation.scheduled_jobs import (
    NIGHTLY_JOB,
    SETTINGS,
    NightlySettings,
    automatic_runs_going,
    night_requests,
    require_valid_nights,
)

QUIET_S = 60.0
LISTING_LIMIT_S = 20.0  # Dagster gives up on a sensor after 60 s
SHARE_OF_TIME = 0.05  # that is spent on listing, at most
INTERVAL_S = 30.0  # between two looks at a folder that is listed quickly


@dataclass(frozen=True)
class Watch:
    """What the sensor remembers between two looks.

    Attributes:
        used: Digest of the listing that a run was last requested for.
        seen: Digest of the last look.
        since: When `seen` was first seen, in seconds since 1970.
        looked: When the folder was last listed, in seconds since 1970.
        listing_s: How long that took.
    """

    used: str = ""
    seen: str = ""
    since: float = 0.0
    looked: float = 0.0
    listing_s: float = 0.0

    @property
    def pause_s(self) -> float:
        """How long to leave the folder alone after a listing, so that a large one is not listed all the time."""
        pause = self.listing_s / SHARE_OF_TIME
        return pause if pause > INTERVAL_S else 0.0

    def to_cursor(self) -> str:
        """Return the text that Dagster keeps."""
        return json.dumps(asdict(self))

    @classmethod
    def from_cursor(cls, cursor: str | None) -> "Watch":
        """Read `to_cursor`'s text; what cannot be read counts as never having looked."""
        try:
            return cls(**json.loads(cursor or "{}"))
        except (ValueError, TypeError):
            return cls()


@dataclass(frozen=True)
class Look:
    """One look at the folder: what to remember, and either a digest to run for or the reason to wait."""

    watch: Watch
    reason: str
    changed: bool = False


def look(watch: Watch, root: Path, now: float) -> Look:
    """Compare the folder with what was seen before.

    A change counts once the listing has stayed the same for a minute of this machine's clock: a copy that keeps
    the times of the originals looks old from its first second.

    Args:
        watch: What is remembered.
        root: Folder of the studies.
        now: In seconds since 1970.
    """
    if now < watch.looked + watch.pause_s:
        left = watch.looked + watch.pause_s - now
        return Look(watch, f"{root}: its listing took {watch.listing_s:.1f} s; the next look is in {left:.0f} s")
    began = time.perf_counter()
    watch = replace(watch, looked=now, listing_s=LISTING_LIMIT_S)
    try:
        files, digest = listing_digest(root)
        watch = replace(watch, listing_s=time.perf_counter() - began)
    except TimeoutError as error:
        return Look(watch, str(error))
    except OSError as error:
        watch = replace(watch, listing_s=time.perf_counter() - began)
        return Look(watch, f"{root}: cannot be listed ({error.strerror or error}); mount it or set SCARFORGE_ROOT")
    if not files:
        return Look(watch, f"{root}: holds no file yet")
    if digest == watch.used:
        return Look(replace(watch, seen=digest, since=now), f"{files} files, unchanged")
    if digest != watch.seen:
        return Look(replace(watch, seen=digest, since=now), f"{files} files, just changed; waiting until it is quiet")
    quiet = now - watch.since
    if quiet < QUIET_S:
        return Look(watch, f"{files} files, quiet for {quiet:.0f} of {QUIET_S:.0f} s")
    return Look(replace(watch, used=digest), f"{files} files, changed", changed=True)


def listing_digest(root: Path) -> tuple[int, str]:
    """Return how many files lie below `root`, and a hash of their names, sizes and times of change.

    Files that this program wrote do not count, as where the workspace or the results of predictions lie there.

    Raises:
        OSError: The folder cannot be listed.
        TimeoutError: It holds too much to be watched.
    """
    lines, began = [], time.perf_counter()
    for line in _listing(root, ""):
        lines.append(line)
        if time.perf_counter() - began > LISTING_LIMIT_S:
            raise TimeoutError(
                f"{root}: {len(lines)} files were listed in {LISTING_LIMIT_S:.0f} s and more are there; set "
                "SCARFORGE_ROOT to a folder that holds the studies alone, or start the runs by hand"
            )
    lines.sort()
    return len(lines), hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()[:20]


def _listing(folder: Path, prefix: str) -> Iterator[str]:
    mark = Mark.of(folder)
    with os.scandir(folder) as entries:
        for entry in (entry for entry in entries if not mark.covers(entry.name)):
            name = f"{prefix}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield from _listing(Path(entry.path), f"{name}/")
                continue
            try:
                status = entry.stat()
            except FileNotFoundError:  # renamed or removed since it was listed, or a link to nothing
                continue
            yield f"{name}\t{status.st_size}\t{status.st_mtime_ns}"


_INTERVAL_S = 30
_REPORTING = (  # naming a way to be told is asking to be told
    dg.DefaultSensorStatus.RUNNING if os.environ.get("SCARFORGE_NOTIFY") else dg.DefaultSensorStatus.STOPPED
)


@dg.sensor(
    job=NIGHTLY_JOB,
    minimum_interval_seconds=_INTERVAL_S,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Starts the nightly folds when studies came or changed and the folder has been quiet for a minute.",
)
def new_studies(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Request a candidate for a changed folder of studies."""
    require_valid_nights()
    return watch_folder(context, SETTINGS, time.time())


def watch_folder(context: dg.SensorEvaluationContext, settings: NightlySettings, now: float) -> dg.SensorResult:
    """Look at the folder once; `now` is in seconds since 1970."""
    if not source_format(settings.source).needs_root:
        return _skip(context.cursor, f"source {settings.source} reads no folder")
    if settings.root is None:
        return _skip(context.cursor, "SCARFORGE_ROOT is not set, so that there is no folder to watch")
    seen = look(Watch.from_cursor(context.cursor), settings.root, now)
    if not seen.changed:
        return _skip(seen.watch.to_cursor(), seen.reason)
    if going := automatic_runs_going(context.instance):
        return _skip(context.cursor, f"{seen.reason}; waits for {going} automatic runs that are still going")
    moment = datetime.fromtimestamp(now, ZoneInfo(settings.timezone)).strftime("%Y-%m-%d %H:%M")
    # The same listing may come back after another one, so that the moment belongs to the key.
    requests = night_requests(settings, BY_SENSOR, moment, f"studies {seen.watch.used} {seen.watch.since:.0f}")
    return dg.SensorResult(run_requests=requests, cursor=seen.watch.to_cursor())


def _skip(cursor: str | None, reason: str) -> dg.SensorResult:
    return dg.SensorResult(skip_reason=reason, cursor=cursor)


@dg.run_failure_sensor(
    minimum_interval_seconds=_INTERVAL_S,
    default_status=_REPORTING,
    description="Tells people (SCARFORGE_NOTIFY) that a run failed, and in which stage.",
)
def report_failures(context: dg.RunFailureSensorContext) -> None:
    """Tell people about one failed run."""
    tell(context, failure_message(context.dagster_run, context.get_step_failure_events()))


def failure_message(run: dg.DagsterRun, failures: Sequence[dg.DagsterEvent]) -> Message:
    """Say which stage of which run failed; the errors' own text stays private."""
    fold = run.tags.get("dagster/partition", "")
    night = run.tags.get(NIGHT_TAG)
    what = " ".join(
        part for part in (run.job_name, f"fold {fold}" if fold else "", f"({night})" if night else "") if part
    )
    errors = [(event.step_key or "", _root_error(event)) for event in failures]
    lines = [f"{step}: {kind}" for step, (kind, _) in errors] or ["no stage failed: the run itself ended early"]
    private = tuple(f"{step}: {text}" for step, (_, text) in errors if text)
    return Message(f"{what} failed", tuple(lines), run_address(run.run_id), private)


def _root_error(event: dg.DagsterEvent) -> tuple[str, str]:
    error = event.step_failure_data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return (error.cls_name or "error", error.message.strip()) if error else ("error", "")


@dg.sensor(
    minimum_interval_seconds=_INTERVAL_S,
    default_status=_REPORTING,
    description="Tells people (SCARFORGE_NOTIFY) that a night's candidate fell below its champion's interval.",
)
def report_regressions(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Tell people about each new regression of an automatic run, once."""
    state = _read_cursor(context.cursor)
    told = 0
    for record in _judged(context.instance, state["after"]):
        state["after"] = record.storage_id
        message = regression_message(context.instance, record.event_log_entry)
        if message is None:
            continue
        place = _place(context.instance, record)  # each night judges every fold of its source and profile anew
        digest = hashlib.sha256("\n".join(message.lines).encode()).hexdigest()[:20]
        if digest != state["told_by_place"].get(place):
            tell(context, message)
            told, state["told_by_place"][place] = told + 1, digest
    return _skip(json.dumps(state), f"told of {told} regressions" if told else "no new regression")


def _place(instance: dg.DagsterInstance, record: dg.EventLogRecord) -> str:
    """Return source, profile and fold of a judgement as one key."""
    run = instance.get_run_by_id(record.run_id)
    return "/".join((*(_source_and_profile(run) if run else ()), f"fold {record.partition_key or ''}"))


def _source_and_profile(run: dg.DagsterRun) -> tuple[str, ...]:
    """Return what the run was given; nothing where its configuration does not say."""
    config: Mapping[str, Any] = run.run_config
    forge = config.get("resources", {}).get("forge", {}).get("config", {})
    return tuple(str(forge[name]) for name in ("source", "profile") if forge.get(name))


def regression_message(instance: dg.DagsterInstance, event: dg.EventLogEntry) -> Message | None:
    """Name the tissues that fell, with figures; None where none fell or where a person started the run."""
    run = instance.get_run_by_id(event.run_id)
    materialization = event.asset_materialization
    if run is None or NIGHT_TAG not in run.tags or materialization is None:
        return None
    tissues = materialization.metadata.get("tissues")
    fell = (
        [row.data for row in tissues.records if row.data["fell"]] if isinstance(tissues, dg.TableMetadataValue) else []
    )
    if not fell:
        return None
    fold = materialization.partition or run.tags.get("dagster/partition", "")
    lines = tuple(
        f"{row['model']}, {row['tissue']}: Dice {row['candidate']:.3f}, champion {row['champion']:.3f} "
        f"({row['champion_low']:.3f} to {row['champion_high']:.3f})"
        for row in fell
    )
    where = " ".join(("fold", fold, *(("of", *names) if (names := _source_and_profile(run)) else ())))
    fallen = ", ".join(dict.fromkeys(str(row["tissue"]) for row in fell))
    subject = f"regression in {where} ({run.tags[NIGHT_TAG]}): {fallen}"
    return Message(subject, lines, run_address(run.run_id))


def _judged(instance: dg.DagsterInstance, after: int | None) -> Sequence[dg.EventLogRecord]:
    """Return the judgements since `after`, oldest first; only the latest where nothing was looked at before."""
    wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey("champion"), after_storage_id=after)
    limit = 1 if after is None else 100
    return instance.fetch_materializations(wanted, limit=limit, ascending=after is not None).records


def _read_cursor(cursor: str | None) -> dict[str, Any]:
    nothing: dict[str, Any] = {"after": None, "told_by_place": {}}
    try:
        return {**nothing, **json.loads(cursor or "{}")}
    except (ValueError, TypeError):
        return nothing


def tell(context: Any, message: Message) -> None:
    """Send a message; a wrong SCARFORGE_NOTIFY is said in the sensor's log and stops nothing."""
    home = Path(os.environ.get("SCARFORGE_HOME", "workspace")).absolute()
    try:
        notify(notifiers(os.environ, home), message, context.log)
    except InputError as error:
        context.log.warning(f"{message.subject}: nobody was told: {error}")


def run_address(run_id: str) -> str:
    """Return a run's page in the web interface (SCARFORGE_DAGSTER_URL, default: where `make ui` starts it)."""
    return f"{os.environ.get('SCARFORGE_DAGSTER_URL', 'http://127.0.0.1:3000').rstrip('/')}/runs/{run_id}"
