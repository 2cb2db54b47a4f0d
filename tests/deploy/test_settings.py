"""What the deployment tells Dagster and our own code, as these read it; and the two scripts."""

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import dagster as dg
import pytest
import yaml

from pipeline.automation.scheduled_jobs import PREFIX, nightly_settings
from pipeline.services.dagster_home import prepare_dagster_home

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SHARED = ("telemetry", "concurrency", "run_monitoring", "run_retries")


def settings():
    return yaml.safe_load((DEPLOY / "dagster.yaml").read_text())


def loaded(folder, content):
    """Load settings as Dagster does, with runs in SQLite in place of a server."""
    content["storage"] = {"sqlite": {"base_dir": str(folder)}}
    if "compute_logs" in content:
        content["compute_logs"]["config"]["base_dir"] = str(folder / "logs")
    (folder / "dagster.yaml").write_text(yaml.safe_dump(content))
    return dg.DagsterInstance.from_config(str(folder))


def test_dagster_accepts_the_settings(tmp_path):
    with loaded(tmp_path, settings()) as instance:
        assert not instance.telemetry_enabled
        assert instance.run_monitoring_enabled
        assert instance.run_retries_enabled
        assert instance.get_concurrency_config().pool_config.default_pool_limit == 1
        assert type(instance.compute_log_manager).__name__ == "LocalComputeLogManager"


def test_a_wrong_setting_would_be_noticed(tmp_path):
    content = settings()
    content["run_monitoring"]["free_slots"] = 60
    with pytest.raises(dg.DagsterInvalidConfigError, match="free_slots"):
        loaded(tmp_path, content).__enter__()


def test_they_are_those_of_a_single_machine(tmp_path):
    here = yaml.safe_load((prepare_dagster_home(tmp_path, {}) / "dagster.yaml").read_text())
    assert {name: settings()[name] for name in SHARED} == {name: here[name] for name in SHARED}


def test_runs_are_kept_in_postgresql_as_on_a_single_machine(tmp_path):
    pytest.importorskip("dagster_postgres")
    from dagster._config import validate_config
    from dagster_postgres import DagsterPostgresStorage

    postgres = {"SCARFORGE_DAGSTER_POSTGRES": "postgresql+psycopg2://scarforge@postgres/dagster"}
    here = yaml.safe_load((prepare_dagster_home(tmp_path, postgres) / "dagster.yaml").read_text())
    assert settings()["storage"] == here["storage"]
    checked = validate_config(DagsterPostgresStorage.config_type(), settings()["storage"]["postgres"])
    assert checked.success, checked.errors


def read_variables():
    """Every variable that the code reads."""
    folders = ("common", "imaging", "runtime", "gan", "segmentation", "engine", "assets", "pipeline")
    source = "\n".join(path.read_text() for folder in folders for path in (ROOT / folder).rglob("*.py"))
    nights = {f"{PREFIX}{name}" for name in ("PROFILE", "FOLDS", "CRON", "TIMEZONE", "FORCE")}
    return set(re.findall(r"[\"'](SCARFORGE_[A-Z0-9_]*[A-Z0-9])[\"']", source)) | nights


def test_every_variable_that_is_set_is_one_that_the_code_reads():
    named = {
        name: path.name
        for path in DEPLOY.rglob("*")
        if path.is_file() and "secrets" not in path.parts
        for name in re.findall(r"SCARFORGE_[A-Z0-9_]*[A-Z0-9]", path.read_text())
    }
    assert "SCARFORGE_DAGSTER_POSTGRES" in named
    unknown = {name: file for name, file in named.items() if name.removesuffix("_FILE") not in read_variables()}
    assert unknown == {}


def test_the_nights_of_the_compose_file_can_be_read():
    environment = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["code"]["environment"]
    defaults = {
        name: value.partition(":-")[2].removesuffix("}") if value.startswith("${") else value
        for name, value in environment.items()
        if name.startswith(PREFIX)
    }
    assert set(defaults) == {f"{PREFIX}CRON", f"{PREFIX}TIMEZONE", f"{PREFIX}FOLDS"}
    assert nightly_settings(defaults, frozenset({"demo"})) == nightly_settings({}, frozenset({"demo"}))


def test_the_image_holds_every_package_and_nothing_secret():
    import tomllib

    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    rooms = {name.partition(".")[0] for name in packages}
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (\w+) \1$", dockerfile, re.MULTILINE)
    let_in = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert set(copied) == rooms
    assert rooms <= let_in
    assert not any("secret" in name for name in let_in)
    assert re.search(r"^USER scarforge$", dockerfile, re.MULTILINE)


def test_secret_files_become_variables(tmp_path):
    (tmp_path / "database").write_text("postgresql://scarforge:it's $HOME `x`@postgres/dagster\n")
    names = {"SCARFORGE_DAGSTER_POSTGRES_FILE": str(tmp_path / "database"), "SSL_CERT_FILE": "/etc/ssl/cert.pem"}
    command = ["sh", str(DEPLOY / "entrypoint.sh"), "env"]
    result = subprocess.run(command, env={"PATH": os.environ["PATH"], **names}, capture_output=True, text=True)
    lines = result.stdout.splitlines()
    assert "SCARFORGE_DAGSTER_POSTGRES=postgresql://scarforge:it's $HOME `x`@postgres/dagster" in lines
    assert "SSL_CERT_FILE=/etc/ssl/cert.pem" in lines
    assert not any(line.startswith(("SCARFORGE_DAGSTER_POSTGRES_FILE", "SSL_CERT=")) for line in lines)


def test_a_secret_that_is_missing_stops_the_start_by_name(tmp_path):
    command = ["sh", str(DEPLOY / "entrypoint.sh"), "env"]
    environment = {"PATH": os.environ["PATH"], "MLFLOW_BACKEND_STORE_URI_FILE": str(tmp_path / "none")}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 1
    assert f"MLFLOW_BACKEND_STORE_URI_FILE={tmp_path / 'none'} cannot be read" in result.stderr


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
def test_secrets_are_made_once_and_people_added_later(tmp_path):
    def make(*names):
        passwords = "".join(f"pass of {name}\n" for name in names)
        fake = tmp_path / "bin"
        fake.mkdir(exist_ok=True)
        # openssl asks on a terminal; here it reads from standard input.
        (fake / "openssl").write_text(
            '#!/bin/sh\n[ "$1" = passwd ] && set -- "$@" -stdin\nexec /usr/bin/openssl "$@"\n'
        )
        (fake / "openssl").chmod(0o755)
        environment = {"PATH": f"{fake}:{os.environ['PATH']}", "SECRETS": str(tmp_path / "secrets")}
        command = ["sh", str(DEPLOY / "make-secrets.sh"), *names]
        return subprocess.run(command, env=environment, input=passwords, capture_output=True, text=True)

    folder = tmp_path / "secrets"
    assert make("ada").returncode == 0
    first = {path.name: path.read_text() for path in folder.iterdir()}
    password = first["postgres_password"]
    assert len(password) == 48
    assert first["dagster_database"] == f"postgresql+psycopg2://scarforge:{password}@postgres:5432/dagster"
    assert first["mlflow_database"] == f"postgresql+psycopg2://scarforge:{password}@postgres:5432/mlflow"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert make("bob").returncode == 0
    assert make("ada").returncode == 0
    people = [line.split(":") for line in (folder / "passwords").read_text().splitlines()]
    assert [name for name, _ in people] == ["bob", "ada"]
    assert all(kept.startswith("$6$") for _, kept in people)
    assert (folder / "postgres_password").read_text() == password
    assert make("a:b").returncode == 2
    assert make().returncode == 2
