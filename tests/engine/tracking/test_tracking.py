"""The tracker on a real SQLite store: what a run holds, and what survives when things go wrong."""

import os
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

from engine.tracking.store import connect
from engine.tracking.tracker import Tracker, pending_events, replay, tracking_places

ROOT = Path(__file__).parents[3]
pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")]

Start = Callable[..., Tracker]


@pytest.fixture
def start(prepared: Path) -> Start:
    places = tracking_places(prepared, {})

    def begin(key: str = "fold 0/attention_res_unet/real_only/0", uri: str = places.uri, **params: Any) -> Tracker:
        tags = {"stage": "training", "network": "attention_res_unet", "fold": "0", "scarforge_key": key}
        return Tracker.start(uri, "scarforge", "attention_res_unet", tags, params, places.spool, places.artifact_root)

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


def test_a_run_holds_what_it_was_told(start: Start, find: Any, history: Any, tmp_path: Path) -> None:
    curve = tmp_path / "curve.png"
    curve.write_bytes(b"png")
    rows = pd.DataFrame({"case_id": ["a", "b"], "slice_index": [0, 1]})
    with start(train={"learning_rate": 1e-3, "steps": 10}, seed=0) as tracker:
        assert tracker.run_id is not None
        assert tracker.url() is None
        for epoch in range(3):
            tracker.metrics(epoch, {"loss/train": 1.0 / (epoch + 1)})
        tracker.final({"dice/positive/infarct": 0.5})
        tracker.dataset("training_set_real_only", "0123abcd", str(tmp_path), "training", rows)
        tracker.artifact(curve, "curves")
        curve.unlink()
    (run,) = find()
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "attention_res_unet"
    assert run.data.params == {"train.learning_rate": "0.001", "train.steps": "10", "seed": "0"}
    assert run.data.tags["stage"] == "training"
    assert run.data.metrics["dice/positive/infarct"] == 0.5
    assert [(metric.step, metric.value) for metric in history(run.info.run_id, "loss/train")] == [
        (0, 1.0),
        (1, 0.5),
        (2, 1.0 / 3),
    ]
    assert run.data.metrics["system/system_memory_usage_megabytes"] > 0
    assert "system/cpu_utilization_percentage" in run.data.metrics
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("training_set_real_only", "0123abcd")
    assert dataset.tags[0].value == "training"
    saved = tmp_path / "mlflow_artifacts" / run.info.run_id / "artifacts" / "curves" / "curve.png"
    assert saved.read_bytes() == b"png"
    assert pending_events(tmp_path / "tracking_spool") == 0


def test_the_same_key_continues_the_run_and_repeats_no_step(start: Start, find: Any, history: Any) -> None:
    first = start(seed=0)
    for epoch in range(4):
        first.metrics(epoch, {"loss": float(epoch)})
    first.end("KILLED")
    second = start(seed=0)
    assert second.run_id == first.run_id
    for epoch in range(2, 6):  # from its checkpoint
        second.metrics(epoch, {"loss": float(epoch)})
    second.end()
    (run,) = find()
    assert run.info.status == "FINISHED"
    assert [metric.step for metric in history(run.info.run_id, "loss")] == [0, 1, 2, 3, 4, 5]


def test_another_key_or_none_is_another_run(start: Start, find: Any, prepared: Path) -> None:
    places = tracking_places(prepared, {})
    start("fold 0").end()
    start("fold 0'; DROP TABLE runs; --").end()
    start("fold 0'; DROP TABLE runs; --").end()
    for _ in range(2):
        Tracker.start(places.uri, "scarforge", "other", {}, {}, places.spool, places.artifact_root).end()
    assert len(find()) == 4


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


def test_an_event_that_the_store_refuses_stops_no_other(start: Start, find: Any, prepared: Path) -> None:
    with start() as tracker:
        tracker.metrics(0, {"good": 1.0, "not allowed: 'ä'?!": 2.0})
        tracker.metrics(1, {"good": 3.0})
        tracker.artifact(prepared / "never_written.png")
        tracker._tell("of another version")
    (run,) = find()
    assert run.data.metrics["good"] == 3.0
    assert run.info.status == "FINISHED"
    rejected = next((prepared / "tracking_spool" / "rejected").iterdir()).read_text()
    assert "not allowed" in rejected
    assert "never_written.png" in rejected
    assert "of another version" in rejected


def test_a_locked_database_is_tried_again(start: Start, find: Any, prepared: Path) -> None:
    tracker = start()
    with_lock = sqlite3.connect(prepared / "mlflow.db", isolation_level=None)
    with_lock.execute("BEGIN EXCLUSIVE")
    began = time.monotonic()
    for epoch in range(3):
        tracker.metrics(epoch, {"loss": float(epoch)})
    assert time.monotonic() - began < 1.0
    with_lock.execute("ROLLBACK")
    with_lock.close()
    tracker.end()
    (run,) = find()
    assert run.data.metrics["loss"] == 2.0
    assert run.info.status == "FINISHED"


def test_a_killed_process_loses_nothing_and_its_run_is_closed(find: Any, history: Any, prepared: Path) -> None:
    places = tracking_places(prepared, {})
    code = textwrap.dedent(
        f"""
        import os, pathlib
        from engine.tracking.tracker import Tracker
        spool = pathlib.Path({str(places.spool)!r})
        root = pathlib.Path({str(places.artifact_root)!r})
        tags = {{"scarforge_key": "k"}}
        tracker = Tracker.start("http://127.0.0.1:9", "scarforge", "n", tags, {{"a": 1}}, spool, root)
        for epoch in range(5):
            tracker.metrics(epoch, {{"loss": epoch}})
        os.kill(os.getpid(), {signal.SIGKILL.value})
        """
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == -signal.SIGKILL
    before = int(time.time() * 1000)
    assert pending_events(places.spool) == 6
    assert replay(places.spool, places.uri) == 7
    assert replay(places.spool, places.uri) == 0
    (run,) = find()
    points = history(run.info.run_id, "loss")
    assert [point.step for point in points] == [0, 1, 2, 3, 4]
    assert all(point.timestamp < before for point in points)
    assert run.info.status == "KILLED"
    assert run.data.params == {"a": "1"}


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
