"""How an experiment scales: the four trainings of a fold on Ray (measured), and many folds on many GPUs (simulated).

Measured: one whole fold in one process, step after step, which gives each step's time; then the fold's four trainings
again, from the same inputs, as Ray jobs on this machine, with places for one and for two of them side by side.
Simulated: folds and seeds of the real asset graph with those step times, first come first served, on 1, 2, 4 and 8
GPUs. The simulation takes over the ratios between steps of this machine; it knows nothing of disks and networks.

    python -m benchmarks.scaling [--profile tiny] [--set attention_res_unet.steps=400] [--workers 1 2] [--folds 5]

Needs the extra `ray`. Two workers can only be faster where two cores are idle.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from benchmarks.schedule import Task, critical_path_s, list_schedule
from segmentation.model_kind import model_kinds

TRAININGS = tuple(kind.name for kind in sorted(model_kinds(), key=lambda kind: kind.training_set))
SCORES = tuple(kind.scores for kind in model_kinds())
ONCE = frozenset({"studies", "patient_split"})  # for all folds; `comparison` is made anew after each
FOLD = 0


def main() -> None:
    """Measure, simulate, print."""
    options = _parse()
    if options.four_trainings:
        print(json.dumps(_four_trainings(options)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch) / "whole_fold"
        _run([sys.executable, "-m", "pipeline.cli", "run", *_of_fold(options)], home)
        steps = _step_seconds(home)
        measured = [_on_ray(options, home, Path(scratch), workers) for workers in options.workers]
    print(
        f"\nMeasured: fold {FOLD} of the phantom, profile {options.profile}, {os.cpu_count()} cores, one thread a step"
    )
    print(pd.Series(steps, name="seconds").rename_axis("step").to_string(float_format="%.1f"))
    print("\nMeasured: its four trainings as Ray jobs")
    print(_measured_table(pd.DataFrame(measured)).to_string(index=False, float_format="%.2f"))
    print(f"\nSimulated: {options.folds} folds, {options.seeds} seeds, {options.cpus} places for steps without a GPU")
    print(simulate(steps, options.folds, options.seeds, options.gpus, options.cpus).to_string(index=False))


def simulate(
    steps: dict[str, float], folds: int, seeds: int, gpus: Sequence[int], cpus: int, first: int = 1
) -> pd.DataFrame:
    """Return one row a number of GPUs: how long the experiment takes, and how busy the GPUs are.

    Args:
        steps: Seconds of each asset's step with one seed, by name.
        folds: How many folds run side by side; needs as many `max_concurrent_runs` in dagster.yaml.
        seeds: Of each training; an asset trains its seeds one after the other.
        gpus: Numbers of GPUs, each the limit of the pool `gpu`.
        cpus: Steps outside of the pool side by side.
        first: The number of GPUs that others are compared with.
    """
    tasks = experiment(steps, folds, seeds)
    reference = list_schedule(tasks, {"gpu": first, "cpu": cpus}).makespan_s
    rows = []
    for count in gpus:
        schedule = list_schedule(tasks, {"gpu": count, "cpu": cpus})
        rows.append(
            {
                "GPUs": count,
                "makespan": f"{schedule.makespan_s / 60:.1f} min",
                "speed-up": f"{reference / schedule.makespan_s:.2f}",
                "GPUs busy": f"{100 * schedule.utilisation('gpu'):.0f} %",
                "longest chain": f"{critical_path_s(tasks) / 60:.1f} min",
            }
        )
    return pd.DataFrame(rows)


def experiment(steps: dict[str, float], folds: int, seeds: int) -> list[Task]:
    """Return the tasks of an experiment over the real asset graph, fold by fold."""
    from engine.cluster.executor import steps_of_pool
    from pipeline.definitions import all_assets, defs

    graph, on_gpu = defs.resolve_asset_graph(), set(steps_of_pool(all_assets))
    reads = {
        key.to_user_string(): sorted(parent.to_user_string() for parent in graph.get(key).parent_keys)
        for key in graph.materializable_asset_keys
    }
    tasks = []
    for fold in range(folds):
        for name, seconds in steps.items():
            if name in ONCE and fold:
                continue
            times = seeds if name in (*TRAININGS, *SCORES) else 1
            after = [_task(parent, fold) for parent in reads[name]]
            tasks.append(Task(_task(name, fold), seconds * times, "gpu" if name in on_gpu else "cpu", after))
    return tasks


def _task(name: str, fold: int) -> str:
    return name if name in ONCE else f"{name}[{fold}]"


def _step_seconds(home: Path) -> dict[str, float]:
    """Return the seconds of every step of the workspace's last run, as Dagster's event log has them."""
    import dagster as dg

    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        run = instance.get_runs(limit=1)[0]
        stats = sorted(instance.get_run_step_stats(run.run_id), key=lambda step: step.start_time or 0.0)
    return {step.step_key: float(step.end_time) - float(step.start_time) for step in stats}


def _on_ray(options: argparse.Namespace, whole_fold: Path, scratch: Path, workers: int) -> dict[str, float]:
    """Train the four again, in a workspace that has everything else, and return seconds."""
    from tests.cluster.local_ray import local_ray

    home = scratch / f"workers_{workers}"
    kept = shutil.ignore_patterns(*TRAININGS, *(f".{name}*" for name in TRAININGS))
    shutil.copytree(whole_fold / "phantom", home / "phantom", ignore=kept)
    command = [sys.executable, "-m", "benchmarks.scaling", "--four-trainings", str(workers), *_of_profile(options)]
    with local_ray(workers) as address:
        told = _run(command, home, SCARFORGE_EXECUTOR="ray", RAY_ADDRESS=address)
    return {"workers": workers, **json.loads(told.splitlines()[-1])}


def _four_trainings(options: argparse.Namespace) -> dict[str, float]:
    """Run the four trainings in this process's workspace on the cluster of `RAY_ADDRESS`."""
    import dagster as dg

    from engine.forge import Forge
    from pipeline.commands.run import prepare_stores

    forge = Forge(profile=options.profile, home=os.environ["SCARFORGE_HOME"], overrides=options.set)
    prepare_stores(forge)
    with dg.DagsterInstance.get() as instance:
        instance.event_log_storage.set_concurrency_slots("gpu", options.four_trainings)
        job = dg.build_reconstructable_job("pipeline.commands.run", "resolve_job", (f"{options.profile}_fold",))
        config = {"resources": {"forge": {"config": forge.model_dump()}}}
        chosen = [dg.AssetKey(name) for name in TRAININGS]
        tags = {"dagster/partition": str(FOLD)}
        result = dg.execute_job(job, instance, config, tags, raise_on_error=True, asset_selection=chosen)
        run = instance.get_run_record_by_id(result.run_id)
        steps = instance.get_run_step_stats(result.run_id)
    trained = sum(float(step.end_time) - float(step.start_time) for step in steps)
    return {"wall_s": float(run.end_time) - float(run.start_time), "steps_s": trained}


