"""How an asset has something trained: in a process of its own, through Dagster Pipes."""

import contextlib
import os
import signal
import warnings
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import dagster as dg

from common.config import FrozenConfig
from common.errors import InputError
from common.files import CHECKPOINT
from common.tables import read_csv
from engine.forge import Forge, require_fold
from engine.locks import PassingFaultError
from engine.outcome import Check, Fact, Outcome, number
from engine.worker.fork import start_training
from engine.worker.task import ERROR_FILE, PASSING_FAULT, RESULT_FILE, WRONG_INPUT, Stage, TrainingTask

_STOPS_WITHIN_S = 7.0  # with the way of a cancellation to the step, less than ten


def train_in_own_process(
    context: dg.AssetExecutionContext,
    forge: Forge,
    folder: Path,
    stage: Stage,
    inputs: Mapping[str, Path],
    config: FrozenConfig,
    seed: int,
    tags: Mapping[str, str],
) -> dict[str, Any]:
    """Train into `folder` in a child process and return its scores and MLflow run.

    A folder that holds the checkpoint of a killed attempt is continued.
    """
    from runtime.model_folder import read_model_json

    fold, settings = require_fold(context), forge.settings()
    name = " ".join([*tags.values(), f"fold {fold}", f"seed {seed}"])
    card = {
        "source": forge.source,
        "profile": forge.profile,
        "fold": fold,
        "seed": seed,
        "code_version": context.assets_def.code_versions_by_key[context.asset_key],
        "parents": forge.versions_behind(),
        **tags,
    }
    task = TrainingTask(
        stage=stage,
        folder=str(folder),
        inputs={key: str(path) for key, path in inputs.items()},
        config=config.model_dump(mode="json"),
        fold=fold,
        seed=seed,
        device=settings.device,
        precision=settings.precision,
        card=card,
        tracking=forge.tracking(context, name, config, seed=seed, key=folder.name, **tags),
        lock=forge.training_lock(folder),
    )
    run_pipes(context, task)
    return read_model_json(folder, RESULT_FILE)


def run_pipes(context: dg.AssetExecutionContext, task: TrainingTask) -> None:
    """Start the training process and wait for it; cancelling the step stops it within ten seconds.

    Raises:
        InputError: What was asked for cannot be trained.
        PassingFaultError: The training met a fault that passes.
        TrainingProcessError: The process failed otherwise, or was killed.
    """
    (Path(task.folder) / ERROR_FILE).unlink(missing_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)  # of Dagster's own use of its preview features
        reader, injector = dg.PipesTempFileMessageReader(), dg.PipesTempFileContextInjector()
        with dg.open_pipes_session(context, injector, reader, extras=task.to_extras()) as session:
            code = _wait_for(start_training(session.get_bootstrap_env_vars()))
    if code:
        raise _failure(code, task)


def _wait_for(process: BaseProcess) -> int:
    """Return the exit status; however this is left, the process has ended."""
    try:
        process.join()
    except dg.DagsterExecutionInterruptedError:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid or 0, signal.SIGINT)
        process.join(_STOPS_WITHIN_S)
        raise
    finally:
        process.kill()  # nothing, where it has ended
        process.join()
    return process.exitcode or 0


class TrainingProcessError(Exception):
    """The training process ended before it was done: the message says how, and what becomes of its work."""


def _failure(code: int, task: TrainingTask) -> Exception:
    problem, folder = Path(task.folder) / ERROR_FILE, Path(task.folder)
    words = problem.read_text(encoding="utf-8") if problem.exists() else ""
    if words and code in (WRONG_INPUT, PASSING_FAULT):
        return InputError(words) if code == WRONG_INPUT else PassingFaultError(words)
    kept = (folder / CHECKPOINT / "last.pt").exists()
    after = "continues from the last checkpoint" if kept else "starts anew: there was no checkpoint yet"
    how = words or _how_it_ended(code)
    return TrainingProcessError(f"training {task.tracking['name']}: {how}; rematerialising {after}")


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"its process ended with status {code}; the step's log holds its last words"
    name = signal.Signals(-code).name
    memory = ", as Linux does when memory runs out (dmesg tells)" if -code == signal.SIGKILL else ""
    return f"its process was killed by {name}{memory}"


def training_facts(folder: Path, result: Mapping[str, Any], forge: Forge) -> dict[str, Fact]:
    """Return what every trained asset shows: scores, the course of the training, the MLflow run."""
    from assets.parts.pictures import save_curves

    history = read_csv(folder / "history.csv")
    curves = save_curves(history, folder / "curves.png")
    facts = {name: number(value) for name, value in result["scores"].items()}
    if "resumed_after_step" in result:
        facts["resumed_after_step"] = number(result["resumed_after_step"])
    facts["curves"] = Fact("image", curves.name)
    facts["course"] = Fact.table(history.tail(12))
    if result.get("run_id"):
        facts["mlflow_run"] = Fact("url", forge.run_url(result["run_id"]))
    return facts


def finite_losses(folder: Path) -> Check:
    """Check that no loss of the training's course was other than finite."""
    history = read_csv(folder / "history.csv")
    columns = [name for name in history.columns if "loss" in name]
    if not columns:
        raise InputError(f"{folder / 'history.csv'}: has no column of losses; rematerialise the asset")
    bad = history[~history[columns].map(lambda value: abs(value) < float("inf")).all(axis=1)]
    figures = {"rounds": len(history), "rounds_with_a_non_finite_loss": len(bad)}
    return Check("finite_losses", len(bad) == 0, figures, "Every recorded loss is a finite number.")


def as_outcome(folder: Path, result: Mapping[str, Any], forge: Forge, *checks: Check) -> Outcome:
    """Return the outcome of a training with its checks."""
    return Outcome(training_facts(folder, result, forge), (finite_losses(folder), *checks))
