"""The nightly schedule: one run a fold, whose assets return at once where nothing changed."""

import os
from zoneinfo import ZoneInfo

import dagster as dg

from imaging.errors import InputError
from imaging.sources import source_labels
from pipeline.forge_fields import forge_fields
from pipeline.jobs import JOBS, job_for
from pipeline.night import BY_SCHEDULE, BY_SENSOR, FORCE_TAG, NIGHT_TAG, STARTED_BY_TAG
from pipeline.nightly_settings import NightlySettings, nightly_settings


def _from_environment() -> tuple[NightlySettings, str]:
    """Return the settings and no problem, or the defaults and what is wrong: most commands know no nights."""
    try:
        found = nightly_settings(os.environ, frozenset(JOBS))
        source_labels(found.source)
    except InputError as error:
        own = str(error).startswith("SCARFORGE_")
        return NightlySettings(), str(error) if own else f"SCARFORGE_SOURCE: {error}"
    return found, ""


SETTINGS, _PROBLEM = _from_environment()
NIGHTLY_JOB = job_for(SETTINGS.profile, source_labels(SETTINGS.source).has_lesions)

_UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def require_valid_nights() -> None:
    """Refuse to start or to watch anything while the environment's settings of the nights are wrong.

    Raises:
        InputError: They are; the message names the variable, its value and what is allowed.
    """
    if _PROBLEM:
        raise InputError(_PROBLEM)


def night_requests(
    settings: NightlySettings, started_by: str, night: str, run_key: str, force: bool = False
) -> list[dg.RunRequest]:
    """Return one run request for each nightly fold; a request with the same key is not launched twice.

    Args:
        settings: Of the nights.
        started_by: The schedule or the sensor.
        night: What the night is called, such as 2026-01-31.
        run_key: What must not be run twice.
        force: Whether to train again although nothing changed.
    """
    forge = {**forge_fields(os.environ), "profile": settings.profile, "source": settings.source}
    forge["root"] = str(settings.root or "")
    tags = {NIGHT_TAG: night, STARTED_BY_TAG: started_by, "dagster/max_retries": "1"}
    if force:
        tags[FORCE_TAG] = "true"
    return [
        dg.RunRequest(
            run_key=f"{run_key}/fold {fold}",
            partition_key=fold,
            tags=tags,
            run_config={"resources": {"forge": {"config": forge}}},
        )
        for fold in settings.folds
    ]


def automatic_runs_going(instance: dg.DagsterInstance) -> int:
    """Count the runs of schedule and sensor that have not ended; what a person started does not count."""
    automatic = {STARTED_BY_TAG: [BY_SCHEDULE, BY_SENSOR]}
    return instance.get_runs_count(dg.RunsFilter(tags=automatic, statuses=_UNFINISHED))


@dg.schedule(
    job=NIGHTLY_JOB,
    cron_schedule=SETTINGS.cron,
    execution_timezone=SETTINGS.timezone,
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Runs the nightly folds; only what changed in data, code or settings is trained again. "
    "Nights missed while the daemon was away are made up by one run.",
)
def nightly(context: dg.ScheduleEvaluationContext) -> dg.SkipReason | list[dg.RunRequest]:
    """Request one run for each nightly fold, unless an earlier night is still going."""
    require_valid_nights()
    going = automatic_runs_going(context.instance)
    if going:
        return dg.SkipReason(f"{going} automatic runs are still going; the next night sees what changed until then")
    night = context.scheduled_execution_time.astimezone(ZoneInfo(SETTINGS.timezone)).strftime("%Y-%m-%d")
    return night_requests(SETTINGS, BY_SCHEDULE, night, night, SETTINGS.force)
