"""The run's folder by itself: what it says of a run, whose run it is, and that no run is lost with a folder."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd

from common.errors import InputError
from engine.outcome import Outcome
from engine.record import built_for, produce
from engine.tracking.run_folder import (
    OWN,
    RunFolder,
    RunNotes,
    Sent,
    discard,
    drop_when_told,
    run_folders,
    spool_folder,
)
from engine.tracking.tracker import Live
from runtime.report import TIME, course_row

ROOT = Path(__file__).parents[3]


def noted(folder: Path, key: str = "k", start_time: int = 1) -> RunFolder:
    run = RunFolder(folder)
    run.write(RunNotes(key, "a run", {"stage": "training"}, {"steps": "10"}, {}, start_time))
    return run


def sent(run: RunFolder) -> RunFolder:
    run.note_sent(Sent("id", run.digest()))
    return run


def test_the_course_is_the_training_s_and_the_machine_s_with_their_own_times(tmp_path: Path) -> None:
    run = noted(tmp_path)
    assert run.course() == []
    pd.DataFrame([{"step": 2, TIME: 10.5, "loss": 1 / 3, "dice": float("nan")}]).to_csv(
        tmp_path / "history.csv", index=False
    )
    (tmp_path / OWN / "system.jsonl").write_text('{"step": 1, "ti')  # a kill came in between
    run.note_system(2, {"system/cpu": 50.0})
    of_training, of_machine = run.course()
    assert (of_training.step, of_training.time, of_training.metrics) == (2, 10500, {"loss": 1 / 3})
    assert (of_machine.step, of_machine.metrics) == (2, {"system/cpu": 50.0})
    assert abs(of_machine.time - 1000 * time.time()) < 60_000
    row = course_row(3, {"loss": 0.5})
    assert (row["step"], row["loss"]) == (3.0, 0.5)


def test_a_value_of_the_course_that_the_disk_has_changed_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_text(f"step,{TIME},loss,dice\n1,1,0.5l,0.25\n2x,2,0.4,0.5\n3,3,0.25,0.75\n")
    course = RunFolder(tmp_path).course()
    assert [(row.step, row.metrics) for row in course] == [(1, {"dice": 0.25}), (3, {"loss": 0.25, "dice": 0.75})]


def test_a_run_is_sent_until_something_more_is_told(tmp_path: Path) -> None:
    run = noted(tmp_path)
    assert not run.is_sent()
    assert sent(run).is_sent()
    (tmp_path / "history.csv").write_text(f"step,{TIME},loss\n1,1,1\n")
    assert not run.is_sent()


def test_a_file_of_the_folder_stays_where_it_is_and_another_is_copied(tmp_path: Path) -> None:
    run = noted(tmp_path / "run")
    (tmp_path / "run" / "curves.png").write_bytes(b"own")
    (tmp_path / "page.html").write_text("then")
    assert run.copied(tmp_path / "run" / "curves.png") == "curves.png"
    place = run.copied(tmp_path / "page.html")
    (tmp_path / "page.html").write_text("now")
    assert (run.folder / place).read_text() == "then"


def test_a_run_is_its_own_process_s_until_that_dies(tmp_path: Path) -> None:
    run = noted(tmp_path)
    code = textwrap.dedent(
        f"""
        import os
        from pathlib import Path
        from engine.tracking.run_folder import RunFolder
        with RunFolder(Path({str(tmp_path)!r})).owned() as mine:
            print(mine, flush=True)
            input()
        """
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment, stdin=-1, stdout=-1, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "True\n"
        with run.owned() as mine:
            assert not mine
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        with run.owned() as mine:
            assert mine


def test_the_runs_of_a_workspace_are_found_also_in_hidden_folders_the_earliest_first(tmp_path: Path) -> None:
    noted(tmp_path / "emidec" / "quick" / "pix2pix" / ".fold_0.abc.partial", start_time=2)
    noted(tmp_path / "tracking_spool" / "x", start_time=1)
    noted(tmp_path / "mlflow_artifacts" / "y", start_time=0)  # a copy
    (tmp_path / "half" / OWN).mkdir(parents=True)
    (tmp_path / "half" / OWN / "run.json").write_text('{"key": "h')
    assert [run.folder.name for run in run_folders(tmp_path)] == ["x", ".fold_0.abc.partial"]


def test_a_bit_that_flips_in_what_is_told_of_a_run_tells_nothing(tmp_path: Path) -> None:
    """`FINHSHED` is no status, and a name of another letter would be believed; earlier versions wrote no digest."""
    run = RunFolder(tmp_path)
    run.write(RunNotes("k", "a run", {}, {}, {}, 1, 2, "FINISHED"))
    file = run.own / "run.json"
    told = file.read_bytes()
    file.write_bytes(told.replace(b"FINISHED", b"FINHSHED"))
    assert run.notes() is None
    file.write_text(json.dumps({key: value for key, value in json.loads(told).items() if "sha256" not in key}))
    notes = run.notes()
    assert notes is not None
    assert notes.status == "FINISHED"


def test_a_folder_that_mlflow_lacks_is_kept_beside_and_goes_when_it_has_been_told(tmp_path: Path) -> None:
    for _ in range(2):
        run = noted(tmp_path / "fold_0")
        (run.folder / "checkpoint").mkdir()
        discard(run.folder)
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == [".fold_0.untold_1", ".fold_0.untold_2"]
    first = RunFolder(tmp_path / kept[0])
    assert not (first.folder / "checkpoint").exists()
    drop_when_told(first, tmp_path / "spool")
    assert first.folder.exists()
    drop_when_told(sent(first), tmp_path / "spool")
    assert not first.folder.exists()


def test_a_folder_that_mlflow_has_or_has_nothing_to_do_with_is_deleted(tmp_path: Path) -> None:
    discard(sent(noted(tmp_path / "a")).folder)
    (tmp_path / "b").mkdir()
    discard(tmp_path / "b")
    discard(tmp_path / "never there")
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_run_without_an_asset_goes_when_mlflow_has_it(tmp_path: Path) -> None:
    run = noted(spool_folder(tmp_path / "spool", "night/1"))
    drop_when_told(run, tmp_path / "spool")
    assert run.folder.exists()
    drop_when_told(sent(run), tmp_path / "spool")
    assert not run.folder.exists()
    asset = sent(noted(tmp_path / "fold_0" / "seed_0"))
    drop_when_told(asset, tmp_path / "spool")
    assert asset.folder.exists()


def test_a_result_that_is_made_again_loses_no_run_and_takes_none_over(tmp_path: Path) -> None:
    place = tmp_path / "asset"

    def build(folder: Path) -> Outcome:
        noted(folder, "/".join(built_for(folder)))
        return Outcome({}, run_id="abc")

    produce(place, "asset", "one", build)
    assert RunFolder(place).notes().key == "asset/one"
    assert not (place / ".begun.json").exists()
    record, _ = produce(place, "asset", "two", lambda _: Outcome({}))
    assert record.outcome.run_id == ""
    assert RunFolder(place).notes() is None
    assert [run.notes().key for run in run_folders(tmp_path)] == ["asset/one"]
    assert record.files == {}


def test_a_folder_within_a_build_is_named_after_it(tmp_path: Path) -> None:
    names: list[tuple[str, str]] = []

    def build(folder: Path) -> Outcome:
        (folder / "utility").mkdir()
        names.append(built_for(folder / "utility"))
        return Outcome({})

    produce(tmp_path / "asset", "asset", "key", build, attempt="forced")
    assert names == [("asset/utility", "forced")]


def test_a_full_disk_below_the_thread_that_tells_mlflow_is_one_warning(tmp_path, caplog):
    def tell():
        raise InputError(f"{tmp_path}/sent.json: cannot be written; free disk space")

    live = object.__new__(Live)
    live._is_away = False
    live.publisher = SimpleNamespace(places=SimpleNamespace(uri="sqlite:///x"), run=RunFolder(tmp_path))
    live._publish(tell)
    said = f"what MLflow is to be told of {tmp_path} cannot be read or noted: {tmp_path}/sent.json: cannot be written"
    assert caplog.messages == [f"{said}; free disk space"]
