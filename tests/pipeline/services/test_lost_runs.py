"""Runs whose process is gone: they end, their slots are free, and nobody else's run is touched."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import dagster as dg
import pytest
from dagster._core.events import EngineEventData
from dagster._core.storage.tags import GRPC_INFO_TAG

from pipeline.services.dagster_home import PROCESS_TAG, end_lost_runs, prepare_dagster_home, process_tags

STARTED, FAILURE, CANCELED = dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED


@pytest.fixture
def instance(tmp_path):
    with dg.DagsterInstance.from_config(str(prepare_dagster_home(tmp_path))) as found:
        yield found


@pytest.fixture(scope="module")
def ended_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@dg.asset
def nothing() -> None: ...


def begin(instance, tags, worker=None):
    job = dg.Definitions(assets=[nothing], jobs=[dg.define_asset_job("all")]).resolve_job_def("all")
    run = instance.create_run_for_job(job_def=job, tags=tags)
    if worker:
        data = EngineEventData(metadata={"pid": dg.MetadataValue.text(str(worker))})
        instance.report_engine_event("Started process for run", run, data)
    event = dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, job_name="all")
    instance.report_dagster_event(event, run_id=run.run_id)
    assert status(instance, run) is STARTED
    slots = instance.event_log_storage
    slots.initialize_concurrency_limit_to_default("gpu")
    slots.claim_concurrency_slot("gpu", run.run_id, "a_training")
    return run


def status(instance, run):
    return instance.get_run_by_id(run.run_id).status


def command(**changes):
    """Return the tag of a command like this one, but for some facts."""
    return {PROCESS_TAG: json.dumps(json.loads(process_tags()[PROCESS_TAG]) | changes)}


def test_a_run_of_a_killed_command_fails_and_frees_its_slot(instance, ended_process):
    run = begin(instance, command(pid=ended_process))
    assert instance.event_log_storage.get_concurrency_run_ids() == {run.run_id}
    assert end_lost_runs(instance) == [run.run_id]
    assert status(instance, run) is FAILURE
    assert not instance.event_log_storage.get_concurrency_run_ids()
    assert end_lost_runs(instance) == []


def test_a_run_whose_command_ended_before_it_began_fails_unless_the_interface_creates_it(instance, ended_process):
    job = dg.Definitions(assets=[nothing], jobs=[dg.define_asset_job("all")]).resolve_job_def("all")
    ours = instance.create_run_for_job(job_def=job, tags=command(pid=ended_process))
    again = instance.create_run_for_job(
        job_def=job, tags=command(pid=ended_process), parent_run_id=ours.run_id, root_run_id=ours.run_id
    )
    alive = instance.create_run_for_job(job_def=job, tags=process_tags())
    assert end_lost_runs(instance) == [ours.run_id]
    assert status(instance, ours) is FAILURE
    assert {status(instance, run) for run in (again, alive)} == {dg.DagsterRunStatus.NOT_STARTED}


OTHERS = {
    "lives": {},
    "another host": {"host": "elsewhere", "pid": 1},
    "another container": {"container": "pid:[1]", "pid": 1},
    "another machine of that name": {"machine": "other", "boot": "other"},
}


@pytest.mark.parametrize("facts", OTHERS.values(), ids=OTHERS)
def test_a_run_that_may_live_is_left_alone(instance, facts):
    run = begin(instance, command(**facts))
    assert end_lost_runs(instance, of_interface=True) == []
    assert status(instance, run) is STARTED


@pytest.mark.parametrize("tags", [{}, {PROCESS_TAG: "host:1"}, {PROCESS_TAG: "[]"}], ids=["none", "old", "odd"])
def test_a_run_of_unknown_process_is_left_alone(instance, tags):
    begin(instance, tags)
    assert end_lost_runs(instance, of_interface=True) == []


@pytest.mark.parametrize("facts", [{"boot": "before"}, {"start": "1"}], ids=["earlier boot", "number taken over"])
def test_a_later_process_with_the_same_number_does_not_keep_a_run_alive(instance, facts):
    run = begin(instance, command(**facts))
    assert end_lost_runs(instance) == [run.run_id]


def test_a_run_launched_once_more_in_the_interface_is_not_its_first_commands(instance, ended_process):
    run = begin(instance, command(pid=ended_process) | {GRPC_INFO_TAG: "{}"}, worker=os.getpid())
    assert end_lost_runs(instance) == []
    assert end_lost_runs(instance, of_interface=True) == []
    assert status(instance, run) is STARTED


def test_runs_of_the_interface_are_ended_by_its_next_start_only(instance, ended_process):
    lost = begin(instance, {GRPC_INFO_TAG: "{}"}, worker=ended_process)
    alive = begin(instance, {GRPC_INFO_TAG: "{}"}, worker=os.getpid())
    assert end_lost_runs(instance) == []
    assert end_lost_runs(instance, of_interface=True) == [lost.run_id]
    assert (status(instance, lost), status(instance, alive)) == (FAILURE, STARTED)


def test_a_run_that_was_being_cancelled_ends_as_cancelled(instance, ended_process):
    run = begin(instance, command(pid=ended_process))
    instance.report_run_canceling(run)
    end_lost_runs(instance)
    assert status(instance, run) is CANCELED


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_same_command_goes_on_after_a_kill_without_a_daemon(tmp_path, monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "SCARFORGE_SHARE_ACCELERATOR"):
        monkeypatch.delenv(name, raising=False)
    begin_and_kill(tmp_path, "training the localiser", "first")
    second = begin_and_kill(tmp_path, "training the localiser", "second")
    assert "had been killed and is ended" in second
    (left,) = set(re.findall(r"training the localiser: [0-9]+/([0-9]+)", second))
    assert 0 < int(left) < 20000  # what the first had not done


def begin_and_kill(home, line, name):
    """Run the command until it says a line, kill it and return what it had said."""
    settings = ("localiser.steps=20000", "localiser.validate_every=2", "device=cpu")
    words = [word for setting in settings for word in ("--set", setting)]
    log = home / f"{name}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", "run", "--profile", "tiny", *words],
            env={**os.environ, "SCARFORGE_HOME": str(home / "workspace")},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        give_up = time.monotonic() + 400
        while line not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < give_up, log.read_text()
            time.sleep(0.2)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return log.read_text()
