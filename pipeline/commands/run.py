"""The same graph as in the UI, from the command line: one fold, in this process, with a line a stage.

What a run prints at its end: the comparison or, without lesions, the scores; and where to look further.
"""

import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import dagster as dg
import pandas as pd
from dagster._core.execution import compute_logs
from dagster._core.instance.ref import InstanceRef

from common.errors import InputError, some_of
from common.pages.words import words
from common.processes import interrupts_held
from common.progress import expect, is_live, say, warn
from common.tables import read_csv
from engine.cluster.executor import executor_name
from engine.forge import Forge
from engine.preflight import check_before_run
from engine.settings import load_settings
from engine.tracking.links import saved_links
from engine.workspace import Workspace
from imaging.sources.table import source_labels
from pipeline.automation.scheduled_jobs import REAL_ONLY_KINDS
from pipeline.commands.output import HOME, check_folder, print_markdown
from pipeline.outermost import InterruptedCommand, explain_told
from pipeline.services.dagster_home import end_lost_runs, prepare_dagster_home, process_tags
from segmentation.comparison.arms import Comparison
from segmentation.comparison.text import markdown_table
from segmentation.model_kind import model_kinds
from segmentation.networks.table import NETWORKS
from segmentation.scoring.scores import read_scores
from segmentation.scoring.yardsticks import absent_yardsticks

if TYPE_CHECKING:
    from dagster._core.execution.execution_result import ExecutionResult


_YARDSTICK = "| (yardstick)"
FAILED_CHECK = "DagsterAssetCheckFailedError"
_OUR_ERROR = f"{InputError.__module__}.{InputError.__name__}: "  # its message is meant for people as it is


