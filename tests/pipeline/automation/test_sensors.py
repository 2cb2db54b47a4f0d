"""What failure and regression sensors tell, on Dagster's own instance."""

import dagster as dg
import pytest

from assets.parts.checks import FOLDS
from common.errors import InputError
from engine.forge import Forge
from pipeline.automation.sensors import failure_message, report_failures, report_regressions

AUTOMATIC = {"scarforge/night": "2026-01-01", "scarforge/started_by": "nightly"}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SCARFORGE_HOME", str(tmp_path))
    monkeypatch.delenv("SCARFORGE_NOTIFY", raising=False)
    return tmp_path


@pytest.fixture
def instance():
    with dg.instance_for_test() as found:
        yield found


def log_of(home):
    path = home / "notifications.log"
    return path.read_text() if path.exists() else ""


def judge(instance, fell=True, tags=AUTOMATIC, candidate=0.41, fold="0", place=None):
    """Materialise a `champion` with one tissue that was compared."""
    row = {
        "model": "halsr_net_real_only",
        "tissue": "infarct",
        "candidate": candidate,
        "champion": 0.6,
        "champion_low": 0.5,
        "champion_high": 0.7,
        "fell": fell,
    }

    @dg.asset(name="champion", partitions_def=FOLDS)
    def champion(forge: Forge):
        return dg.MaterializeResult(metadata={"tissues": dg.MetadataValue.table([dg.TableRecord(row)])})

    config = {"config": dict(zip(("source", "profile"), place, strict=True))} if place else {}
    assert dg.materialize(
        [champion],
        instance=instance,
        tags=tags,
        partition_key=fold,
        resources={"forge": Forge.configure_at_launch()},
        run_config={"resources": {"forge": config}},
    ).success


def evaluate(instance, cursor=None):
    context = dg.build_sensor_context(instance=instance, cursor=cursor)
    result = report_regressions(context)
    return result.cursor, result.skip_reason.skip_message


def test_a_regression_is_told_once_with_model_tissue_and_figures(home, instance):
    judge(instance)
    cursor, said = evaluate(instance)
    assert said == "told of 1 regressions"
    text = log_of(home)
    assert "regression in fold 0 (2026-01-01): infarct" in text
    assert "halsr_net_real_only, infarct: Dice 0.410, champion 0.600 (0.500 to 0.700)" in text
    judge(instance)  # the next night, nothing trained: the same judgement again
    cursor, said = evaluate(instance, cursor)
    assert said == "no new regression"
    judge(instance, candidate=0.39)
    evaluate(instance, cursor)
    assert log_of(home).count("regression in fold") == 2


def test_the_same_regressions_of_several_folds_are_told_once_and_not_every_night(home, instance):
    judge(instance, fell=False)
    cursor, _ = evaluate(instance)
    for said in ("told of 2 regressions", "no new regression"):
        judge(instance, candidate=0.41, fold="0")
        judge(instance, candidate=0.42, fold="1")
        cursor, found = evaluate(instance, cursor)
        assert found == said


@pytest.mark.parametrize(("fell", "tags"), [(False, AUTOMATIC), (True, {})])
def test_nothing_is_told_of_what_did_not_fall_or_of_a_persons_own_run(home, instance, fell, tags):
    judge(instance, fell, tags)
    assert evaluate(instance)[1] == "no new regression"
    assert log_of(home) == ""


def test_judgements_between_two_looks_are_all_told(home, instance):
    judge(instance, fell=False)
    cursor, _ = evaluate(instance)
    judge(instance, candidate=0.40)
    judge(instance, candidate=0.45)
    assert evaluate(instance, cursor)[1] == "told of 2 regressions"


def test_a_champion_that_was_never_judged_is_no_fault(home, instance):
    assert evaluate(instance)[1] == "no new regression"
    assert evaluate(instance, "rubbish")[1] == "no new regression"


def failed_run(instance):
    @dg.asset
    def lv_localiser():
        raise InputError("Case_007 has no cavity")

    tags = {**AUTOMATIC, "dagster/partition": "0"}
    return dg.materialize([lv_localiser], instance=instance, tags=tags, raise_on_error=False)


def test_a_failure_names_run_stage_and_kind_and_keeps_the_errors_text_private(home, instance):
    result = failed_run(instance)
    run = instance.get_run_by_id(result.run_id)
    message = failure_message(run, [event for event in result.all_events if event.is_step_failure])
    assert message.subject.endswith("fold 0 (2026-01-01) failed")
    assert message.lines == ("lv_localiser: InputError",)
    assert message.url == f"http://127.0.0.1:3000/runs/{result.run_id}"
    assert "Case_007" not in message.text
    assert "Case_007 has no cavity" in message.private[0]


def failure_context(instance):
    result = failed_run(instance)
    run = instance.get_run_by_id(result.run_id)
    event = next(event for event in result.all_events if event.is_failure)
    context = dg.build_run_status_sensor_context("report_failures", event, instance, run)
    return context.for_run_failure()


def test_the_failure_sensor_tells_and_a_wrong_setting_stops_nothing(home, instance, monkeypatch):
    report_failures(failure_context(instance))
    assert "lv_localiser: InputError" in log_of(home)
    monkeypatch.setenv("SCARFORGE_NOTIFY", "pigeon")
    report_failures(failure_context(instance))
    assert log_of(home).count("failed") == 1


def test_both_report_only_when_asked():
    for sensor in (report_failures, report_regressions):
        assert sensor.default_status == dg.DefaultSensorStatus.STOPPED


def test_regressions_are_remembered_by_source_profile_and_fold(home, instance):
    places = [("emidec", "quick"), ("mscmr_lge", "quick"), ("emidec", "paper")]
    judge(instance, fell=False)
    cursor, _ = evaluate(instance)
    for said in ("told of 3 regressions", "no new regression"):  # by turns, every night
        for number, place in enumerate(places):
            judge(instance, candidate=0.41 + 0.01 * number, place=place)
        cursor, found = evaluate(instance, cursor)
        assert found == said
    text = log_of(home)
    assert text.count("regression in fold 0") == 3
    assert "regression in fold 0 of mscmr_lge quick (2026-01-01): infarct" in text
