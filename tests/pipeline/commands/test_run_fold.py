"""What `scarforge run` says of a run that did not end well: the stage and its own words."""

import errno
import os
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest
from dagster._core.events import JobFailureData
from dagster._utils.error import SerializableErrorInfo

from common.errors import InputError
from engine.tracking import publish
from engine.tracking.run_folder import RunFolder
from engine.tracking.store import tracking_places
from pipeline.commands import run
from pipeline.commands.run import _first_failure, raise_failure
from pipeline.outermost import InterruptedCommand

HOME = Path("/data/workspace")


def result_of(error):
    @dg.asset
    def pix2pix() -> None:
        raise error

    job = dg.Definitions(assets=[pix2pix], jobs=[dg.define_asset_job("all")]).resolve_job_def("all")
    return job.execute_in_process(raise_on_error=False)


def test_the_stage_and_its_words():
    assert _first_failure(result_of(InputError("batch 7 is odd")), HOME) == "pix2pix: batch 7 is odd"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            sqlite3.OperationalError("unable to open database file"),
            f"pix2pix: {HOME}: a database cannot be opened or written (unable to open database file); check the rights",
        ),
        (sqlite3.OperationalError("disk I/O error"), "disk I/O error); check the disk, and run this again"),
        (sqlite3.OperationalError("database or disk is full"), "the disk is full; free some space"),
        (OSError(errno.EIO, os.strerror(errno.EIO), "/data/x.h5"), "/data/x.h5: Input/output error; check the disk"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "/data/workspace: too many open files; raise the limit"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), "the memory is used up"),
        (MemoryError(), "the memory is used up; end other programs"),
    ],
)
def test_a_stage_that_met_a_fault_of_the_surroundings_names_place_and_remedy(error, line):
    said = _first_failure(result_of(error), HOME)
    assert said.startswith("pix2pix: ")
    assert line in said
    if isinstance(error, sqlite3.Error):
        assert str(HOME) in said


def test_a_database_that_fails_between_two_stages_is_told_with_place_and_remedy():
    """Dagster wraps what it meets outside of any stage in an error of its own, and only says that the run failed."""
    cause = SerializableErrorInfo("sqlite3.OperationalError: unable to open database file\n", [], "OperationalError")
    error = SerializableErrorInfo("(sqlite3.OperationalError) [SQL: INSERT]\n", [], "OperationalError", cause)
    failed = dg.DagsterEvent(
        dg.DagsterEventType.RUN_FAILURE.value, "all", event_specific_data=JobFailureData(error), message="It failed."
    )
    ended = SimpleNamespace(all_events=[failed], get_asset_check_evaluations=list)
    assert _first_failure(ended, HOME) == (
        f"{HOME}: a database cannot be opened or written (unable to open database file); check the rights and the "
        "space of SCARFORGE_HOME"
    )


def test_memory_that_ran_out_below_another_error_is_told_as_such():
    fault = SystemError("<built-in function resize> returned a result with an exception set")
    fault.__cause__ = MemoryError()
    assert _first_failure(result_of(fault), HOME) == (
        "pix2pix: the memory is used up; end other programs, or use fewer processes (--set processes=1)"
    )


def test_a_stage_that_was_interrupted_ends_the_command_as_a_signal_does(capsys):
    with pytest.raises(InterruptedCommand):
        raise_failure(result_of(dg.DagsterExecutionInterruptedError()), HOME)
    assert capsys.readouterr().err.endswith("  interrupted; the same command again continues the run\n")


def test_a_blocking_check_that_failed_is_named():
    @dg.asset(check_specs=[dg.AssetCheckSpec("no_copies", asset="synthetic_slices", blocking=True)])
    def synthetic_slices() -> dg.MaterializeResult:
        return dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed=False, check_name="no_copies")])

    @dg.asset(deps=[synthetic_slices])
    def training_set() -> None: ...

    assets = [synthetic_slices, training_set]
    job = dg.Definitions(assets=assets, jobs=[dg.define_asset_job("all")]).resolve_job_def("all")
    said = _first_failure(job.execute_in_process(raise_on_error=False), HOME)
    assert "no_copies" in said
    assert "synthetic_slices" in said


def test_a_run_that_finds_every_result_sends_what_mlflow_lacks(monkeypatch, tmp_path):
    sent = []
    monkeypatch.setattr(run, "prepare_stores", lambda _: None)
    monkeypatch.setattr(run, "execute", lambda *_: SimpleNamespace(success=True))
    monkeypatch.setattr(publish, "replay", lambda places, every: sent.append((places.home, every)))
    run.run_fold("phantom", None, "tiny", 0, tmp_path)
    assert sent == [(tmp_path, False)]


@pytest.mark.parametrize("fault", [OSError(errno.EIO, "late"), InputError("sent.json: cannot be written; free space")])
def test_a_disk_that_fails_while_runs_are_sent_costs_no_command(monkeypatch, tmp_path, caplog, fault):
    def fails(*_):
        raise fault

    monkeypatch.setattr(publish, "run_folders", lambda _: [RunFolder(tmp_path)])
    monkeypatch.setattr(publish, "publish", fails)
    assert publish.replay(tracking_places(tmp_path, {}), every=False) == 0
    assert "what it lacks stays in the workspace" in caplog.text
