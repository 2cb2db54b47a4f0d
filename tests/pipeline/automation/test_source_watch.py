import os
import shutil
import time

import dagster as dg
import pytest

from engine.workspace import Workspace
from pipeline.automation import sensors as source_watch
from pipeline.automation.messages import LOG_FILE
from pipeline.automation.scheduled_jobs import BY_SCHEDULE, BY_SENSOR, NightlySettings, night_requests
from pipeline.automation.sensors import QUIET_S, SHARE_OF_TIME, Watch, listing_digest, look, new_studies, watch_folder
from pipeline.services.dagster_home import prepare_dagster_home


@pytest.fixture
def studies(tmp_path):
    folder = tmp_path / "studies"
    for case in ("Case_001", "Case_002"):
        (folder / case).mkdir(parents=True)
        (folder / case / "image.nii.gz").write_bytes(b"image")
    return folder


def after_a_quiet_minute(watch, folder, now=1000.0):
    first = look(watch, folder, now)
    return look(first.watch, folder, now + QUIET_S)


def test_a_folder_counts_as_changed_after_a_quiet_minute_and_only_once(studies):
    first = look(Watch(), studies, 1000.0)
    assert not first.changed
    assert not look(first.watch, studies, 1000.0 + QUIET_S - 1).changed
    second = look(first.watch, studies, 1000.0 + QUIET_S)
    assert second.changed
    assert not look(second.watch, studies, 5000.0).changed


def test_a_copy_in_progress_starts_nothing_even_if_it_keeps_old_times(studies):
    watch = after_a_quiet_minute(Watch(), studies).watch
    now = 2000.0
    for number in range(5):
        file = studies / f"Case_01{number}.nii.gz"
        file.write_bytes(b"x")
        os.utime(file, (1.0, 1.0))
        seen = look(watch, studies, now)
        assert not seen.changed
        watch, now = seen.watch, now + QUIET_S / 2
    assert look(watch, studies, now + QUIET_S).changed


@pytest.mark.parametrize("change", ["new", "grown", "touched", "removed", "renamed"])
def test_every_kind_of_change_is_seen(studies, change):
    watch, file = after_a_quiet_minute(Watch(), studies).watch, studies / "Case_001" / "image.nii.gz"
    if change == "new":
        (studies / "Case_003").mkdir()
        (studies / "Case_003" / "image.nii.gz").write_bytes(b"image")
    elif change == "grown":
        file.write_bytes(b"longer image")
    elif change == "touched":
        os.utime(file, (5.0, 5.0))
    elif change == "removed":
        file.unlink()
    else:
        file.rename(file.with_name("other.nii.gz"))
    assert after_a_quiet_minute(watch, studies, 3000.0).changed


def test_a_folder_that_is_away_and_comes_back_unchanged_is_unchanged(studies):
    watch = after_a_quiet_minute(Watch(), studies).watch
    studies.rename(studies.with_name("elsewhere"))
    away = look(watch, studies, 2000.0)
    assert "cannot be listed" in away.reason
    studies.with_name("elsewhere").rename(studies)
    assert not after_a_quiet_minute(away.watch, studies, 3000.0).changed


def test_an_empty_folder_starts_nothing(tmp_path):
    assert not after_a_quiet_minute(Watch(), tmp_path).changed


def test_broken_links_and_loops_do_not_stop_the_listing(studies):
    (studies / "nowhere").symlink_to(studies / "gone")
    (studies / "loop").symlink_to(studies, target_is_directory=True)
    assert listing_digest(studies)[0] == 3  # the loop counts as a file and is not followed


def test_five_hundred_files_take_well_under_a_second(tmp_path):
    for number in range(500):
        (tmp_path / f"{number}.dcm").write_bytes(b"")
    began = time.monotonic()
    assert listing_digest(tmp_path)[0] == 500
    assert time.monotonic() - began < 0.5


def test_a_folder_whose_listing_takes_long_is_looked_at_seldom(studies):
    watch = Watch(looked=1000.0, listing_s=6.0)
    end = 1000.0 + 6.0 / SHARE_OF_TIME
    early = look(watch, studies, end - 20)
    assert early.watch == watch
    assert "its listing took 6.0 s; the next look is in 20 s" in early.reason
    late = look(watch, studies, end)
    assert "just changed" in late.reason
    assert late.watch.pause_s == 0  # two files are listed at once
    assert late.watch.looked == end


