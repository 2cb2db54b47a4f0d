"""The SQLite store: prepared once, whoever comes first, and refused in one clear line."""

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

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
    assert "Compare" in experiment.tags["mlflow.note.content"]


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


def test_a_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database at all, but long enough to be looked at" * 40)
    with pytest.raises(InputError, match=r"mlflow\.db: cannot be used as MLflow's store.*move the file away"):
        prepare_store(f"sqlite:///{tmp_path}/mlflow.db")


def test_a_file_of_a_newer_mlflow_is_refused_and_kept(prepared: Path) -> None:
    with sqlite3.connect(prepared / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    database.close()
    with pytest.raises(InputError, match="install the MLflow that wrote it"):
        prepare_store(f"sqlite:///{prepared}/mlflow.db")
    assert (prepared / "mlflow.db.ffffffffffff.bak").exists()


@pytest.mark.slow
def test_processes_that_meet_a_new_file_together_all_succeed(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    code = f"from engine.tracking.store import prepare_store; prepare_store({uri!r})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    shutil.rmtree(tmp_path)