def run_fold(
    source: str,
    root: Path | None,
    profile: str,
    fold: int,
    home: Path,
    overrides: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> Forge:
    """Materialise the whole graph for one fold, or its real-only half where the source has no lesions.

    What an earlier run has finished is found again; what it had begun is continued.

    Raises:
        InputError: The settings are wrong, or a stage failed; the message is that stage's own.
    """
    from imaging.sources.table import source_labels, source_root

    settings = load_settings(profile, overrides, seeds)
    source_root(source, root)
    check_folder(home, HOME)
    check_before_run(settings, Workspace(home.absolute(), source, profile), [fold])
    has_lesions = source_labels(source, settings.source).has_lesions
    forge = Forge(
        source=source,
        root=str(root.absolute()) if root else "",
        profile=profile,
        home=str(home.absolute()),
        overrides=list(overrides),
        seeds=list(seeds),
    )
    prepare_stores(forge)
    say(f"{source}, profile {profile} (settings {settings.digest}), fold {fold}, in {forge.workspace.root}")
    if not has_lesions:
        say("  no study of this source holds an infarct: the real-only half of the graph runs")
    start = time.monotonic()
    result = execute(forge, fold, has_lesions)
    _send_what_waits(forge)
    if not result.success:
        raise_failure(result, forge.workspace.home)
    say(f"  {'all stages':<48} {time.monotonic() - start:6.1f} s")
    return forge


def _send_what_waits(forge: Forge) -> None:
    """Tell MLflow what it lacked when a stage ended: a run that finds every result opens no tracker that would."""
    from engine.tracking.publish import replay
    from engine.tracking.store import tracking_places

    replay(tracking_places(forge.workspace.home, {"MLFLOW_TRACKING_URI": forge.tracking_uri()}), every=False)


def prepare_stores(forge: Forge, dagster: Path | None = None) -> None:
    """Create the databases before any step does: two processes that migrate one SQLite file break it.

    Args:
        forge: Of the run.
        dagster: Where Dagster's home goes, other than into the workspace: the interface shows what lies there.
    """
    from engine.tracking.store import prepare_store

    forge.workspace.home.mkdir(parents=True, exist_ok=True)
    os.environ["DAGSTER_HOME"] = str(prepare_dagster_home(dagster or forge.workspace.home))
    prepare_store(forge.tracking_uri(), artifact_root=forge.workspace.artifact_root)


def execute(forge: Forge, fold: int, has_lesions: bool, assets: Sequence[str] = ()) -> "ExecutionResult":
    """Run the job in this process or, where `SCARFORGE_EXECUTOR` names a cluster, each step there.

    Args:
        forge: Source, profile and workspace.
        fold: The partition.
        has_lesions: Whether there is more than the real-only half.
        assets: Those to materialise; empty for all of the job.
    """
    from pipeline.automation.scheduled_jobs import job_for

    name = job_for(forge.profile, has_lesions).name
    config = {
        "resources": {"forge": {"config": {**forge.model_dump(mode="json", exclude_none=True), "home": ""}}},
        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
    }
    here, chosen = executor_name(os.environ) == "multiprocess", [dg.AssetKey(asset) for asset in assets] or None
    with _in_workspace(forge.workspace.home), _instance(without_pools=here) as instance:
        _start_log_readers_deaf(instance)
        for run in end_lost_runs(instance):
            say(f"  run {run[:8]} had been killed and is ended; the same command again continues it")
        if here:
            found = resolve_job(name)
            if not assets:  # else an experiment counts its cells
                expect(_stages(found, forge.settings().seeds), "stages")
            return found.execute_in_process(
                config, instance, str(fold), raise_on_error=False, asset_selection=chosen, tags=process_tags()
            )
        job = dg.build_reconstructable_job("pipeline.commands.run", "resolve_job", (name,))
        tags = {"dagster/partition": str(fold)} | process_tags()
        return dg.execute_job(job, instance, config, tags=tags, asset_selection=chosen)


def _stages(job: dg.JobDefinition, seeds: Sequence[int]) -> int:
    """Return how many folders a job makes: models and scores have one for each seed."""
    of_seed = {name for kind in model_kinds() for name in (kind.name, kind.scores)}
    names = (key.to_user_string() for key in job.asset_layer.selected_asset_keys)
    return sum(len(seeds) if name in of_seed else 1 for name in names)


@contextmanager
def _in_workspace(home: Path) -> Iterator[None]:
    """Let the steps find the workspace in the environment: a stored run names none, so that it may be moved."""
    before = os.environ.get("SCARFORGE_HOME")
    os.environ["SCARFORGE_HOME"] = str(home)
    try:
        yield
    finally:
        if before is None:
            del os.environ["SCARFORGE_HOME"]
        else:
            os.environ["SCARFORGE_HOME"] = before


def _instance(without_pools: bool) -> dg.DagsterInstance:
    """Return Dagster's instance; in this process, steps wait for the lock file of the accelerator, which says so.

    For a slot of a pool Dagster's executor would wait silently, and turning one core.
    """
    by_run = {"concurrency": {"pools": {"granularity": "run"}}} if without_pools else None
    return dg.DagsterInstance.from_ref(InstanceRef.from_dir(os.environ["DAGSTER_HOME"], overrides=by_run))


def _start_log_readers_deaf(instance: dg.DagsterInstance) -> None:
    """Have Ctrl-C pass by the processes that Dagster starts to copy a step's output: they would print a traceback.

    A live display is told of a step's lines otherwise: nothing is copied across it.
    """
    manager = instance.compute_log_manager
    captured = manager.capture_logs

    @contextmanager
    def capture_logs(log_key: Sequence[str]) -> Iterator[Any]:
        with ExitStack() as stack:
            with interrupts_held():
                if is_live():
                    stack.enter_context(_without_copies())
                log = stack.enter_context(captured(log_key))
            yield log

    manager.capture_logs = capture_logs  # type: ignore[method-assign] # whichever manager dagster.yaml names


@contextmanager
def _copy_nothing(*_: Any) -> Iterator[tuple[None, None]]:
    yield None, None


@contextmanager
def _without_copies() -> Iterator[None]:
    copied = compute_logs.tail_to_stream
    compute_logs.tail_to_stream = _copy_nothing  # type: ignore[assignment] # its parameters have names
    try:
        yield
    finally:
        compute_logs.tail_to_stream = copied


def resolve_job(name: str) -> dg.JobDefinition:
    """Return a job by name; a step on another machine asks for it anew."""
    from pipeline.definitions import defs

    return defs.resolve_job_def(name)


def raise_failure(result: "ExecutionResult", home: Path) -> NoReturn:
    """Raise what made the run fail in a workspace: an interrupt as such, anything else as one line."""
    errors = [event.step_failure_data.error for event in result.all_events if event.is_step_failure]
    if any(error and error.cls_name == dg.DagsterExecutionInterruptedError.__name__ for error in errors):
        say("  interrupted; the same command again continues the run")
        raise InterruptedCommand
    raise InputError(_first_failure(result, home))


def _first_failure(result: "ExecutionResult", home: Path) -> str:
    for event in result.all_events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            if error and error.cls_name == FAILED_CHECK and (failed := _failed_checks(result)):
                return failed
            cause = error.cause if error and error.cause else error
            below = cause and (cause.cause or cause.context)
            if below and (below.cls_name or "").endswith("MemoryError"):  # which a library turned into another error
                cause = below
            told = cause.message.strip().removeprefix(_OUR_ERROR) if cause else "failed without a message"
            return f"{event.step_key}: {explain_told(told, home)}"
        if event.is_failure and event.message:
            return _told_outside_of_steps(event, home) or event.message
    return _failed_checks(result) or "the run failed without an error of a stage; look at it in the UI (make ui)"


def _told_outside_of_steps(event: dg.DagsterEvent, home: Path) -> str:
    """Return what made a run fail between its steps, such as a database of Dagster's that cannot be opened."""
    error = event.job_failure_data.error if event.event_type is dg.DagsterEventType.RUN_FAILURE else None
    while error and error.cause:
        error = error.cause
    return explain_told(error.message.removeprefix(_OUR_ERROR), home).splitlines()[0] if error else ""


def _failed_checks(result: "ExecutionResult") -> str:
    """Return the first blocking check that failed, in its own words; empty where none did."""
    failed = [check for check in result.get_asset_check_evaluations() if not check.passed and check.blocking]
    if not failed:
        return ""
    first = failed[0]
    told = f": {first.description}" if first.description else ""
    return f"blocking check {first.check_name!r} of {first.asset_key.to_user_string()} failed{told}"


def run_folds(folds: Sequence[int], run: Callable[[int], Forge]) -> Forge:
    """Run folds one after another; one that fails leaves the others to go on.

    Args:
        folds: Which.
        run: Runs one.

    Raises:
        InputError: Folds failed; the others are done. The same failure twice is not the fold's, and ends it.
    """
    failures: dict[int, str] = {}
    for fold in folds:
        try:
            forge = run(fold)
        except InputError as error:
            again = str(error) in failures.values()
            failures[fold] = str(error)
            if len(folds) == 1 or again:
                raise
            warn(f"scarforge: fold {fold}: {error}")
    if failures:
        told = some_of((f"fold {fold}: {why}" for fold, why in failures.items()), between="; ")
        raise InputError(f"{len(failures)} of {len(folds)} folds failed, the others are done: {told}")
    return forge


def print_result(forge: Forge, folds: Sequence[int], yardsticks: bool = False) -> None:
    """Print the result: the verdict by tissue, the tables behind it, and where to look further.

    Args:
        forge: Of the run.
        folds: That were run; the comparison takes in every fold that is done.
        yardsticks: Also what needs no training: all background, the mean mask, another patient's mask.
    """
    if source_labels(forge.source, forge.settings().source).has_lesions:
        text = _verdict_and_tables(forge, yardsticks)
    else:
        text = _dice_in_words(forge, folds, yardsticks)
    print_markdown(text)
    print(f"\nAll stages, models and scores: {forge.workspace.root}")
    print(f"Dagster and MLflow: SCARFORGE_HOME={shlex.quote(str(forge.workspace.home))} scarforge ui")


def _verdict_and_tables(forge: Forge, yardsticks: bool) -> str:
    from segmentation.report.answer import answers_of

    compared, labels = forge.finished("comparison"), source_labels(forge.source, forge.settings().source)
    summary, differences, pairs = (read_csv(compared.file(f"{n}.csv")) for n in ("summary", "differences", "pairs"))
    answers = answers_of(Comparison(summary, differences, pairs, ()), labels)
    verdicts = [f"{answer.tissue}: {answer.sentence}" for answer in answers]
    text = compared.file("comparison.md").read_text(encoding="utf-8")
    lines = [line for line in text.strip().splitlines() if yardsticks or _YARDSTICK not in line]
    folds = compared.record.outcome.facts["folds"].value
    heading = f"# Real + GAN against real only, on the test patients of fold{'s' * (len(str(folds)) > 1)} {folds}"
    links = [f"Report: {compared.folder / 'report.html'}"]
    links += [f"Compare the arms of {words(name)} in MLflow: {url}" for name, url in saved_links(forge).items()]
    return "\n".join([heading, "", *verdicts, "", *lines, "", *links])


def _dice_in_words(forge: Forge, folds: Sequence[int], yardsticks: bool) -> str:

    files = [path for fold in folds for path in _score_files(forge, fold)]
    table = dice_table(files)
    if not yardsticks:
        table = table[[name for name in table.columns if name in ("rule", "tissue") or name in NETWORKS]]
    cells = [[f"{c:.3f}" if isinstance(c, float) else words(c) for c in row] for row in table.itertuples(index=False)]
    which = f"fold{'s' * (len(folds) > 1)} {', '.join(map(str, folds))}"
    notes = absent_yardsticks(_read(files)) if yardsticks else ()
    heading = f"# Mean Dice on the test patients of {which}"
    return "\n".join([heading, "", markdown_table(list(map(words, table.columns)), cells), *notes])


def dice_table(files: list[Path]) -> pd.DataFrame:
    """Return mean Dice by rule and tissue (rows) and network or yardstick (columns) over score tables."""
    scores = _read(files)
    dice = scores[scores["metric"] == "dice"]
    return dice.pivot_table(index=["rule", "tissue"], columns="network", values="value", sort=False).reset_index()


def _read(files: list[Path]) -> pd.DataFrame:
    return pd.concat([read_scores(path) for path in files])


def _score_files(forge: Forge, fold: int) -> list[Path]:
    seeds = forge.settings().seeds
    return [forge.finished(kind.scores, fold, seed).file("scores.csv") for kind in REAL_ONLY_KINDS for seed in seeds]