def test_a_folder_that_holds_too_much_is_named_with_what_to_do_and_then_left_alone(studies, monkeypatch):
    monkeypatch.setattr(source_watch, "LISTING_LIMIT_S", 0.0)
    seen = look(Watch(used="earlier"), studies, 1000.0)
    assert "files were listed in 0 s and more are there; set SCARFORGE_ROOT to a folder" in seen.reason
    assert not seen.changed
    assert seen.watch.used == "earlier"
    monkeypatch.setattr(source_watch, "LISTING_LIMIT_S", 20.0)
    left_alone = Watch(looked=1000.0, listing_s=20.0)
    assert "the next look is in 370 s" in look(left_alone, studies, 1030.0).reason


@pytest.mark.parametrize("cursor", [None, "", "rubbish", "[1]", '{"other": 1}'])
def test_an_unreadable_cursor_is_a_first_look(cursor):
    assert Watch.from_cursor(cursor) == Watch()


def evaluate(studies, cursor, now, instance, **settings):
    given = NightlySettings(source="emidec", profile="quick", root=studies, folds=("0", "2"), **settings)
    context = dg.build_sensor_context(instance=instance, cursor=cursor)
    return watch_folder(context, given, now)


def test_the_sensor_requests_one_run_a_fold_and_remembers_it(studies):
    with dg.DagsterInstance.ephemeral() as instance:
        first = evaluate(studies, None, 1000.0, instance)
        assert "just changed" in first.skip_reason.skip_message
        second = evaluate(studies, first.cursor, 1061.0, instance)
        assert [request.partition_key for request in second.run_requests] == ["0", "2"]
        assert {request.tags["scarforge/started_by"] for request in second.run_requests} == {BY_SENSOR}
        assert second.run_requests[0].run_config["resources"]["forge"]["config"]["source"] == "emidec"
        third = evaluate(studies, second.cursor, 1091.0, instance)
        assert not third.run_requests


def test_the_sensor_waits_for_the_night_and_then_starts(studies):
    with dg.DagsterInstance.ephemeral() as instance:
        cursor = evaluate(studies, None, 1000.0, instance).cursor
        night = night_requests(NightlySettings(), BY_SCHEDULE, "2026-01-01", "2026-01-01")[0]
        run = dg.DagsterRun("quick_fold", tags=dict(night.tags), status=dg.DagsterRunStatus.STARTED)
        instance.add_run(run)
        waiting = evaluate(studies, cursor, 1100.0, instance)
        assert "still going" in waiting.skip_reason.skip_message
        instance.delete_run(run.run_id)
        assert evaluate(studies, waiting.cursor, 1200.0, instance).run_requests


def test_a_missing_folder_or_a_source_without_one_is_a_reason_not_a_crash(studies, tmp_path):
    shutil.rmtree(studies)
    with dg.DagsterInstance.ephemeral() as instance:
        assert "cannot be listed" in evaluate(studies, None, 1.0, instance).skip_reason.skip_message
        assert "SCARFORGE_ROOT" in evaluate(None, None, 1.0, instance).skip_reason.skip_message
        context = dg.build_sensor_context(instance=instance)
        assert "reads no folder" in watch_folder(context, NightlySettings(), 1.0).skip_reason.skip_message


def test_the_sensor_is_off_until_switched_on():
    assert new_studies.default_status == dg.DefaultSensorStatus.STOPPED


def test_a_workspace_and_results_among_the_studies_start_nothing(studies):
    """What runs, both interfaces and predictions write between two looks."""
    home = studies / "workspace"
    prepare_dagster_home(home)
    Workspace(home, "emidec", "tiny").mark()
    before = listing_digest(studies)
    for name in ("emidec/tiny/studies/studies.h5", "mlflow.db", "mlflow.db-wal", "mlflow_artifacts/1/a.png"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("written by a run")
    for name in ("logs/mlflow.log", "locks/accelerator_0.lock", "tracking_spool/x/run.json", "dagster/history/runs.db"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("written by a run")
    (home / LOG_FILE).write_text("a message")
    assert listing_digest(studies) == before
    (studies / "Case_003").mkdir()
    (studies / "Case_003" / "image.nii.gz").write_bytes(b"image")
    assert listing_digest(studies) != before


def test_a_workspace_that_is_the_folder_of_studies_hides_none_of_them(studies):
    before = listing_digest(studies)
    prepare_dagster_home(studies)
    Workspace(studies, "Case_001", "tiny").mark()  # a source may be called as a patient is
    (studies / "Case_001" / "tiny" / "scores.csv").write_text("ours")
    assert listing_digest(studies) == before
