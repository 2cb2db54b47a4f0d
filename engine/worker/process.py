"""What the process does that trains, started by an asset through Dagster Pipes (`python -m engine.worker`).

Here, and only here, Pipes, the tracker and a training function meet: `gan` and `segmentation` know neither,
and a crash or an out-of-memory kill ends this process and fails one step.
"""

import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from dagster_pipes import PipesContext, open_dagster_pipes

from common.errors import InputError
from common.files import CHECKPOINT, write_json
from common.progress import detail, figures_shown, say, show_figures
from common.quiet import quieten
from engine.locks import is_transient
from engine.tracking.tracker import Tracker
from engine.worker.accelerator import accelerator
from engine.worker.pictures import save_pictures
from engine.worker.stages import STAGES, Trained
from engine.worker.task import ERROR_FILE, PASSING_FAULT, RESULT_FILE, WRONG_INPUT, TrainingTask
from runtime.checkpoint import checkpoint_step
from runtime.compute import choose_compute, keep_freed_memory
from runtime.report import Report, TrainingDivergedError


def main() -> None:
    """Run the task that Dagster handed over; what goes wrong is left in `error.txt` for the asset to raise."""
    quieten()
    with open_dagster_pipes() as pipes:
        task = TrainingTask(**pipes.extras)
        try:
            run_task(task, pipes)
        except Exception as error:
            code, words = _verdict(error)
            (Path(task.folder) / ERROR_FILE).write_text(words, encoding="utf-8")
            if code != WRONG_INPUT:
                traceback.print_exc()
            raise SystemExit(code) from error


def _verdict(error: Exception) -> tuple[int, str]:
    """Return the exit status, and what the asset shall say."""
    if is_transient(error):
        return PASSING_FAULT, str(error) or type(error).__name__
    if isinstance(error, InputError | TrainingDivergedError):
        return WRONG_INPUT, str(error)
    if isinstance(error, torch.OutOfMemoryError):
        reason = str(error).partition(". ")[0]
        return 1, f"{reason}; set a smaller batch, or end what else uses the GPU, and rematerialise"
    return 1, f"{type(error).__name__}: {error}"


def run_task(task: TrainingTask, pipes: PipesContext | None = None) -> Trained:
    """Train as `task` says, one training at a time on one accelerator, tracked from start to end."""
    keep_freed_memory()
    with ExitStack() as lock:
        gpu = lock.enter_context(accelerator(task.device, task.lock))
        with start_tracker(task) as tracker:
            with lock:  # what comes after keeps nobody from training
                compute = choose_compute(task.device, task.precision, gpu=gpu)  # type: ignore[arg-type] # checked in Settings
                say(f"{task.stage}: {compute.description}")
                resumed = checkpoint_step(Path(task.folder) / CHECKPOINT)
                if resumed:
                    _log(pipes)(f"{task.tracking['name']}: continues after step {resumed}, the last checkpoint")
                trained = STAGES[task.stage](task, compute, report_to(tracker, pipes, task))
            tracker.final(trained.scores)
            for path in (Path(task.folder) / "history.csv", *save_pictures(Path(task.folder), trained.sheet)):
                tracker.artifact(path)
            tracker.model(Path(task.folder), trained.module, trained.example, name=str(task.tracking["name"]))
    write_json(Path(task.folder) / RESULT_FILE, _result(trained, tracker, resumed))
    return trained


def _result(trained: Trained, tracker: Tracker, resumed: int | None) -> dict[str, Any]:
    found = {"scores": dict(trained.scores), "run_id": tracker.run_id}
    return found | ({"resumed_after_step": resumed} if resumed else {})


def _log(pipes: PipesContext | None) -> Callable[[str], None]:
    return pipes.log.info if pipes else detail


def start_tracker(task: TrainingTask) -> Tracker:
    """Open (or continue) this training's MLflow run and record the data it trains on."""
    from imaging.slices.store import SliceStore

    tracking = task.tracking
    tracker = Tracker.of(tracking)
    if "training_set" in task.inputs:
        store = SliceStore.open(Path(task.inputs["training_set"]), verify=False)
        rows = store.rows[["case_id", "slice_index", "origin", "group"]]
        tracker.dataset(tracking["dataset"], store.digest, task.inputs["training_set"], "training", rows)
    return tracker


def report_to(tracker: Tracker, pipes: PipesContext | None, task: TrainingTask) -> Report:
    """Return the callback that carries each epoch's metrics to MLflow and one line to the log."""
    log = _log(pipes)

    def report(step: int, metrics: Mapping[str, float]) -> None:
        tracker.progress(step)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        log(f"{task.tracking['name']}: step {step}: {shown}")
        show_figures(metrics)
        if pipes:
            detail(f"    {task.tracking['name']}: step {step}: {figures_shown(metrics)}")

    return report
