"""The tracker on a real SQLite store: what a run holds, and what survives when things go wrong."""

import errno
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from engine.tracking.publish import publish, replay, waiting_runs
from engine.tracking.run_folder import RunFolder
from engine.tracking.store import connect, tracking_places
from engine.tracking.tracker import Tracker
from runtime.report import course_row
from tests.mlflow_stores import told

ROOT = Path(__file__).parents[3]
pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")]

Start = Callable[..., Tracker]


class Training:
    """Writes a training's course as the training loops do, and tells the tracker."""

    def __init__(self, tracker: Tracker, folder: Path) -> None:
        self.tracker, self.folder, self.rows = tracker, folder, list[dict[str, float]]()

    def step(self, step: int, **metrics: float) -> None:
        self.rows.append(course_row(step, metrics))
        pd.DataFrame(self.rows).astype({"step": int}).to_csv(self.folder / "history.csv", index=False)
        self.tracker.progress(step)


@pytest.fixture
def start(prepared: Path) -> Start:
    def begin(key: str = "attention_res_unet/fold_0/seed_0/abc", uri: str = "", **params: Any) -> Tracker:
        folder = prepared / "models" / key.replace("/", "_")
        return Tracker.of(told(prepared, key, folder, uri, "attention_res_unet", params=params))

    return begin


@pytest.fixture
def find(prepared: Path) -> Callable[[], list[Any]]:
    client = connect(tracking_places(prepared, {}).uri)
    number = client.get_experiment_by_name("scarforge").experiment_id
    return lambda: list(client.search_runs([number]))


@pytest.fixture
def history(prepared: Path) -> Callable[[str, str], list[Any]]:
    client = connect(tracking_places(prepared, {}).uri)
    return lambda run_id, key: client.get_metric_history(run_id, key)


def trained(tracker: Tracker, steps: range) -> Training:
    training = Training(tracker, tracker._run.folder)
    for step in steps:
        training.step(step, loss=float(step))
    return training


def test_a_run_holds_what_it_was_told(start: Start, find: Any, history: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_bytes(b"page")
    rows = pd.DataFrame({"case_id": ["a", "b"], "slice_index": [0, 1]})
    with start(train={"learning_rate": 1e-3}, seed=0) as tracker:
        training = Training(tracker, tracker._run.folder)
        for epoch in range(3):
            training.step(epoch, loss=1.0 / (epoch + 1))
        tracker.final({"dice/positive/infarct": 0.5})
        tracker.dataset("training_set_real_only", "0123abcd", str(tmp_path), "training", rows)
        tracker.artifact(page, "pages")
        tracker.artifact(training.folder / "history.csv")
        page.unlink()
    (run,) = find()
    assert (run.info.run_id, run.info.status) == (tracker.run_id, "FINISHED")
    assert run.info.run_name == "attention_res_unet"
    assert run.data.params == {"train": "{'learning_rate': 0.001}", "seed": "0"}
    assert run.data.tags["stage"] == "training"
    assert run.data.tags["scarforge_key"] == "attention_res_unet/fold_0/seed_0/abc"
    assert run.data.metrics["dice/positive/infarct"] == 0.5
    points = history(run.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in points] == [(0, 1.0), (1, 0.5), (2, 1.0 / 3)]
    assert [metric.timestamp for metric in points] == [round(1000 * row["unix_time_s"]) for row in training.rows]
    assert run.data.metrics["system/system_memory_usage_megabytes"] > 0
    assert len(history(run.info.run_id, "system/cpu_utilization_percentage")) == 3
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("training_set_real_only", "0123abcd")
    assert dataset.tags[0].value == "training"
    artifacts = tmp_path / "mlflow_artifacts" / run.info.run_id / "artifacts"
    assert (artifacts / "pages" / "page.html").read_bytes() == b"page"
    assert (artifacts / "history.csv").exists()
    assert waiting_runs(tracking_places(tmp_path, {})) == 0


def test_values_arrive_while_the_training_goes_on(start: Start, find: Any) -> None:
    tracker = start()
    trained(tracker, range(2))
    _wait_until(lambda: find() and find()[0].data.metrics.get("loss") == 1.0)
    assert find()[0].info.status == "RUNNING"
    tracker.end()


def test_the_same_key_continues_the_run_and_repeats_no_step(start: Start, find: Any, history: Any) -> None:
    first = start(seed=0)
    training = trained(first, range(4))
    first.end("KILLED")
    second = start(seed=0)
    training.tracker, training.rows = second, training.rows[:2]  # from its checkpoint
    for epoch in range(2, 6):
        training.step(epoch, loss=float(epoch))
    second.end()
    (run,) = find()
    assert run.info.status == "FINISHED"
    assert [metric.step for metric in history(run.info.run_id, "loss")] == [0, 1, 2, 3, 4, 5]
    system = history(run.info.run_id, "system/process_memory_megabytes")
    assert [metric.step for metric in system] == [0, 1, 2, 3, 4, 5]


def test_another_key_is_another_run(start: Start, find: Any) -> None:
    start("fold 0").end()
    start("fold 0'; DROP TABLE runs; --").end()
    start("fold 0'; DROP TABLE runs; --").end()
    assert len(find()) == 2


def test_publishing_twice_leaves_the_store_as_doing_it_once(
    start: Start, find: Any, history: Any, prepared: Path
) -> None:
    places = tracking_places(prepared, {})
    with start() as tracker:
        trained(tracker, range(3))
        tracker.final({"images_per_second": 7.0, "loss": 0.5})  # also a name of the course
    before = find()[0]
    assert replay(places) == 0
    assert publish(tracker._run.folder, places) == tracker.run_id
    (run,) = find()
    assert (run.info.status, run.info.end_time) == ("FINISHED", before.info.end_time)
    points = history(run.info.run_id, "loss")
    assert sorted((point.step, point.value) for point in points) == [(0, 0.0), (0, 0.5), (1, 1.0), (2, 2.0)]
    assert len(history(run.info.run_id, "images_per_second")) == 1
    assert len(history(run.info.run_id, "system/process_memory_megabytes")) == 3


def test_a_store_that_was_lost_is_filled_again_from_the_folders(
    start: Start, prepared: Path, empty_store: Path
) -> None:
    places = tracking_places(prepared, {})
    with start() as tracker:
        trained(tracker, range(3))
    shutil.copy2(empty_store, prepared / "mlflow.db")
    fresh = tracking_places(prepared, {"MLFLOW_TRACKING_URI": f"sqlite:///{prepared}/new.db"})
    shutil.copy2(empty_store, prepared / "new.db")
    assert replay(fresh, every=False) == 0  # a run after that does not
    assert replay(fresh) == 1
    client = connect(fresh.uri)
    (run,) = client.search_runs([client.get_experiment_by_name("scarforge").experiment_id])
    assert len(client.get_metric_history(run.info.run_id, "loss")) == 3
    assert RunFolder(tracker._run.folder).sent().run_id == run.info.run_id
    assert places.home == prepared


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")]
)
def test_the_status_tells_how_it_ended(start: Start, find: Any, error: type[BaseException], status: str) -> None:
    with pytest.raises(error), start():
        raise error
    (run,) = find()
    assert run.info.status == status


