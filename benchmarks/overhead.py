"""What Dagster and MLflow cost: a fold's graph against its functions, the start of both pages, a thousand past runs.

The graph is `scarforge run` (profile tiny, phantom, fold 0), and once more as the interface runs it: a process for each
step. The functions are the same ones, called in one process without Dagster, MLflow, other processes and the cache.
Start: from `scarforge ui` until Dagster's page answers and lists the assets, and MLflow finds the experiment. Then past
runs are written into both databases, copies of the one just made, and the start and a graph in which all but
`comparison` is found again are timed anew.

    python -m benchmarks.overhead [--past-runs 1000] [--repeats 3] [--home DIR]
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import dagster as dg
import pandas as pd
from dagster._core.utils import make_new_run_id

from engine.forge import Forge
from engine.tracking.store import EXPERIMENT, connect, prepare_store
from pipeline.definitions import defs
from pipeline.services.dagster_home import prepare_dagster_home

PROFILE, FOLD = "tiny", 0
RUN = [sys.executable, "-m", "pipeline.cli", "run", "--profile", PROFILE, "--fold", str(FOLD)]
PATIENCE_S = 1800
ASSETS = """{ assetNodes { assetKey { path } } }"""
KEPT_EVENTS = {"RUN_START", "STEP_START", "STEP_SUCCESS", "ASSET_MATERIALIZATION", "ASSET_CHECK_EVALUATION"}


def main() -> None:
    """Measure and print."""
    options = _parse()
    with tempfile.TemporaryDirectory() as folder:
        home = (options.home or Path(folder)) / "graph"
        functions = functions_s(home.with_name("functions"))
        command = command_s(home)
        steps = steps_s(home.with_name("steps"))
        before = together(home, options.repeats)
        writing = time.perf_counter()
        events = write_past_runs(home, home.with_name("steps"), options.past_runs)
        writing = time.perf_counter() - writing
        after = together(home, options.repeats)
    rows = [
        row("functions alone, s", functions),
        row("scarforge run, s", command),
        row("  more than the functions, s", command - functions, 60),
        row("  of a graph of one hour, %", (command - functions) / 36, 5),
        row("a process a step, as in the interface, s", steps),
        row("  more than the functions, s", steps - functions, 60),
        row("  of a graph of one hour, %", (steps - functions) / 36, 5),
    ]
    for name, bar in (("Dagster's page", 20), ("MLflow's page", 20), ("a graph found again", None)):
        rows.append(row(f"{name}, s", before[name], bar))
        rows.append(row(f"  with {options.past_runs} past runs, s", after[name], bar))
        rows.append(row("  ratio", after[name] / before[name], 1.1))
    print(f"{options.past_runs} past runs: {events} events, written in {writing:.0f} s; best of {options.repeats}")
    print(pd.DataFrame(rows).to_string(index=False))


def row(what: str, value: float, bar: float | None = None) -> dict[str, Any]:
    """Return one line of the table: a figure, its bar, and how much of the bar it takes."""
    share = "" if bar is None else f"{value / bar:.2f}"
    return {"what": f"{what:<42}", "figure": round(value, 2), "bar": "" if bar is None else bar, "of the bar": share}


def functions_s(home: Path) -> float:
    """Return the seconds of the assets' own functions, called one after the other in this process."""
    forge = Forge(profile=PROFILE, home=str(home))
    cache = Stopwatch()
    from engine import record

    assets = {asset.key.to_user_string(): asset for asset in defs.assets if isinstance(asset, dg.AssetsDefinition)}
    start = time.perf_counter()
    with (
        patch("assets.parts.training_run.run_pipes", train_here),
        patch("engine.tracking.tracker.Tracker", NoTracker),
        patch.object(record, "file_digest", cache.around(record.file_digest)),
    ):
        for name in in_order(assets):
            # Dagster's decorator keeps the function as it was written.
            assets[name].op.compute_fn.decorated_fn(stand_in(assets[name]), forge)
    return time.perf_counter() - start - cache.seconds


def in_order(assets: dict[str, dg.AssetsDefinition]) -> list[str]:
    """Return the assets' names, each after those it reads."""
    names: list[str] = []
    while len(names) < len(assets):
        ready = (name for name, asset in assets.items() if name not in names and _parents(asset) <= set(names))
        names.append(next(ready))
    return names


