"""The process that trains: `python -m pipeline.train_process`, started by an asset through Dagster Pipes.

Here, and only here, Pipes, the tracker and a training function meet: `gan` and `segmentation` know neither,
and a crash or an out-of-memory kill ends this process and fails one step.
"""

import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from dagster_pipes import PipesContext, open_dagster_pipes
from filelock import FileLock

from imaging.errors import InputError
from pipeline.die_with_parent import die_with_parent
from pipeline.quiet import quieten
from pipeline.tracking import Tracker
from pipeline.training_stages import STAGES, Trained
from pipeline.training_task import ERROR_FILE, RESULT_FILE, TrainingTask
from training.compute import choose_compute
from training.files import write_json
from training.report import Report, TrainingDivergedError


def main() -> None:
    """Run the task that Dagster handed over; what is wrong with it is left in `error.txt` for the asset to raise."""
    die_with_parent()
    quieten()
    with open_dagster_pipes() as pipes:
        task = TrainingTask(**pipes.extras)
        try:
            run_task(task, pipes)
        except (InputError, TrainingDivergedError) as error:
            (Path(task.folder) / ERROR_FILE).write_text(str(error), encoding="utf-8")
            raise SystemExit(2) from error


def run_task(task: TrainingTask, pipes: PipesContext | None = None) -> Trained:
    """Train as `task` says, one training at a time on one accelerator, tracked from start to end."""
    lock = FileLock(task.lock) if task.lock else nullcontext()
    with lock, start_tracker(task) as tracker:
        compute = choose_compute(task.device, task.precision)  # type: ignore[arg-type] # checked in Settings
        print(f"{task.stage}: {compute.description}", file=sys.stderr, flush=True)
        trained = STAGES[task.stage](task, compute, report_to(tracker, pipes, task))
        tracker.final(trained.scores)
        tracker.artifact(Path(task.folder) / "history.csv")
        tracker.model(Path(task.folder), trained.module, trained.example, name=str(task.tracking["name"]))
        write_json(Path(task.folder) / RESULT_FILE, {"scores": dict(trained.scores), "run_id": tracker.run_id})
    return trained


def start_tracker(task: TrainingTask) -> Tracker:
    """Open (or continue) this training's MLflow run and record the data it trains on."""
    from imaging.slice_store import SliceStore

    tracking = task.tracking
    tracker = Tracker.of(tracking)
    if "training_set" in task.inputs:
        store = SliceStore.open(Path(task.inputs["training_set"]), verify=False)
        rows = store.rows[["case_id", "slice_index", "origin", "group"]]
        tracker.dataset(tracking["dataset"], store.digest, task.inputs["training_set"], "training", rows)
    return tracker


def report_to(tracker: Tracker, pipes: PipesContext | None, task: TrainingTask) -> Report:
    """Return the callback that carries each epoch's metrics to MLflow and one line to the log."""
    log: Callable[[str], None] = pipes.log.info if pipes else print

    def report(step: int, metrics: Mapping[str, float]) -> None:
        tracker.metrics(step, metrics)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        log(f"{task.tracking['name']}: step {step}: {shown}")
        if sys.stderr.isatty():
            print(f"    {task.tracking['name']}: step {step}: {_short(metrics)}", file=sys.stderr, flush=True)

    return report


def _short(metrics: Mapping[str, float]) -> str:
    chosen: dict[str, Any] = dict(list(metrics.items())[:4])
    return ", ".join(f"{name} {value:.3g}" for name, value in chosen.items())


if __name__ == "__main__":
    main()