def test_changed_parameters_of_a_resumed_run_are_kept_as_they_were(
    start: Start, find: Any, caplog: pytest.LogCaptureFixture
) -> None:
    start(steps=10).end()
    start(steps=20, extra=1).end()
    (run,) = find()
    assert run.data.params == {"steps": "10", "extra": "1"}
    assert "other values of ['steps']" in caplog.text


def test_more_parameters_than_one_request_holds(start: Start, find: Any) -> None:
    start(**{f"p{number}": number for number in range(250)}).end()
    (run,) = find()
    assert len(run.data.params) == 250


def test_what_the_store_refuses_or_is_gone_stops_nothing_else(
    start: Start, find: Any, prepared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with start() as tracker:
        training = Training(tracker, tracker._run.folder)
        training.step(0, **{"good": 1.0, "not allowed: 'ä'?!": 2.0})
        training.step(1, good=3.0)
        tracker.dataset("d" * 600, "0123abcd", str(prepared), "training", pd.DataFrame({"case_id": ["a"]}))
        tracker.artifact(training.folder / "never_written.png")
    (run,) = find()
    assert run.data.metrics["good"] == 3.0
    assert run.data.metrics["not allowed: _____"] == 2.0
    assert run.info.status == "FINISHED"
    assert "MLflow refuses the dataset" in caplog.text
    assert "never_written.png: is gone" in caplog.text
    assert waiting_runs(tracking_places(prepared, {})) == 0


def test_a_locked_database_is_tried_again(start: Start, find: Any, prepared: Path) -> None:
    tracker = start()
    _wait_until(lambda: tracker.run_id)
    with_lock = sqlite3.connect(prepared / "mlflow.db", isolation_level=None)
    with_lock.execute("BEGIN EXCLUSIVE")
    began = time.monotonic()
    trained(tracker, range(3))
    assert time.monotonic() - began < 1.0
    with_lock.execute("ROLLBACK")
    with_lock.close()
    tracker.end()
    (run,) = find()
    assert run.data.metrics["loss"] == 2.0
    assert run.info.status == "FINISHED"


def test_a_database_that_stays_locked_costs_seconds_and_loses_nothing(start: Start, find: Any, prepared: Path) -> None:
    with_lock = sqlite3.connect(prepared / "mlflow.db", isolation_level=None)
    with_lock.execute("BEGIN EXCLUSIVE")
    tracker = start()
    trained(tracker, range(3))
    began = time.monotonic()
    tracker.end()
    assert time.monotonic() - began < 8.0
    with_lock.execute("ROLLBACK")
    with_lock.close()
    places = tracking_places(prepared, {})
    _wait_until(lambda: replay(places) or not waiting_runs(places))  # or the thread comes first
    (run,) = find()
    assert (run.data.metrics["loss"], run.info.status) == (2.0, "FINISHED")


def test_a_full_disk_stops_no_training(start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    tracker = start()
    monkeypatch.setattr("engine.tracking.run_folder.write_sealed", full)
    monkeypatch.setattr(RunFolder, "note_system", full)
    tracker.progress(1)
    tracker.final({"dice": 1.0})
    tracker.end()
    assert "what MLflow should be told is lost: [Errno 28]" in caplog.text


def test_a_killed_process_loses_nothing_and_its_run_is_closed(find: Any, history: Any, prepared: Path) -> None:
    places, folder = tracking_places(prepared, {}), prepared / ".seed_0.abc.partial"
    values = told(prepared, "k", folder, "http://127.0.0.1:9", "n", params={"a": 1})
    code = textwrap.dedent(
        f"""
        import os, pathlib
        from engine.tracking.tracker import Tracker
        from tests.engine.tracking.test_tracking import trained
        trained(Tracker.of({values!r}), range(5))
        os.kill(os.getpid(), {signal.SIGKILL.value})
        """
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == -signal.SIGKILL
    before = int(time.time() * 1000)
    assert waiting_runs(places) == 1
    assert replay(places) == 1
    assert replay(places) == 0
    (run,) = find()
    points = history(run.info.run_id, "loss")
    assert [point.step for point in points] == [0, 1, 2, 3, 4]
    assert all(point.timestamp < before for point in points)
    assert (run.info.status, run.info.end_time) == ("KILLED", max(_times(history, run.info.run_id)))
    assert run.data.params == {"a": "1"}
    resumed = Tracker.of(told(prepared, "k", folder, name="n"))
    training = Training(resumed, folder)
    training.rows = [course_row(step, {"loss": float(step)}) for step in range(4)]
    for step in (4, 5):
        training.step(step, loss=float(step))
    resumed.end()
    (run,) = find()
    assert run.info.status == "FINISHED"
    assert [point.step for point in history(run.info.run_id, "loss")] == [0, 1, 2, 3, 4, 5]


def _times(history: Any, run_id: str) -> list[int]:
    names = ("loss", "system/process_memory_megabytes")
    return [point.timestamp for name in names for point in history(run_id, name)]


def _wait_until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.1)


class Doubling(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 2, 3, padding=1)
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.layer(images))


def unexportable() -> torch.nn.Module:
    class Branching(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images + 1 if images.sum().item() > 0 else images - 1

    return Branching()


@pytest.mark.slow
def test_a_model_can_be_loaded_for_any_batch_and_without_dropout(start: Start, find: Any, tmp_path: Path) -> None:
    import mlflow.pytorch

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model_card.json").write_text("{}")
    example = np.zeros((2, 1, 16, 16), np.float32)
    module = Doubling()
    with start() as tracker:
        tracker.model(folder, lambda: module, example, "attention_res_unet")
    publish(tracker._run.folder, tracking_places(tmp_path, {}))  # the model is there already
    (run,) = find()
    (output,) = run.outputs.model_outputs
    client = connect(tracking_places(tmp_path, {}).uri)
    logged = client.get_logged_model(output.model_id)
    assert (logged.name, str(logged.status), logged.source_run_id) == (
        "attention_res_unet",
        "READY",
        run.info.run_id,
    )
    location = logged.artifact_location.removeprefix("file://")
    loaded = mlflow.pytorch.load_model(location)
    images = torch.rand(5, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), module.eval()(images))
    text = (Path(location) / "MLmodel").read_text()
    assert output.model_id in text
    assert "signature" in text
    assert "torch==" in (Path(location) / "requirements.txt").read_text()


def test_a_network_that_cannot_be_exported_is_logged_as_its_folder(
    start: Start, find: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(b"weights")
    with start() as tracker:
        tracker.model(folder, unexportable, np.zeros((2, 1, 8, 8), np.float32), "pix2pix")
    (run,) = find()
    saved = tmp_path / "mlflow_artifacts" / run.info.run_id / "artifacts" / "model" / "weights.safetensors"
    assert saved.read_bytes() == b"weights"
    assert "pix2pix cannot be exported" in caplog.text
