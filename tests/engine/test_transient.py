import errno
import sqlite3

import dagster as dg
import pytest
from filelock import Timeout

from common.errors import InputError
from engine import transient
from engine.transient import RETRIES, PassingFaultError, is_transient, retried


def caused(outer, inner):
    try:
        raise outer from inner
    except type(outer) as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.ESTALE, "Stale file handle"),
        OSError("Unable to read (file read failed: errno = 5, error message = 'Input/output error')"),  # HDF5's own
        ConnectionResetError(),
        Timeout("store.lock"),
        sqlite3.OperationalError("database is locked"),
        PassingFaultError("told by the training process"),
        caused(InputError("store.h5: cannot be read"), OSError(errno.ETIMEDOUT, "timed out")),
    ],
)
def test_a_fault_that_passes_is_told_from_its_cause(error):
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        InputError("study 7 is broken"),
        OSError(errno.ENOSPC, "No space left on device"),
        FileNotFoundError(errno.ENOENT, "No such file"),
        PermissionError(errno.EACCES, "Permission denied"),
        sqlite3.OperationalError("no such table: runs"),
        ValueError("a mistake in the code"),
        MemoryError(),
        None,
    ],
)
def test_wrong_input_full_disks_and_mistakes_do_not_pass(error):
    assert not is_transient(error)


def test_each_wait_is_twice_the_last_and_the_fourth_fault_stays_itself():
    waits = []
    for attempt in range(RETRIES):
        with pytest.raises(dg.RetryRequested) as wish, retried(attempt):
            raise OSError(errno.EIO, "Input/output error")
        waits.append(wish.value.seconds_to_wait)
    assert waits == [10, 20, 40]
    with pytest.raises(OSError, match="Input/output"), retried(RETRIES):
        raise OSError(errno.EIO, "Input/output error")


def materialise(monkeypatch, tmp_path, faults):
    """Materialise `studies` with one fault an attempt; return Dagster's result and the number of attempts."""
    from assets import studies as module
    from engine.forge import Forge

    attempts = []

    def ingest(folder, forge, root):
        attempts.append(folder)
        if faults:
            raise faults.pop(0)
        return module.Outcome({}, (module.Check("few_rejected", True),))

    monkeypatch.setattr(module, "_ingest", ingest)
    monkeypatch.setattr(transient, "FIRST_WAIT_S", 0.01)
    forge = Forge(profile="tiny", home=str(tmp_path))
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([module.studies], resources={"forge": forge}, instance=instance, raise_on_error=False)
    return result, len(attempts)


def test_dagster_tries_a_step_again_after_a_fault_that_passes(monkeypatch, tmp_path):
    result, attempts = materialise(monkeypatch, tmp_path, [OSError(errno.EIO, "Input/output error")])
    assert attempts == 2
    assert (tmp_path / "phantom" / "tiny" / "studies" / "record.json").exists()
    assert [event.event_type_value for event in result.all_events].count("STEP_UP_FOR_RETRY") == 1


def test_dagster_tries_wrong_input_once(monkeypatch, tmp_path):
    result, attempts = materialise(monkeypatch, tmp_path, [InputError("study 7 is broken; repair it")])
    assert attempts == 1
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "study 7 is broken; repair it" in failure.step_failure_data.error.to_string()