def _parents(asset: dg.AssetsDefinition) -> set[str]:
    return {key.to_user_string() for key in asset.asset_deps[asset.key]}


def stand_in(asset: dg.AssetsDefinition) -> Any:
    """Return what an asset reads of Dagster's context, without Dagster."""
    return SimpleNamespace(
        asset_key=asset.key,
        assets_def=asset,
        partition_key=str(FOLD),
        retry_number=0,
        run=SimpleNamespace(run_id="benchmark", root_run_id=None, tags={}),
        job_def=SimpleNamespace(executor_def=SimpleNamespace(name="none")),
    )


def train_here(_: Any, task: Any) -> None:
    """Train in this process what the graph trains in one of its own."""
    from common.files import write_json
    from engine.worker.process import STAGES
    from engine.worker.task import RESULT_FILE
    from runtime.compute import choose_compute
    from runtime.report import silent

    trained = STAGES[task.stage](task, choose_compute(task.device, task.precision), silent)
    write_json(Path(task.folder) / RESULT_FILE, {"scores": dict(trained.scores), "run_id": None})


class NoTracker:
    """Tracks nothing."""

    run_id = ""

    @classmethod
    def of(cls, _: Any) -> "NoTracker":
        """Return one."""
        return cls()

    def __enter__(self) -> "NoTracker":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


