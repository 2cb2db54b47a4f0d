"""The SQLite store: prepared once, whoever comes first, and refused in one clear line."""

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import Timeout
from sqlalchemy.exc import OperationalError

from common.errors import InputError
from engine.tracking.store import connect, prepare_store, tracking_places

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")]
ROOT = Path(__file__).parents[3]


def test_the_default_is_a_file_in_the_workspace(tmp_path: Path) -> None:
    places = tracking_places(tmp_path, {})
    assert places.uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert places.artifact_root == tmp_path / "mlflow_artifacts"


def test_the_environment_names_another_store(tmp_path: Path) -> None:
    places = tracking_places(tmp_path, {"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"})
    assert places.uri == "http://127.0.0.1:5000"
    assert places.artifact_root is None


def test_files_of_a_database_without_a_server_lie_in_the_workspace(tmp_path: Path) -> None:
    places = tracking_places(tmp_path, {"MLFLOW_TRACKING_URI": "postgresql+psycopg2://mlflow@db/mlflow"})
    assert places.artifact_root == tmp_path / "mlflow_artifacts"


def test_a_new_store_has_the_experiment_with_its_files_in_the_workspace(prepared: Path) -> None:
    places = tracking_places(prepared, {})
    experiment = connect(places.uri).get_experiment_by_name("scarforge")
    assert experiment.artifact_location == (prepared / "mlflow_artifacts").as_uri()
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert "real only beside real + GAN" in experiment.tags["mlflow.note.content"]


def test_preparing_again_changes_nothing_and_brings_a_deleted_experiment_back(prepared: Path) -> None:
    places = tracking_places(prepared, {})
    client = connect(places.uri)
    number = client.get_experiment_by_name("scarforge").experiment_id
    client.delete_experiment(number)
    prepare_store(places.uri, places.artifact_root)
    assert client.get_experiment_by_name("scarforge").lifecycle_stage == "active"
    assert client.get_experiment_by_name("scarforge").experiment_id == number


def test_an_unknown_kind_of_store_is_refused() -> None:
    with pytest.raises(InputError, match=r"ftp://x.*sqlite.*MLFLOW_TRACKING_URI"):
        prepare_store("ftp://x")


@pytest.mark.parametrize("fault", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_a_database_whose_making_was_broken_off_is_made_by_the_next_run(tmp_path: Path, monkeypatch, fault) -> None:
    from mlflow.store.db import utils

    def half(engine):
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE experiments (experiment_id INTEGER)")
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr(utils, "_initialize_tables", half)
        with pytest.raises((InputError, KeyboardInterrupt)):
            prepare_store(f"sqlite:///{tmp_path}/mlflow.db")
    assert not list(tmp_path.glob(".mlflow.db.*"))
    (tmp_path / ".mlflow.db.1.partial").write_text("of a killed one")
    prepare_store(f"sqlite:///{tmp_path}/mlflow.db")
    assert not list(tmp_path.glob(".mlflow.db.*"))


def test_a_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database at all, but long enough to be looked at" * 40)
    with pytest.raises(
        InputError, match=r"mlflow\.db: is damaged \(file is not a database\); restore a backup\. Only"
    ) as told:
        prepare_store(f"sqlite:///{tmp_path}/mlflow.db")
    assert "all results stay" in str(told.value)
    assert "scarforge track replay" in str(told.value)


def test_a_file_of_a_newer_mlflow_is_refused_and_kept(prepared: Path) -> None:
    with sqlite3.connect(prepared / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    database.close()
    with pytest.raises(InputError, match=r"written by another MLflow.*install the MLflow that wrote it") as told:
        prepare_store(f"sqlite:///{prepared}/mlflow.db")
    assert "move the file" not in str(told.value)
    assert (prepared / "mlflow.db.ffffffffffff.bak").exists()


def test_a_page_torn_by_a_full_disk_is_damage_with_the_kept_copy_as_its_remedy(prepared: Path) -> None:
    (prepared / "mlflow.db.aaaa.bak").touch()
    with (prepared / "mlflow.db").open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 4000)
    with pytest.raises(InputError, match=r"is damaged \(.*malformed.*restore .*mlflow\.db\.aaaa\.bak"):
        prepare_store(f"sqlite:///{prepared}/mlflow.db")


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.EACCES, "Permission denied"), r"belongs to \S+ and may not .*set SCARFORGE_HOME to a folder of"),
        (
            sqlite3.OperationalError("attempt to write a readonly database"),
            "set SCARFORGE_HOME to a folder of your own",
        ),
        (sqlite3.OperationalError("unable to open database file"), "set SCARFORGE_HOME to a folder of your own"),
        (OSError(errno.EROFS, "Read-only file system"), "on a disk that is read-only; set SCARFORGE_HOME"),
        (OSError(errno.ENOSPC, "No space left on device"), "its disk is full; free some space"),
        (sqlite3.OperationalError("database or disk is full"), "its disk is full; free some space"),
        (sqlite3.OperationalError("database is locked"), "is in use by another process; wait for it, or end it"),
        (Timeout("mlflow.db.lock"), "is in use by another process; wait for it, or end it"),
    ],
)
def test_what_is_no_damage_is_told_by_its_cause_and_moves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, remedy: str
) -> None:
    def fails(*_: object) -> None:
        if isinstance(error, sqlite3.Error):
            raise OperationalError("SELECT 1", {}, error)
        raise error

    monkeypatch.setattr("engine.tracking.store._migrate", fails)
    with pytest.raises(InputError, match=remedy) as told:
        prepare_store(f"sqlite:///{tmp_path}/mlflow.db")
    assert "move the file" not in str(told.value)
    assert "\n" not in str(told.value)


def test_who_holds_the_database_is_named(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.tracking.store._LOCK_TIMEOUT_S", 0.2)
    lock = prepared / "mlflow.db.lock"
    code = (
        f"import filelock; lock = filelock.FileLock({str(lock)!r}); lock.acquire(); print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=rf"is in use by process {holder.pid} \("):
            prepare_store(f"sqlite:///{prepared}/mlflow.db")
        holder.communicate("\n")


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ('FATAL:  password authentication failed for user "mlflow"', "correct name and password"),
        ('FATAL:  database "mlflow" does not exist', "createdb"),
        ("connection failed: Connection refused", "start PostgreSQL"),
        ("permission denied for schema public", "have the database's owner grant"),
        ("could not extend file: No space left on device", "free some space on the database's disk"),
    ],
)
def test_postgresql_has_the_remedy_of_the_cause(monkeypatch: pytest.MonkeyPatch, words: str, remedy: str) -> None:
    def fails(_: str) -> None:
        raise OperationalError("SELECT 1", {}, Exception(words))

    monkeypatch.setattr("engine.tracking.store._engine", fails)
    with pytest.raises(InputError, match=remedy) as told:
        prepare_store("postgresql+psycopg2://mlflow:secret@db/mlflow")
    assert "secret" not in str(told.value)


@pytest.mark.slow
def test_processes_that_meet_a_new_file_together_all_succeed(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    code = f"from engine.tracking.store import prepare_store; prepare_store({uri!r})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    shutil.rmtree(tmp_path)
