"""One job a profile, and one for sources without lesions; and the nightly schedule that starts them.

A night is one run a fold, whose assets return at once where nothing changed. What the environment says about the
nights: SCARFORGE_NIGHTLY_PROFILE, _FOLDS, _CRON, _TIMEZONE, _FORCE.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import (
    UnresolvedAssetJobDefinition,  # not exported, yet what define_asset_job returns
)
from dagster._utils.schedules import is_valid_cron_string  # not exported, yet what the schedule itself asks
from pydantic import Field, ValidationError, field_validator

from common.config import YES, FrozenConfig
from common.errors import InputError, some_of
from engine.run_config import forge_fields
from engine.run_tags import BY_SCHEDULE, BY_SENSOR, FORCE_TAG, NIGHT_TAG, STARTED_BY_TAG
from imaging.sources.table import SOURCES, source_labels
from segmentation.model_kind import REAL_ONLY, ModelKind
from segmentation.networks.table import NETWORKS

REAL_ONLY_KINDS = tuple(ModelKind(network, REAL_ONLY) for network in NETWORKS)
REAL_ONLY_HALF = (
    "studies",
    "patient_split",
    "lv_localiser",
    "real_slices",
    "augmented_slices",
    "training_set_real_only",
    *(kind.name for kind in REAL_ONLY_KINDS),
    *(kind.scores for kind in REAL_ONLY_KINDS),
    "champion",
)
CINE_PROFILE = os.environ.get("SCARFORGE_PROFILE", "quick")


def fold_job(profile: str, description: str, fields: dict[str, str]) -> UnresolvedAssetJobDefinition:
    """Return the job that runs the whole graph for one fold with one profile."""
    return dg.define_asset_job(
        name=f"{profile}_fold",
        selection="*",
        description=description,
        config=_forge_config({"profile": profile, **fields}),
    )


def _forge_config(fields: dict[str, str]) -> dict[str, Any]:
    return {"resources": {"forge": {"config": {**forge_fields(os.environ), **fields}}}}


_WITHOUT_LESIONS = [name for name, form in SOURCES.items() if form.label_set and not form.label_set.has_lesions]
_PHANTOM = {"source": "phantom", "root": ""}
demo_fold = fold_job("demo", "The whole graph on the built-in phantom, for two CPU cores.", _PHANTOM)
tiny_fold = fold_job("tiny", "The whole graph on a handful of phantom patients, to try the wiring.", _PHANTOM)
quick_fold = fold_job("quick", "Real data (SCARFORGE_SOURCE, SCARFORGE_ROOT) on a CPU, an hour or two.", {})
best_fold = fold_job("best", "Real LGE on a CPU, as measured to be best, an hour and a half.", {})
paper_fold = fold_job("paper", "Real data with full counts, for a GPU.", {})
cine = dg.define_asset_job(
    name="cine",
    selection=list(REAL_ONLY_HALF),
    description=f"The real-only half, for sources without lesions ({', '.join(_WITHOUT_LESIONS)} and others).",
    config=_forge_config({"profile": CINE_PROFILE}),
)
JOBS = {"demo": demo_fold, "tiny": tiny_fold, "quick": quick_fold, "best": best_fold, "paper": paper_fold}


def job_for(profile: str, has_lesions: bool) -> UnresolvedAssetJobDefinition:
    """Return the job that fits a source: the whole graph, or its real-only half where no study holds an infarct."""
    return JOBS[profile] if has_lesions else cine


PREFIX = "SCARFORGE_NIGHTLY_"
_FOLDS = ("0", "1", "2", "3", "4")
_NO = frozenset({"", "0", "false", "no", "off"})


class NightlySettings(FrozenConfig):
    """When the nightly run starts, on which folds, with which profile, and whether it trains again regardless."""

    profile: str = "demo"
    folds: tuple[str, ...] = Field(default=("0",), min_length=1)
    cron: str = "0 2 * * *"
    timezone: str = "UTC"
    force: bool = False
    source: str = "phantom"
    root: Path | None = None

    @field_validator("folds")
    @classmethod
    def _known_folds(cls, folds: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := sorted(set(folds) - set(_FOLDS)):
            raise ValueError(f"{some_of(unknown)} is no fold; choose from 0 to 4, such as 0,1")
        return tuple(dict.fromkeys(folds))

    @field_validator("cron")
    @classmethod
    def _valid_cron(cls, cron: str) -> str:
        if not is_valid_cron_string(cron):
            raise ValueError("is no cron schedule; five fields such as '0 2 * * *' (at 02:00)")
        return cron

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, timezone: str) -> str:
        try:
            ZoneInfo(timezone)
        except (KeyError, ValueError, OSError) as error:  # KeyError: unknown to this machine
            raise ValueError("is no time zone of the IANA list, such as Europe/London") from error
        return timezone


def nightly_settings(environment: Mapping[str, str], profiles: frozenset[str]) -> NightlySettings:
    """Read the settings of the nights from the environment.

    Args:
        environment: Usually `os.environ`.
        profiles: The profiles that have a job.

    Raises:
        InputError: A value cannot be used; the message names its variable.
    """
    default = NightlySettings()
    source = environment.get("SCARFORGE_SOURCE", default.source)
    profile = environment.get("SCARFORGE_PROFILE", default.profile if source == default.source else "quick")
    values = {
        name: environment.get(f"{PREFIX}{name.upper()}", given)
        for name, given in (("profile", profile), ("cron", default.cron), ("timezone", default.timezone))
    }
    if values["profile"] not in profiles:
        known = ", ".join(sorted(profiles))
        raise InputError(f"{PREFIX}PROFILE={values['profile']!r} does not exist; choose one of {known}")
    folds = [fold.strip() for fold in environment.get(f"{PREFIX}FOLDS", "0").split(",") if fold.strip()]
    root = environment.get("SCARFORGE_ROOT")
    try:
        return NightlySettings(
            **values,
            folds=tuple(folds),
            force=_switch(f"{PREFIX}FORCE", environment.get(f"{PREFIX}FORCE", "")),
            source=source,
            root=Path(root).absolute() if root else None,
        )
    except ValidationError as error:
        first = error.errors()[0]
        variable = f"{PREFIX}{str(first['loc'][0]).upper()}"
        raise InputError(
            f"{variable}={environment.get(variable)!r}: {first['msg'].removeprefix('Value error, ')}"
        ) from error


def _switch(variable: str, value: str) -> bool:
    if value.lower() in YES:
        return True
    if value.lower() in _NO:
        return False
    raise InputError(f"{variable}={value!r}: say true or false")


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