class Stopwatch:
    """Adds up the seconds of some calls."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return `call`, timed."""

        def timed(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                self.seconds += time.perf_counter() - start

        return timed


def environment(home: Path) -> dict[str, str]:
    """Return the environment of a command on a workspace."""
    own = {"SCARFORGE_HOME": str(home), "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONPATH": os.getcwd()}  # noqa: PTH109
    return {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"} | own


def command_s(home: Path) -> float:
    """Return the seconds of `scarforge run`, its start included."""
    start = time.perf_counter()
    done = subprocess.run(RUN, env=environment(home), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - start


def tiny_fold_job() -> dg.JobDefinition:
    """Return the job; each step's process imports it from here."""
    return defs.resolve_job_def("tiny_fold")


def steps_s(home: Path) -> float:
    """Return the seconds of the graph with a process for each step."""
    forge = Forge(profile=PROFILE, home=str(home))
    prepare_store(forge.tracking_uri(), artifact_root=forge.workspace.artifact_root)
    with dg.DagsterInstance.from_config(str(prepare_dagster_home(home))) as instance:
        start = time.perf_counter()
        result = dg.execute_job(
            dg.reconstructable(tiny_fold_job),
            instance=instance,
            tags={"dagster/partition": str(FOLD)},
            run_config={
                "resources": {"forge": {"config": forge.model_dump()}},
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            },
        )
        seconds = time.perf_counter() - start
    assert result.success
    return seconds


def together(home: Path, repeats: int) -> dict[str, float]:
    """Return the best seconds of the start of both pages and of a graph that is found again."""
    turns = []
    for _ in range(repeats):
        turns.append(pages_s(home) | {"a graph found again": again_s(home)})
    return pd.DataFrame(turns).min().to_dict()


def again_s(home: Path) -> float:
    """Return the seconds of `scarforge run` when only `comparison` is made, and tracked, anew."""
    shutil.rmtree(home / "phantom" / PROFILE / "comparison")
    return command_s(home)


def pages_s(home: Path) -> dict[str, float]:
    """Return the seconds until Dagster's page lists the assets and MLflow's finds the experiment."""
    dagster, mlflow = free_port(), free_port()
    command = [sys.executable, "-m", "pipeline.cli", "ui", "--dagster-port", str(dagster), "--mlflow-port", str(mlflow)]
    asked = {"Dagster's page": lambda: lists_assets(dagster), "MLflow's page": lambda: finds_experiment(mlflow)}
    found: dict[str, float] = {}
    start = time.perf_counter()
    with running(command, environment(home)) as process:
        while len(found) < len(asked):
            assert process.poll() is None, "scarforge ui ended"
            assert time.perf_counter() - start < PATIENCE_S, f"only {found} after {PATIENCE_S} s"
            for name, answers in asked.items():
                if name not in found and answers():
                    found[name] = time.perf_counter() - start
            time.sleep(0.05)
    return found


@contextlib.contextmanager
def running(command: list[str], given: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command until the end of the block."""
    with subprocess.Popen(command, env=given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(PATIENCE_S)


def lists_assets(port: int) -> bool:
    """Tell whether Dagster's page is there and lists every asset."""
    if ask(f"http://127.0.0.1:{port}/") is None:
        return False
    answer = ask(f"http://127.0.0.1:{port}/graphql", {"query": ASSETS})
    return answer is not None and len(json.loads(answer)["data"]["assetNodes"]) == len(defs.assets)


def finds_experiment(port: int) -> bool:
    """Tell whether MLflow's page is there and finds the experiment and its latest runs."""
    if ask(f"http://127.0.0.1:{port}/") is None:
        return False
    address = f"http://127.0.0.1:{port}/api/2.0/mlflow"
    answer = json.loads(ask(f"{address}/experiments/search", {"max_results": 100}) or b"{}")
    ids = [found["experiment_id"] for found in answer.get("experiments", []) if found["name"] == EXPERIMENT]
    return bool(ids) and bool(ask(f"{address}/runs/search", {"experiment_ids": ids, "max_results": 100}))


def ask(address: str, question: dict[str, Any] | None = None) -> bytes | None:
    """Return an answer, None while there is none."""
    data = None if question is None else json.dumps(question).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()
    except (OSError, urllib.error.URLError):
        return None


def free_port() -> int:
    """Return a port of this machine that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_past_runs(home: Path, model: Path, count: int) -> int:
    """Write copies of the run in `model` into both databases of `home`; return the number of Dagster's events."""
    with (
        dg.DagsterInstance.from_config(str(prepare_dagster_home(model))) as source,
        dg.DagsterInstance.from_config(str(prepare_dagster_home(home))) as target,
    ):
        (run,) = source.get_runs()
        target.run_storage.add_job_snapshot(source.get_job_snapshot(run.job_snapshot_id))
        plan = source.get_execution_plan_snapshot(run.execution_plan_snapshot_id)
        target.run_storage.add_execution_plan_snapshot(plan)
        events = [entry for entry in source.all_logs(run.run_id) if _is_kept(entry)]
        for number in range(count):
            copy = run._replace(run_id=make_new_run_id())
            target.run_storage.add_run(copy)
            with one_transaction(target.event_log_storage) as storage:
                for entry in events:
                    moved = entry.timestamp - 3600 * (count - number)
                    storage.store_event(entry._replace(run_id=copy.run_id, timestamp=moved))
    write_past_mlflow_runs(home, count)
    return count * len(events)


@contextlib.contextmanager
def one_transaction(storage: Any) -> Iterator[Any]:
    """Keep Dagster's SQLite files open for a block: one write a file, not one for each of a run's hundred events."""
    connect, kept = storage._connect, {}
    with contextlib.ExitStack() as stack:

        @contextlib.contextmanager
        def connected(shard: str) -> Iterator[Any]:
            if shard not in kept:
                kept[shard] = stack.enter_context(connect(shard))
            yield kept[shard]

        stack.enter_context(patch.object(storage, "_db_lock", contextlib.nullcontext()))
        stack.enter_context(patch.object(storage, "_connect", connected))
        yield storage


def _is_kept(entry: dg.EventLogEntry) -> bool:
    return entry.dagster_event is not None and entry.dagster_event.event_type_value in KEPT_EVENTS


def write_past_mlflow_runs(home: Path, count: int) -> None:
    """Write copies of the workspace's own MLflow runs, with parameters, tags and every metric's course."""
    client = connect(f"sqlite:///{home / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    runs = client.search_runs([experiment])
    courses = [
        [point for key in run.data.metrics for point in client.get_metric_history(run.info.run_id, key)] for run in runs
    ]
    for number in range(count):
        run, course = runs[number % len(runs)], courses[number % len(runs)]
        tags = {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.")}
        tags["scarforge_key"] += f"/past {number}"
        began = run.info.start_time - 3_600_000 * (count - number)
        copy = client.create_run(experiment, began, tags, run.info.run_name).info.run_id
        params = [_param(name, value) for name, value in run.data.params.items()]
        client.log_batch(copy, course[:1000], params[:100])
        client.set_terminated(copy, "FINISHED", began + 60_000)


def _param(name: str, value: str) -> Any:
    from mlflow.entities import Param

    return Param(name, value)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--past-runs", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3, help="of each start and each graph that is found again")
    parser.add_argument("--home", type=Path, help="an empty folder to keep the workspaces in; default: none is kept")
    return parser.parse_args()


if __name__ == "__main__":
    main()
