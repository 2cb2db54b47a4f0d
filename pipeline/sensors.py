"""What is watched besides the clock: the folder of studies, runs that fail, candidates that fall behind."""

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg

from imaging.errors import InputError
from imaging.sources import source_format
from pipeline.night import BY_SENSOR, NIGHT_TAG
from pipeline.nightly import NIGHTLY_JOB, SETTINGS, automatic_runs_going, night_requests, require_valid_nights
from pipeline.nightly_settings import NightlySettings
from pipeline.notify import Message, notifiers, notify
from pipeline.source_watch import Watch, look

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
