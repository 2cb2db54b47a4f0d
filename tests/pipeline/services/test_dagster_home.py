"""Dagster's home: settings that its own instance accepts, written once."""

from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._check import CheckError

from common.errors import InputError
from engine.cluster.executor import pool_size
from pipeline.outermost import explain
from pipeline.services.dagster_home import prepare_dagster_home

POSTGRES = {"SCARFORGE_DAGSTER_POSTGRES": "postgresql+psycopg2://forge:secret@db/dagster"}


@pytest.mark.parametrize("name", ["home", "it's a: strange # name"])
def test_dagster_accepts_the_settings_and_keeps_its_files_there(tmp_path: Path, name: str) -> None:
    import dagster as dg

    folder = prepare_dagster_home(tmp_path / name)
    assert folder == tmp_path / name / "dagster"
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        assert not instance.telemetry_enabled
        assert instance.run_monitoring_enabled
        assert instance.storage_directory().startswith(str(folder))
        assert instance.get_concurrency_config().pool_config.default_pool_limit == 1
    assert (folder / "history").is_dir()


def test_a_leaked_slot_is_freed_and_two_runs_at_most_go_side_by_side(tmp_path: Path) -> None:
    settings = yaml.safe_load((prepare_dagster_home(tmp_path) / "dagster.yaml").read_text())
    assert settings["run_monitoring"]["free_slots_after_run_end_seconds"] == 60
    assert settings["run_monitoring"]["max_runtime_seconds"] == 2 * 24 * 3600
    assert settings["concurrency"]["runs"]["max_concurrent_runs"] == 2
    assert settings["concurrency"]["pools"] == {"default_limit": 1, "granularity": "op"}


def test_settings_that_were_changed_by_hand_are_kept(tmp_path: Path) -> None:
    folder = prepare_dagster_home(tmp_path)
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    prepare_dagster_home(tmp_path)
    assert (folder / "dagster.yaml").read_text() == "telemetry: {enabled: false}\n"


@pytest.fixture
def postgres_driver(monkeypatch):
    monkeypatch.setattr("pipeline.services.dagster_home.find_spec", lambda name: name)


def storage_of(folder: Path) -> object:
    return yaml.safe_load((folder / "dagster.yaml").read_text())["storage"]


def test_postgresql_is_named_by_its_variable_so_that_no_password_is_on_disk(tmp_path: Path, postgres_driver) -> None:
    folder = prepare_dagster_home(tmp_path, POSTGRES)
    assert storage_of(folder) == {"postgres": {"postgres_url": {"env": "SCARFORGE_DAGSTER_POSTGRES"}}}
    assert "secret" not in (folder / "dagster.yaml").read_text()
    assert yaml.safe_load((folder / "dagster.yaml").read_text())["concurrency"]["pools"]["default_limit"] == 1


def test_settings_nobody_changed_move_to_postgresql_when_it_is_asked_for(tmp_path: Path, postgres_driver) -> None:
    folder = prepare_dagster_home(tmp_path, {})
    assert "storage:" not in (folder / "dagster.yaml").read_text()
    prepare_dagster_home(tmp_path, POSTGRES)
    assert "postgres" in storage_of(folder)


def test_settings_changed_by_hand_are_not_overruled_in_silence(tmp_path: Path, postgres_driver) -> None:
    folder = prepare_dagster_home(tmp_path, {})
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with pytest.raises(InputError, match=r"dagster.yaml was changed by hand(.|\n)*env: SCARFORGE_DAGSTER_POSTGRES"):
        prepare_dagster_home(tmp_path, POSTGRES)
    assert (folder / "dagster.yaml").read_text() == "telemetry: {enabled: false}\n"


def test_a_forgotten_variable_does_not_start_a_second_history_in_sqlite(tmp_path: Path, postgres_driver) -> None:
    prepare_dagster_home(tmp_path, POSTGRES)
    with pytest.raises(InputError, match=r"keeps runs in PostgreSQL, while SCARFORGE_DAGSTER_POSTGRES is not set"):
        prepare_dagster_home(tmp_path, {})


def test_another_database_or_a_missing_driver_is_told_without_the_password(tmp_path: Path, monkeypatch) -> None:
    for scheme in ("mysql", "postgresql"):  # the latter stands for a driver that dagster-postgres does not bring
        with pytest.raises(InputError, match=r"expected postgresql\+psycopg2://USER") as wrong:
            prepare_dagster_home(tmp_path, {"SCARFORGE_DAGSTER_POSTGRES": f"{scheme}://forge:secret@db/dagster"})
        assert "secret" not in str(wrong.value)
    monkeypatch.setattr("pipeline.services.dagster_home.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install 'scarforge\[postgres\]'"):
        prepare_dagster_home(tmp_path, POSTGRES)


@pytest.mark.parametrize(("visible", "places"), [(None, 4), ("0,2", 2), ("", 1), ("-1", 1), ("3", 1)])
def test_the_pool_has_a_place_for_each_gpu_that_may_be_seen(tmp_path: Path, visible, places) -> None:
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidia3", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert pool_size(environment, tmp_path) == places
    assert pool_size(environment, tmp_path / "no_driver") == 1


def test_the_settings_of_a_machine_with_gpus_count_as_untouched(tmp_path: Path, monkeypatch, postgres_driver) -> None:
    monkeypatch.setattr("pipeline.services.dagster_home.pool_size", lambda _: 4)
    folder = prepare_dagster_home(tmp_path, {})
    assert yaml.safe_load((folder / "dagster.yaml").read_text())["concurrency"]["pools"]["default_limit"] == 4
    monkeypatch.setattr("pipeline.services.dagster_home.pool_size", lambda _: 1)
    prepare_dagster_home(tmp_path, POSTGRES)
    assert storage_of(folder) == {"postgres": {"postgres_url": {"env": "SCARFORGE_DAGSTER_POSTGRES"}}}


@pytest.mark.parametrize("content", [b"telemetry: {enabled: false", b"telemetry: {enabled: f\xe9lse}", b"- telemetry"])
def test_settings_that_cannot_be_read_are_named_with_the_remedy(tmp_path: Path, content) -> None:
    path = prepare_dagster_home(tmp_path, {}) / "dagster.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"dagster\.yaml: cannot be read \(.*\); correct it, or move it away"):
        prepare_dagster_home(tmp_path, {})


NO_SUCH_CLASS = "compute_logs: {module: dagster._core.storage.noop_compute_log_manager, class: Nothing}\n"


@pytest.mark.parametrize("settings", ["telemetri: {enabled: false}\n", NO_SUCH_CLASS], ids=["name", "class"])
def test_settings_that_dagster_refuses_are_named_with_the_remedy(tmp_path: Path, monkeypatch, settings) -> None:
    home = prepare_dagster_home(tmp_path, {})
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    (home / "dagster.yaml").write_text(settings)
    with pytest.raises((dg.DagsterInvalidConfigError, CheckError)) as refused:
        _ = dg.DagsterInstance.from_config(str(home)).compute_log_manager
    line = explain(refused.value) or ""
    assert line.startswith(f"{home}/dagster.yaml: ")
    assert line.endswith("correct it, or move it away to have a new one written")
    assert "\n" not in line
