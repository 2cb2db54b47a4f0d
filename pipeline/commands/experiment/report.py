"""An experiment's report."""

from collections.abc import Sequence
from pathlib import Path

from common.errors import InputError
from pipeline.commands.experiment.cells import Experiment, run_experiment, status_lines
from pipeline.commands.experiment.plan import Plan, read_plan


def conduct(plan: Plan, home: Path, only: Sequence[str] = (), folds: Sequence[int] = ()) -> str:
    experiment = run_experiment(plan, home, only, folds)
    return "\n".join(status_lines(experiment))


def tell_status(plan: Path | None, home: Path) -> str:
    if plan is None:
        raise InputError("give the plan: scarforge experiment status plan.yaml")
    return "\n".join(status_lines(Experiment.of(read_plan(plan), home)))
