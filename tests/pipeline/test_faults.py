"""What becomes of a run whose processes are cancelled, killed or slow, on Dagster's own launcher and executor.

Localiser only: the other trainings go through the same process and the same cache.
"""

import contextlib
import logging
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
import psutil
import pytest
from dagster._core.test_utils import freeze_time
from dagster._daemon.monitoring.concurrency import execute_concurrency_slots_iteration
from dagster._daemon.monitoring.run_monitoring import execute_run_monitoring_iteration
from filelock import FileLock

from tests.pipeline.real_runs import OVERRIDES, PATIENCE_S, Runs, real_runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2000)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    environment = pytest.MonkeyPatch()
    for name in ("MLFLOW_TRACKING_URI", "PYTEST_CURRENT_TEST", "SCARFORGE_ROOT", "SCARFORGE_SHARE_ACCELERATOR"):
        environment.delenv(name, raising=False)
    with real_runs(tmp_path_factory.mktemp("home")) as found:
        yield found
    environment.undo()


def gpu_lock_is_free(runs: Runs) -> bool:
    with FileLock(runs.home / "locks" / "accelerator_0.lock", timeout=0):
        return True


def test_cancelling_stops_the_training_in_ten_seconds_keeps_its_checkpoint_and_the_next_run_continues(runs):
    first = runs.launch()
    training = runs.training(first)
    assert runs.terminate(first) == "TerminateRunSuccess"
    _, alive = psutil.wait_procs([training], timeout=10)
    assert not alive
    assert runs.ended(first) == dg.DagsterRunStatus.CANCELED
    kept = runs.checkpoint_step()
    assert kept >= 2
    assert gpu_lock_is_free(runs)
    second = runs.launch()
    runs.training(second)
    assert f"continues after step {kept}, the last checkpoint" in runs.texts(second)
    runs.terminate(second)
    assert runs.ended(second) == dg.DagsterRunStatus.CANCELED


def test_a_killed_training_fails_its_step_by_name_and_nothing_else(runs):
    run = runs.launch()
    training = runs.training(run)
    training.kill()
    assert runs.ended(run) == dg.DagsterRunStatus.FAILURE
    said = runs.texts(run)
    assert "its process was killed by SIGKILL, as Linux does when memory runs out" in said
    assert "rematerialising continues from the last checkpoint" in said
    assert gpu_lock_is_free(runs)
    (location,) = runs.workspace.create_request_context().code_locations
    assert location.get_repositories()  # the code server answers


def test_a_training_does_not_outlive_its_killed_step(runs):
    run = runs.launch()
    training = runs.training(run)
    runs.step(run).kill()
    assert runs.ended(run) == dg.DagsterRunStatus.FAILURE
    assert "was terminated by signal 9 (SIGKILL)" in runs.texts(run)
    assert not psutil.wait_procs([training], timeout=10)[1]
    assert gpu_lock_is_free(runs)


def test_neither_step_nor_training_outlive_a_killed_run_worker_and_its_slot_is_freed(runs):
    run = runs.launch()
    training = runs.training(run)
    step = runs.step(run)
    assert training.parent() == step
    server = step.parent()  # Dagster's, which steps are forked from
    server.parent().kill()
    assert not psutil.wait_procs([training, step, server], timeout=60)[1]
    assert gpu_lock_is_free(runs)
    assert runs.ended(run) == dg.DagsterRunStatus.FAILURE
    slots = runs.instance.event_log_storage
    assert run in slots.get_concurrency_run_ids()
    ended = runs.instance.get_run_record_by_id(run).end_time
    with freeze_time(datetime.fromtimestamp(ended + 61, UTC)):
        list(execute_concurrency_slots_iteration(runs.workspace, logging.getLogger("daemon")))
    assert not slots.get_concurrency_run_ids()


COMMAND = """
import sys
from functools import partial
from pathlib import Path
import pipeline.commands.run as command
command.execute = partial(command.execute, assets=["lv_localiser"])
command.run_fold("phantom", None, "tiny", 0, Path(sys.argv[1]), sys.argv[2:])
"""


def test_the_interface_and_the_command_line_at_once_train_once(runs):
    steps = "localiser.steps=6"
    run = runs.launch(steps)
    line = [sys.executable, "-c", COMMAND, str(runs.home), *OVERRIDES, steps]
    command = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE_S)
    assert command.returncode == 0, command.stderr
    assert runs.ended(run) == dg.DagsterRunStatus.SUCCESS, runs.texts(run)
    with contextlib.closing(sqlite3.connect(runs.home / "mlflow.db")) as database:
        finished = "SELECT count(*) FROM runs WHERE status = 'FINISHED' AND name LIKE '%localiser%'"
        assert database.execute(finished).fetchone() == (1,)
    assert gpu_lock_is_free(runs)


def test_a_run_that_takes_too_long_is_stopped_and_says_so(runs):
    run = runs.launch(tags={"dagster/max_runtime": "1"})
    training = runs.training(run)
    list(execute_run_monitoring_iteration(runs.workspace, logging.getLogger("daemon")))
    assert "Exceeded maximum runtime of 1 seconds" in runs.texts(run)
    assert not psutil.wait_procs([training], timeout=10)[1]
    assert runs.ended(run) == dg.DagsterRunStatus.FAILURE
