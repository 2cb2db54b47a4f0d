"""MLflow's store in PostgreSQL: made once whoever comes first, refused in one line that holds no password."""

import subprocess
import sys

import pytest

from common.errors import InputError
from engine.tracking.store import connect, prepare_store
from tests.cluster.local_postgres import program
from tests.cluster.local_ray import ROOT, free_port

pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")]


def test_processes_that_meet_an_empty_database_together_all_succeed(postgres, tmp_path):
    uri = postgres.create("met_by_two")
    prepare = f"prepare_store({uri!r}, Path({str(tmp_path)!r}))"
    code = f"from pathlib import Path; from engine.tracking.store import prepare_store; {prepare}"
    started = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(2)]
    assert [process.wait(timeout=300) for process in started] == [0, 0]
    experiment = connect(uri).get_experiment_by_name("scarforge")
    assert experiment.artifact_location == tmp_path.as_uri()


def test_a_store_of_another_mlflow_is_left_as_it_is(postgres, tmp_path):
    uri = postgres.create("of_another")
    prepare_store(uri, tmp_path)
    postgres.rows("of_another", "UPDATE alembic_version SET version_num = 'ffffffffffff' RETURNING 1")
    with pytest.raises(InputError, match=r"another MLflow \(schema ffffffffffff, here \w+\).*pg_dump"):
        prepare_store(uri, tmp_path)


def test_a_database_that_does_not_answer_or_does_not_exist_is_named_without_its_password(postgres, tmp_path):
    silent = f"postgresql+psycopg2://forge:secret@127.0.0.1:{free_port()}/mlflow"
    for uri, word in ((silent, "refused"), (postgres.url("nowhere"), "nowhere")):
        with pytest.raises(InputError, match=rf"cannot be used as MLflow's store \(.*{word}") as told:
            prepare_store(uri, tmp_path)
        assert "secret" not in str(told.value)


def test_a_missing_server_program_tells_which_package_has_it():
    with pytest.raises(RuntimeError, match=r"no_such_program .* apt-get install postgresql"):
        program("no_such_program")
