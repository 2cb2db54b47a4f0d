"""The tracker and a real server that is not there, hangs, is killed and comes back."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.tracking.publish import StoreAwayError, publish, waiting_runs
from engine.tracking.store import connect, tracking_places
from engine.tracking.tracker import Tracker
from tests.engine.tracking.test_tracking import trained
from tests.mlflow_stores import told

ROOT = Path(__file__).parents[3]
pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")]


def begin(uri: str, home: Path, key: str = "k") -> Tracker:
    return Tracker.of(told(home, key, home / "models" / key, uri, "pix2pix", params={"a": 1}))


@contextlib.contextmanager
def timed(seconds: list[float] | None = None) -> Iterator[list[float]]:
    seconds, began = [] if seconds is None else seconds, time.monotonic()
    yield seconds
    seconds.append(time.monotonic() - began)


@pytest.mark.parametrize("hangs", [False, True])
def test_a_server_that_is_down_or_hangs_costs_a_training_less_than_a_second(
    tmp_path: Path, silent_uri: str, hangs: bool
) -> None:
    uri = silent_uri if hangs else "http://127.0.0.1:9"
    begin(uri, tmp_path, "warm").end()  # imports what has to be imported
    with timed() as waited:
        tracker = begin(uri, tmp_path)
    for step in range(20):
        (tracker._run.folder / "history.csv").write_text(f"step,unix_time_s,loss\n{step},{step},1.0\n")
        with timed(waited):
            tracker.progress(step)
    with timed() as ending:
        tracker.end("KILLED")
    assert sum(waited) < 1.0
    assert sum(ending) < 2.5  # the accelerator is free by then
    assert not tracker.run_id
    assert waiting_runs(tracking_places(tmp_path, {"MLFLOW_TRACKING_URI": uri})) == 2
    with pytest.raises(StoreAwayError, match="is not available"):
        publish(tmp_path / "models" / "k", tracking_places(tmp_path, {"MLFLOW_TRACKING_URI": uri}))


@pytest.mark.slow
def test_a_server_that_comes_and_goes_gets_each_value_once(mlflow_server: Any, tmp_path: Path) -> None:
    home, curve = tmp_path / "home", tmp_path / "curve.png"
    places = tracking_places(home, {"MLFLOW_TRACKING_URI": mlflow_server.uri})
    curve.write_bytes(b"png")
    with begin(mlflow_server.uri, home, key="earlier") as earlier:  # before the server is there
        trained(earlier, range(7, 8))

    mlflow_server.start()
    tracker = begin(mlflow_server.uri, home, key="later")
    training = trained(tracker, range(5))
    _wait_until(lambda: waiting_runs(places) == 1)  # the next run sends what the earlier one could not
    _wait_until(lambda: _loss(mlflow_server.uri, "later") == 4.0)
    mlflow_server.kill()
    for epoch in range(5, 10):
        training.step(epoch, loss=float(epoch))
    tracker.artifact(curve, "curves")
    tracker.end()
    assert waiting_runs(places) == 1
    told_at = int(time.time() * 1000)

    mlflow_server.start()
    assert sum(_replay_in_two_processes(home, mlflow_server.uri)) == 1
    assert waiting_runs(places) == 0
    runs = {run.data.tags["scarforge_key"]: run for run in _all_runs(mlflow_server.uri)}
    assert {key: run.info.status for key, run in runs.items()} == {"earlier": "FINISHED", "later": "FINISHED"}
    assert runs["earlier"].data.metrics["loss"] == 7.0
    assert runs["later"].info.run_id == tracker.run_id
    client = connect(mlflow_server.uri)
    points = client.get_metric_history(tracker.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(step, float(step)) for step in range(10)]
    assert all(point.timestamp <= told_at for point in points)
    assert client.get_run(tracker.run_id).info.artifact_uri.startswith("mlflow-artifacts:")
    artifacts = client.list_artifacts(tracker.run_id, "curves")
    assert [artifact.path for artifact in artifacts] == ["curves/curve.png"]


def _loss(uri: str, key: str) -> float | None:
    found = [run.data.metrics.get("loss") for run in _all_runs(uri) if run.data.tags["scarforge_key"] == key]
    return found[0] if found else None


def _all_runs(uri: str) -> list[Any]:
    client = connect(uri)
    experiment = client.get_experiment_by_name("scarforge")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def _replay_in_two_processes(home: Path, uri: str) -> list[int]:
    code = (
        "from pathlib import Path; from engine.tracking.publish import replay; "
        "from engine.tracking.store import tracking_places; "
        f"print(replay(tracking_places(Path({str(home)!r}), {{'MLFLOW_TRACKING_URI': {uri!r}}})))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    return [int(process.communicate(timeout=60)[0]) for process in processes]


def _wait_until(condition: Any, seconds: float = 20.0) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.1)
