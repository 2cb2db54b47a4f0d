"""Dagster's home: settings that its own instance accepts, written once."""

from pathlib import Path

import pytest
import yaml

from pipeline.dagster_home import prepare_dagster_home


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
    assert settings["concurrency"]["runs"]["max_concurrent_runs"] == 2
    assert settings["concurrency"]["pools"] == {"default_limit": 1, "granularity": "op"}


def test_settings_that_were_changed_by_hand_are_kept(tmp_path: Path) -> None:
    folder = prepare_dagster_home(tmp_path)
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    prepare_dagster_home(tmp_path)
    assert (folder / "dagster.yaml").read_text() == "telemetry: {enabled: false}\n"
