"""Runs as the interface starts them: a code server, a run worker, a step process and a training process each."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import torch
from dagster._core.workspace.load_target import ModuleTarget
from dagster_graphql.test.utils import execute_dagster_graphql

from engine.forge import Forge
from engine.tracking.store import prepare_store
from pipeline.definitions import defs
from pipeline.services.dagster_home import prepare_dagster_home
from tests.pipeline.code_server import code_server

PATIENCE_S = 900  # a machine may be busy; an idle one takes seconds
OVERRIDES = ("localiser.steps=20000", "localiser.validate_every=2", "device=cpu")
_TERMINATE = """mutation($run: String!) { terminateRun(runId: $run) { __typename ... on PythonError { message } } }"""


class Runs:
    """A workspace whose studies are read, and runs that train the first thing that is trained: the localiser."""

    def __init__(self, instance: dg.DagsterInstance, workspace: Any, home: Path) -> None:
        self.instance, self.workspace, self.home = instance, workspace, home

    def launch(self, *overrides: str, tags: dict[str, str] | None = None) -> str:
        """Start a run and return its id; slots of ended runs are freed first, as the daemon does after a minute."""
        for ended in self.instance.event_log_storage.get_concurrency_run_ids():
            if self.status(ended) in FINISHED:
                self.instance.event_log_storage.free_concurrency_slots_for_run(ended)
        selection = frozenset({dg.AssetKey("lv_localiser")})
        (location,) = self.workspace.create_request_context().code_locations
        (repository,) = location.get_repositories().values()
        remote = repository.get_full_job("tiny_fold")
        forge = {"profile": "tiny", "source": "phantom", "home": str(self.home)}
        run = self.instance.create_run_for_job(
            job_def=defs.resolve_job_def("tiny_fold").get_subset(asset_selection=selection),
            asset_selection=selection,
            run_config={"resources": {"forge": {"config": forge | {"overrides": [*OVERRIDES, *overrides]}}}},
            tags={"dagster/partition": "0", **(tags or {})},
            remote_job_origin=remote.get_remote_origin(),
            job_code_origin=remote.get_python_origin(),
        )
        self.instance.launch_run(run.run_id, self.workspace.create_request_context())
        return run.run_id

    def terminate(self, run_id: str) -> str:
        """Do what the interface's button does and return what it is answered."""
        context = self.workspace.create_request_context()
        return execute_dagster_graphql(context, _TERMINATE, {"run": run_id}).data["terminateRun"]["__typename"]

    def status(self, run_id: str) -> dg.DagsterRunStatus:
        """Return the status of a run."""
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run.status

    def texts(self, run_id: str) -> str:
        """Return everything that the run's log says."""
        events = self.instance.all_logs(run_id)
        errors = [event.dagster_event.step_failure_data.error for event in events if is_step_failure(event)]
        return "\n".join([*(event.user_message or event.message for event in events), *map(str, errors)])

    def ended(self, run_id: str) -> dg.DagsterRunStatus:
        """Wait for the end of a run."""
        wait_until(lambda: self.status(run_id) in FINISHED, lambda: self.texts(run_id))
        return self.status(run_id)

    def training(self, run_id: str) -> psutil.Process:
        """Wait until the training of a run has saved a checkpoint of its own, and return its process."""
        before = self.checkpoint_step()

        def there() -> bool:
            assert self.status(run_id) not in FINISHED, self.texts(run_id)
            return self.checkpoint_step() > before

        wait_until(there, lambda: self.texts(run_id))
        (process,) = trainings()
        return process

    def step(self, run_id: str) -> psutil.Process:
        """Return the process of the one step that a run is at."""
        (pid,) = [
            event.dagster_event.engine_event_data.metadata["pid"].value
            for event in self.instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_WORKER_STARTED)
            if event.dagster_event is not None
        ]
        return psutil.Process(int(str(pid)))

    def checkpoint_step(self) -> int:
        """Return the step of the checkpoint, 0 without one."""
        found = list((self.home / "phantom" / "tiny" / "lv_localiser").glob(".fold_0.*.partial/checkpoint/last.pt"))
        return int(torch.load(found[0], weights_only=True)["state"]["step"]) if found else 0


FINISHED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


def is_step_failure(event: dg.EventLogEntry) -> bool:
    """Tell whether a step failed."""
    return event.dagster_event is not None and event.dagster_event.is_step_failure


def is_training(process: psutil.Process) -> bool:
    """Tell whether a process is one that trains."""
    return "engine.worker" in process.cmdline()


def trainings() -> list[psutil.Process]:
    """Return the training processes that this test has, however deep, also where their parents are gone."""
    mine = str(os.getpid())
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if is_training(process) and process.environ().get("SCARFORGE_TEST_OF") == mine:
                found.append(process)
    return found


def wait_until(true: Callable[[], bool], said: Callable[[], str] = str, seconds: float = PATIENCE_S) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"waited {seconds} s\n{said()}"
        time.sleep(0.1)


@contextlib.contextmanager
def real_runs(home: Path) -> Iterator[Runs]:
    """Read the studies of a workspace and start a code server for it."""
    forge = Forge(profile="tiny", home=str(home), overrides=list(OVERRIDES))
    prepare_store(forge.tracking_uri(), artifact_root=forge.workspace.artifact_root)
    upstream = [definition for definition in defs.assets if definition.key.path[-1] in ("studies", "patient_split")]
    assert dg.materialize(upstream, resources={"forge": forge}).success
    os.environ["SCARFORGE_TEST_OF"] = str(os.getpid())
    target = ModuleTarget("pipeline.definitions", None, None, "scarforge")
    with (
        dg.DagsterInstance.from_config(str(prepare_dagster_home(home))) as instance,
        code_server(target, instance) as workspace,
    ):
        runs = Runs(instance, workspace, home)
        with contextlib.ExitStack() as afterwards:
            afterwards.callback(_kill_trainings)
            afterwards.callback(_terminate_all, runs)
            yield runs


def _terminate_all(runs: Runs) -> None:
    for record in runs.instance.get_runs():
        if record.status not in FINISHED:
            runs.terminate(record.run_id)


def _kill_trainings() -> None:
    for process in trainings():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
