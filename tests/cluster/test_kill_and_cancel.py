"""A training on Ray that loses its worker, and one that is cancelled: neither loses its last checkpoint."""

import time

import psutil
import pytest

from tests.cluster.forge_on_ray import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

ASSETS = ["studies", "patient_split", "lv_localiser"]
EVERY = 20
LONG = ("localiser.steps=200000", f"localiser.validate_every={EVERY}")
CANCELLED_WITHIN_S = 10


def start_training(forge, fold, assets=ASSETS, past=0):
    """Launch a long training and return its run and its process once it has saved a checkpoint after step `past`."""
    run = forge.launch(fold, assets, *LONG)
    wait_until(lambda: forge.checkpoint_step("lv_localiser", fold) > past or over(forge, run), 600, "no checkpoint")
    assert not over(forge, run), forge.problems(run)
    (process,) = forge.trainings()
    return run, process


def over(forge, run):
    return forge.status(run) in ("FAILURE", "SUCCESS", "CANCELED")


def cancel(forge, run):
    """Cancel a run and return the seconds until nothing trains."""
    begin = time.monotonic()
    forge.cancel(run)
    wait_until(lambda: not forge.trainings(), 60, "the training goes on")
    seconds = time.monotonic() - begin
    assert forge.wait_for_end(run, 60) == "CANCELED"
    return seconds


def ray_worker_of(process):
    """Return Ray's own process above a step."""
    return next(parent for parent in process.parents() if parent.name().startswith("ray::"))


def test_a_cancelled_training_stops_within_ten_seconds_and_is_continued(forge):
    run, _ = start_training(forge, 1)
    assert cancel(forge, run) < CANCELLED_WITHIN_S
    kept = forge.checkpoint_step("lv_localiser", 1)
    assert kept >= EVERY
    again, _ = start_training(forge, 1, ["lv_localiser"], past=kept)  # and its slot in the pool was free
    assert forge.checkpoint_step("lv_localiser", 1) < kept + 100 * EVERY  # nothing trained in between
    assert cancel(forge, again) < CANCELLED_WITHIN_S


def test_a_step_whose_worker_is_killed_is_tried_again_from_its_checkpoint_and_never_twice_at_once(forge):
    run, first = start_training(forge, 2)
    kept = forge.checkpoint_step("lv_localiser", 2)
    ray_worker_of(first).kill()
    seen = []

    def continued():
        seen.append({process.pid for process in forge.trainings()})
        return any(pids - {first.pid} for pids in seen) and forge.checkpoint_step("lv_localiser", 2) > kept + EVERY

    wait_until(continued, 300, "the step was not tried again")
    assert not psutil.pid_exists(first.pid)
    assert max(len(pids) for pids in seen) == 1
    assert forge.events(run, "STEP_UP_FOR_RETRY") == forge.events(run, "STEP_RESTARTED") == ["lv_localiser"]
    assert cancel(forge, run) < CANCELLED_WITHIN_S
    assert forge.postgres.rows("mlflow", "SELECT count(*) FROM tags WHERE key = 'fold' AND value = '2'") == [(1,)]


def test_an_error_of_the_step_itself_is_told_and_not_tried_again(forge):
    run = forge.launch(3, ["studies"], "phantom.patients=-1")
    assert forge.wait_for_end(run, 300) == "FAILURE"
    assert forge.events(run, "STEP_UP_FOR_RETRY") == []
    assert forge.events(run, "STEP_FAILURE") == ["studies"]
    assert "phantom.patients" in forge.problems(run)
