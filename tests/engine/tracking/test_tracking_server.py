"""The tracker and a real server that is not there, hangs, is killed and comes back."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from engine.tracking import sender as tracking_sender
from engine.tracking.store import connect
from engine.tracking.tracker import Tracker, pending_events

ROOT = Path(__file__).parents[3]
pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")]


def begin(uri: str, spool: Path, key: str = "k") -> Tracker:
    return Tracker.start(
        uri, "scarforge", "pix2pix", {"scarforge_key": key, "stage": "training"}, {"a": 1}, spool, spool
    )


def test_a_server_that_is_down_costs_seconds_and_loses_nothing(tmp_path: Path) -> None:
    began = time.monotonic()
    with begin("http://127.0.0.1:9", tmp_path) as tracker:
        assert tracker.run_id is None
        for epoch in range(20):
            tracker.metrics(epoch, {"loss": 1.0})
    assert time.monotonic() - began < 8.0
    assert pending_events(tmp_path) == 22


def test_a_server_that_hangs_stalls_no_epoch(tmp_path: Path, silent_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_sender, "_PATIENCE_S", 1.0)
    began = time.monotonic()
    tracker = begin(silent_uri, tmp_path)
    assert time.monotonic() - began < 4.0
    began = time.monotonic()
    for epoch in range(20):
        tracker.metrics(epoch, {"loss": 1.0})
    assert time.monotonic() - began < 2.0
    tracker.end("KILLED")
    assert time.monotonic() - began < 5.0
    assert pending_events(tmp_path) == 22


@pytest.mark.slow
def test_a_server_that_comes_and_goes_gets_each_value_once(mlflow_server: Any, tmp_path: Path) -> None:
    spool, curve = tmp_path / "spool", tmp_path / "curve.png"
    curve.write_bytes(b"png")
    with begin(mlflow_server.uri, spool, key="earlier") as earlier:  # before the server is there
        earlier.metrics(3, {"loss": 7.0})

    mlflow_server.start()
    tracker = begin(mlflow_server.uri, spool, key="later")
    assert tracker.run_id is not None
    assert (tracker.url() or "").startswith(f"{mlflow_server.uri}/#/experiments/")
    for epoch in range(5):
        tracker.metrics(epoch, {"loss": float(epoch)})
    _wait_until(lambda: pending_events(spool) == 0)  # the next run sends what the earlier one could not
    mlflow_server.kill()
    for epoch in range(5, 10):
        tracker.metrics(epoch, {"loss": float(epoch)})
    tracker.artifact(curve, "curves")
    tracker.end()
    assert pending_events(spool) > 0
    told = int(time.time() * 1000)

    mlflow_server.start()
    assert sum(_replay_in_two_processes(spool, mlflow_server.uri)) > 0
    assert pending_events(spool) == 0
    runs = {run.data.tags["scarforge_key"]: run for run in _all_runs(mlflow_server.uri)}
    assert {key: run.info.status for key, run in runs.items()} == {"earlier": "FINISHED", "later": "FINISHED"}
    assert runs["earlier"].data.metrics["loss"] == 7.0
    assert runs["later"].info.run_id == tracker.run_id
    client = connect(mlflow_server.uri)
    points = client.get_metric_history(str(tracker.run_id), "loss")
    assert [(point.step, point.value) for point in points] == [(step, float(step)) for step in range(10)]
    assert all(point.timestamp <= told for point in points)
    assert client.get_run(str(tracker.run_id)).info.artifact_uri.startswith("mlflow-artifacts:")
    artifacts = client.list_artifacts(str(tracker.run_id), "curves")
    assert [artifact.path for artifact in artifacts] == ["curves/curve.png"]


def _all_runs(uri: str) -> list[Any]:
    client = connect(uri)
    return list(client.search_runs([client.get_experiment_by_name("scarforge").experiment_id]))


def _replay_in_two_processes(spool: Path, uri: str) -> list[int]:
    imports = "from pathlib import Path; from engine.tracking.sender import replay"
    code = f"{imports}; print(replay(Path({str(spool)!r}), {uri!r}))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    return [int(process.communicate(timeout=60)[0]) for process in processes]


def _wait_until(condition: Any, seconds: float = 20.0) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.1)