def _measured_table(measured: pd.DataFrame) -> pd.DataFrame:
    wall = measured["wall_s"]
    return pd.DataFrame(
        {
            "workers": measured["workers"],
            "wall time, s": wall,
            "speed-up": wall.iloc[0] / wall,
            "steps one by one, s": measured["steps_s"],
            "places busy": measured["steps_s"] / (wall * measured["workers"]),
        }
    )


def _run(command: list[str], home: Path, **more: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SCARFORGE_", "MLFLOW_"))}
    environment |= {"SCARFORGE_HOME": str(home), "OMP_NUM_THREADS": "1", **more}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {done.returncode}")
    return done.stdout


def _of_profile(options: argparse.Namespace) -> list[str]:
    return ["--profile", options.profile, *(part for value in options.set for part in ("--set", value))]


def _of_fold(options: argparse.Namespace) -> list[str]:
    return ["--source", "phantom", "--fold", str(FOLD), *_of_profile(options)]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--set", action="append", default=[], help="key=value laid over the profile")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="trainings side by side, measured")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2, 4, 8], help="simulated")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cpus", type=int, default=8, help="steps without a GPU side by side, simulated")
    parser.add_argument("--four-trainings", type=int, help=argparse.SUPPRESS)  # how this program calls itself
    return parser.parse_args()


if __name__ == "__main__":
    main()
