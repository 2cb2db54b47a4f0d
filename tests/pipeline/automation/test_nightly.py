"""The schedule as Dagster's own daemon evaluates it, and what the environment may say."""

import logging
import subprocess
import sys
from datetime import UTC, datetime

import dagster as dg
import pytest
from dagster._core.test_utils import freeze_time
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.auto_run_reexecution.auto_run_reexecution import filter_runs_to_should_retry
from dagster._scheduler.scheduler import launch_scheduled_runs

from common.errors import InputError
from engine.run_tags import FORCE_TAG, NIGHT_TAG, forced_attempt, night_tags
from pipeline.automation.scheduled_jobs import BY_SCHEDULE, JOBS, NightlySettings, night_requests, nightly_settings
from pipeline.definitions import defs
from pipeline.services.dagster_home import prepare_dagster_home
from tests.pipeline.code_server import code_server

PROFILES = frozenset(JOBS)


def tick(instance, moment):
    context = dg.build_schedule_context(
        instance=instance, scheduled_execution_time=moment, repository_def=defs.get_repository_def()
    )
    return defs.resolve_schedule_def("nightly").evaluate_tick(context)


def test_the_schedule_is_off_until_switched_on_and_requests_a_run_a_fold():
    assert defs.resolve_schedule_def("nightly").default_status == dg.DefaultScheduleStatus.STOPPED
    with dg.instance_for_test() as instance:
        (request,) = tick(instance, datetime(2026, 1, 1, 2, tzinfo=UTC)).run_requests
    assert request.partition_key == "0"
    assert request.tags[NIGHT_TAG] == "2026-01-01"
    assert FORCE_TAG not in request.tags
    config = request.run_config["resources"]["forge"]["config"]
    assert (config["profile"], config["source"], config["root"]) == ("demo", "phantom", "")


def test_a_night_that_is_still_going_is_not_overtaken_but_a_persons_run_does_not_count():
    with dg.instance_for_test() as instance:
        instance.add_run(dg.DagsterRun("demo_fold", status=dg.DagsterRunStatus.STARTED))
        assert tick(instance, datetime(2026, 1, 1, 2, tzinfo=UTC)).run_requests
        tags = {"scarforge/started_by": BY_SCHEDULE}
        instance.add_run(dg.DagsterRun("demo_fold", status=dg.DagsterRunStatus.STARTED, tags=tags))
        skipped = tick(instance, datetime(2026, 1, 2, 2, tzinfo=UTC))
    assert not skipped.run_requests
    assert "still going" in skipped.skip_message


@pytest.mark.slow
def test_seven_missed_nights_are_made_up_by_one_run_and_a_restart_repeats_none():
    launcher = {"run_launcher": {"module": "dagster._core.test_utils", "class": "MockedRunLauncher"}}
    target = ModuleTarget("pipeline.definitions", None, None, "scarforge")
    with (
        dg.instance_for_test(overrides=launcher) as instance,
        code_server(target, instance) as workspace,
    ):
        (entry,) = workspace.create_request_context().get_code_location_entries().values()
        assert entry.code_location is not None, entry.load_error
        (repository,) = entry.code_location.get_repositories().values()
        with freeze_time(datetime(2026, 1, 1, 12, tzinfo=UTC)):
            instance.start_schedule(repository.get_schedule("nightly"))

        def daemon_at(moment):  # with nothing remembered, as after a restart
            with freeze_time(moment):
                list(launch_scheduled_runs(workspace, logging.getLogger("daemon"), moment, {}))
            runs = instance.get_runs()
            for run in runs:  # the mocked launcher never ends one
                instance.delete_run(run.run_id)
            return [run.tags[NIGHT_TAG] for run in runs]

        assert daemon_at(datetime(2026, 1, 1, 13, tzinfo=UTC)) == []
        assert daemon_at(datetime(2026, 1, 8, 9, tzinfo=UTC)) == ["2026-01-08"]
        assert daemon_at(datetime(2026, 1, 8, 10, tzinfo=UTC)) == []
        assert daemon_at(datetime(2026, 1, 9, 2, 1, tzinfo=UTC)) == ["2026-01-09"]


def test_the_environment_sets_every_part_of_the_nights(tmp_path):
    given = {
        "SCARFORGE_NIGHTLY_PROFILE": "paper",
        "SCARFORGE_NIGHTLY_FOLDS": "0, 3,3",
        "SCARFORGE_NIGHTLY_CRON": "30 3 * * 1-5",
        "SCARFORGE_NIGHTLY_TIMEZONE": "Europe/London",
        "SCARFORGE_NIGHTLY_FORCE": "yes",
        "SCARFORGE_SOURCE": "emidec",
        "SCARFORGE_ROOT": str(tmp_path),
    }
    settings = nightly_settings(given, PROFILES)
    assert settings == NightlySettings(
        profile="paper",
        folds=("0", "3"),
        cron="30 3 * * 1-5",
        timezone="Europe/London",
        force=True,
        source="emidec",
        root=tmp_path,
    )
    requests = night_requests(settings, BY_SCHEDULE, "2026-01-01", "2026-01-01", settings.force)
    assert [(request.partition_key, request.tags[FORCE_TAG]) for request in requests] == [("0", "true"), ("3", "true")]


