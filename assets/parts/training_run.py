"""How an asset has something trained: in a process of its own, through Dagster Pipes."""

import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.errors import DagsterPipesExecutionError

from common.config import FrozenConfig
from common.errors import InputError
from common.files import CHECKPOINT
from common.tables import read_csv
from engine.forge import Forge, require_fold
from engine.outcome import Check, Fact, Outcome, number
from engine.run_tags import run_name
from engine.transient import PassingFaultError
from engine.worker.task import (
    CURVES,
    ERROR_FILE,
    PASSING_FAULT,
    RESULT_FILE,
    VALIDATION,
    WRONG_INPUT,
    Stage,
    TrainingTask,
)
from runtime.report import TIME

# Of the figures of a segmenter, and of Pix2Pix.
_FIRST_SHOWN = ("infarct", "no_reflow", "mean", "patch_distance", "ssim_ventricle", "texture_ratio")
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
    from runtime.model_card import read_model_json

    fold, settings = require_fold(context), forge.settings()
    arm = [tags["training_set"]] if tags["stage"] == "training" else []
    name = run_name(fold, seed, *arm, tags["network"], "training")
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
        tracking=forge.tracking(context, name, folder, config, seed, **tags),
        lock=forge.training_lock(folder),
        deterministic=settings.deterministic,
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
    client = dg.PipesSubprocessClient(termination_timeout_seconds=_STOPS_WITHIN_S)
    # -P: the current folder may hold modules of the same names.
    command = [sys.executable, "-P", "-m", "engine.worker", str(os.getpid())]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.PreviewWarning)  # of Dagster's own use of its preview features
            client.run(context=context, command=command, extras=task.to_extras())
    except DagsterPipesExecutionError as error:
        raise _failure(int(str(error).rsplit(" ", 1)[1]), task) from None  # it says "... failed with code -9"
    except subprocess.TimeoutExpired as error:  # a training that heeds no interruption is ended with this process
        raise dg.DagsterExecutionInterruptedError from error


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
    return TrainingProcessError(f"{task.tracking['name']}: {how}; rematerialising {after}")


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"its process ended with status {code}; the step's log holds its last words"
    name = signal.Signals(-code).name
    memory = ", as Linux does when memory runs out (dmesg tells)" if -code == signal.SIGKILL else ""
    return f"its process was killed by {name}{memory}"


def training_facts(folder: Path, result: Mapping[str, Any]) -> dict[str, Fact]:
    """Return what every trained asset shows: scores and the course of the training."""
    history = read_csv(folder / "history.csv")
    facts = {name: number(value) for name, value in sorted(result["scores"].items(), key=_lesions_first)}
    if "resumed_after_step" in result:
        facts["resumed_after_step"] = number(result["resumed_after_step"])
    facts["validation_slices"], facts["curves"] = Fact("image", VALIDATION), Fact("image", CURVES)
    facts["course"] = Fact.table(history.drop(columns=TIME, errors="ignore").tail(12))
    return facts


def _lesions_first(score: tuple[str, float]) -> int:
    tissue = score[0].rpartition("/")[2]
    return _FIRST_SHOWN.index(tissue) if tissue in _FIRST_SHOWN else len(_FIRST_SHOWN)


def finite_losses(folder: Path) -> Check:
    """Check that no loss of the training's course was other than finite."""
    history = read_csv(folder / "history.csv")
    columns = [name for name in history.columns if "loss" in name]
    if not columns:
        raise InputError(f"{folder / 'history.csv'}: has no column of losses; rematerialise the asset")
    bad = history[~history[columns].map(lambda value: abs(value) < float("inf")).all(axis=1)]
    figures = {"rounds": len(history), "rounds_with_a_non_finite_loss": len(bad)}
    return Check("finite_losses", len(bad) == 0, figures, "Every recorded loss is a finite number.")


def as_outcome(folder: Path, result: Mapping[str, Any], *checks: Check) -> Outcome:
    """Return the outcome of a training with its checks and its MLflow run."""
    return Outcome(training_facts(folder, result), (finite_losses(folder), *checks), result.get("run_id") or "")
