"""One job a profile, one for sources without lesions, and the nightly schedule."""

import os

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import (
    UnresolvedAssetJobDefinition,  # not exported, yet what define_asset_job returns
)

from imaging.sources import source_labels

REAL_ONLY_HALF = (
    "studies",
    "patient_split",
    "lv_localiser",
    "real_slices",
    "augmented_slices",
    "training_set_real_only",
    "attention_res_unet_real_only",
    "halsr_net_real_only",
    "attention_res_unet_real_only_scores",
    "halsr_net_real_only_scores",
)
CINE_PROFILE = os.environ.get("SCARFORGE_PROFILE", "quick")
NIGHTLY_PROFILE = os.environ.get("SCARFORGE_NIGHTLY_PROFILE", os.environ.get("SCARFORGE_PROFILE", "demo"))
NIGHTLY_FOLDS = tuple(os.environ.get("SCARFORGE_NIGHTLY_FOLDS", "0").split(","))
NIGHTLY_CRON = os.environ.get("SCARFORGE_NIGHTLY_CRON", "0 2 * * *")
NIGHTLY_TIMEZONE = os.environ.get("SCARFORGE_NIGHTLY_TIMEZONE", "UTC")

_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def fold_job(profile: str, description: str, fields: dict[str, str]) -> UnresolvedAssetJobDefinition:
    """Return the job that runs the whole graph for one fold with one profile."""
    return dg.define_asset_job(
        name=f"{profile}_fold",
        selection="*",
        description=description,
        config={"resources": {"forge": {"config": {"profile": profile, **fields}}}},
    )


demo_fold = fold_job("demo", "The whole graph on the built-in phantom, for two CPU cores.", {"source": "phantom"})
tiny_fold = fold_job(
    "tiny", "The whole graph on a handful of phantom patients, to try the wiring.", {"source": "phantom"}
)
quick_fold = fold_job("quick", "Real data (SCARFORGE_SOURCE, SCARFORGE_ROOT) on a CPU, an hour or two.", {})
paper_fold = fold_job("paper", "Real data with full counts, for a GPU.", {})
cine = dg.define_asset_job(
    name="cine",
    selection=list(REAL_ONLY_HALF),
    description="The real-only half, for sources without lesions (acdc, lvquan19, sunnybrook, mscmr_lge and others).",
    config={"resources": {"forge": {"config": {"profile": CINE_PROFILE}}}},
)
JOBS = {"demo": demo_fold, "tiny": tiny_fold, "quick": quick_fold, "paper": paper_fold}


def job_for(profile: str, has_lesions: bool) -> UnresolvedAssetJobDefinition:
    """Return the job that fits a source: the whole graph, or its real-only half where no study holds an infarct."""
    return JOBS[profile] if has_lesions else cine


NIGHTLY_SOURCE = os.environ.get("SCARFORGE_SOURCE", "phantom")
NIGHTLY_JOB = job_for(NIGHTLY_PROFILE, source_labels(NIGHTLY_SOURCE).has_lesions)


@dg.schedule(
    job=NIGHTLY_JOB,
    cron_schedule=NIGHTLY_CRON,
    execution_timezone=NIGHTLY_TIMEZONE,
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Retrains the nightly folds; assets whose code, data and settings are unchanged return at once.",
)
def nightly(context: dg.ScheduleEvaluationContext) -> dg.SkipReason | list[dg.RunRequest]:
    """Request one run for each nightly fold, unless last night's are still going."""
    job = NIGHTLY_JOB.name
    going = context.instance.get_runs_count(dg.RunsFilter(job_name=job, statuses=_UNFINISHED))
    if going:
        return dg.SkipReason(f"{going} runs of {job} are still going")
    night = context.scheduled_execution_time.strftime("%Y-%m-%d")
    return [
        dg.RunRequest(run_key=f"{night}/fold {fold}", partition_key=fold, tags={"nightly": night})
        for fold in NIGHTLY_FOLDS
    ]