def test_without_settings_the_phantom_runs_the_demo_and_real_data_the_quick_profile():
    assert nightly_settings({}, PROFILES).profile == "demo"
    assert nightly_settings({"SCARFORGE_SOURCE": "emidec"}, PROFILES).profile == "quick"
    assert nightly_settings({"SCARFORGE_SOURCE": "emidec", "SCARFORGE_PROFILE": "paper"}, PROFILES).profile == "paper"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PROFILE", "huge"),
        ("FOLDS", "0,7"),
        ("FOLDS", " , "),
        ("CRON", "at two"),
        ("TIMEZONE", "Mars/Olympus"),
        ("TIMEZONE", "../etc/passwd"),
        ("FORCE", "perhaps"),
    ],
)
def test_a_value_that_cannot_be_used_names_its_variable(name, value):
    with pytest.raises(InputError, match=f"SCARFORGE_NIGHTLY_{name}"):
        nightly_settings({f"SCARFORGE_NIGHTLY_{name}": value}, PROFILES)


def test_only_an_automatic_run_belongs_to_a_night():
    assert night_tags({}, "emidec", "quick") == {}
    tags = night_tags({NIGHT_TAG: "2026-01-01", "scarforge/started_by": BY_SCHEDULE}, "emidec", "quick")
    assert tags["scarforge_parent"] == "night/emidec/quick/nightly/2026-01-01"


def test_a_forced_training_is_the_same_for_every_retry_of_a_run_and_new_for_the_next_run():
    forced = {FORCE_TAG: "true"}
    assert forced_attempt({}, "run", "key") == ""
    assert forced_attempt({FORCE_TAG: "false"}, "run", "key") == ""
    assert forced_attempt(forced, "run", "key") == forced_attempt(forced, "run", "key")
    assert forced_attempt(forced, "run", "key") != forced_attempt(forced, "next run", "key")
    assert forced_attempt(forced, "run", "key") != forced_attempt(forced, "run", "other key")


@pytest.mark.parametrize(("reason", "again"), [("RUN_EXCEPTION", True), ("UNKNOWN", True), ("STEP_FAILURE", False)])
def test_a_night_that_was_killed_is_started_again_but_not_one_whose_stage_failed(tmp_path, reason, again):
    (request,) = night_requests(NightlySettings(), BY_SCHEDULE, "2026-01-01", "2026-01-01")
    tags = {**request.tags, "dagster/failure_reason": reason}
    with dg.DagsterInstance.from_config(str(prepare_dagster_home(tmp_path))) as instance:
        run = dg.DagsterRun("demo_fold", tags=tags, status=dg.DagsterRunStatus.FAILURE)
        instance.add_run(run)
        assert bool(list(filter_runs_to_should_retry([run], instance))) is again


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [("SCARFORGE_NIGHTLY_CRON", "at two", "five fields")],
)
def test_a_wrong_setting_of_the_nights_stops_the_nights_and_nothing_else(tmp_path, name, value, allowed):
    code = """
from common.errors import InputError
from pipeline.definitions import defs
import dagster as dg
assert defs.resolve_job_def("demo_fold")
for automation in ("nightly", "new_studies"):
    context = {"nightly": dg.build_schedule_context, "new_studies": dg.build_sensor_context}[automation]
    resolve = {"nightly": defs.resolve_schedule_def, "new_studies": defs.resolve_sensor_def}[automation]
    with dg.DagsterInstance.ephemeral() as instance:
        try:
            resolve(automation).evaluate_tick(context(instance=instance))
        except (dg.DagsterError, InputError) as error:
            print("refused", error.__cause__ or error)
import sys
sys.argv = ["scarforge", "ui"]
from pipeline.cli import main
main()
"""
    environment = {"SCARFORGE_HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), name: value}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stdout.count("refused") == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("scarforge: ")
    for said in (value, allowed):
        assert done.stdout.count(said) == 2
        assert said in last


def test_a_source_that_does_not_exist_is_refused_before_anything_can_be_started(tmp_path):
    environment = {"SCARFORGE_HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    environment["SCARFORGE_SOURCE"] = "acme"
    run = "import sys; sys.argv[1:] = ['ui']\nfrom pipeline.cli import main\nmain()"
    for code in ("import pipeline.definitions", run):
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode != 0
        assert "source 'acme' is unknown; choose one of acdc, emidec" in done.stderr.strip().splitlines()[-1]
