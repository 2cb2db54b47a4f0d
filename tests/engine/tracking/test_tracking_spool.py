"""The spool by itself: nothing is lost, nothing is read half, one sender at a time."""

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

from engine.tracking.spool import RunSpool, pending_events, run_spools

HEADER = {"name": "a", "tags": {"scarforge_key": "k"}}


def opened(spool: Path, key: str = "fold 0/pix2pix") -> RunSpool:
    run = RunSpool.of_key(spool, key)
    run.open(HEADER, {"kind": "open"})
    return run


def test_keys_that_look_alike_on_disk_have_folders_of_their_own(tmp_path: Path) -> None:
    assert RunSpool.of_key(tmp_path, "a/b").folder != RunSpool.of_key(tmp_path, "a-b").folder
    assert RunSpool.of_key(tmp_path, "a/b").folder == RunSpool.of_key(tmp_path, "a/b").folder


def test_events_come_back_in_order_with_their_own_time(tmp_path: Path) -> None:
    run = opened(tmp_path)
    before = int(time.time() * 1000)
    for step in range(3):
        run.append({"kind": "metrics", "step": step, "values": {"loss": float("nan")}})
    with run.sending() as allowed:
        assert allowed
        events = run.claim()
    assert [event["kind"] for event in events] == ["open", "metrics", "metrics", "metrics"]
    assert [event["step"] for event in events[1:]] == [0, 1, 2]
    assert before - 10_000 < events[0]["time"] <= events[-1]["time"]
    assert len({event["id"] for event in events}) == 4


def test_what_was_claimed_and_not_sent_comes_first_the_next_time(tmp_path: Path) -> None:
    run = opened(tmp_path)
    run.append({"kind": "metrics", "step": 1})
    with run.sending():
        first = run.claim()
        run.append({"kind": "metrics", "step": 2})
        run.keep(first[1:], ended=False)
    assert run.pending() == 2
    with run.sending():
        again = run.claim()
        assert [event["step"] for event in again] == [1]
        run.keep([], ended=False)
        assert [event["step"] for event in run.claim()] == [2]


def test_only_one_sends(tmp_path: Path) -> None:
    run = opened(tmp_path)
    with run.sending() as first, RunSpool(run.folder).sending() as second:
        assert first
        assert not second
    with RunSpool(run.folder).sending() as afterwards:
        assert afterwards


def test_half_a_line_of_a_killed_process_spoils_no_other(tmp_path: Path) -> None:
    run = opened(tmp_path)
    with (run.folder / "events.jsonl").open("a") as file:
        file.write('{"kind": "metrics", "st')
    run.append({"kind": "metrics", "step": 7})
    with run.sending():
        events = run.claim()
    assert [event["kind"] for event in events] == ["open", "metrics"]
    rejected = json.loads((tmp_path / "rejected" / f"{run.folder.name}.jsonl").read_text())
    assert rejected["line"].startswith('{"kind": "metrics", "st')


def test_the_folder_goes_when_an_ended_run_has_told_all(tmp_path: Path) -> None:
    run = opened(tmp_path)
    run.append({"kind": "end", "status": "FINISHED"})
    with run.sending():
        run.claim()
        run.keep([], ended=True)
    assert not run.folder.exists()
    assert list(run_spools(tmp_path)) == []


def test_the_folder_stays_when_something_arrived_meanwhile(tmp_path: Path) -> None:
    run = opened(tmp_path)
    with run.sending():
        run.claim()
        run.append({"kind": "open"})
        run.keep([], ended=True)
    assert pending_events(tmp_path) == 1


def test_a_copy_keeps_what_the_file_held_and_leaves_checkpoints_out(tmp_path: Path) -> None:
    run = opened(tmp_path / "spool")
    model = tmp_path / "model"
    (model / "checkpoint").mkdir(parents=True)
    (model / "config.json").write_text("then")
    place = run.copy(model)
    (model / "config.json").write_text("now")
    assert (run.folder / place / "config.json").read_text() == "then"
    assert not (run.folder / place / "checkpoint").exists()
    run.discard(place)
    assert not (run.folder / place).exists()
    assert (model / "config.json").exists()


def test_a_folder_on_its_way_out_is_no_run(tmp_path: Path) -> None:
    run = opened(tmp_path)
    run.folder.rename(tmp_path / ".0123")
    assert list(run_spools(tmp_path)) == []


def test_discarding_never_touches_a_file_outside_the_spool(tmp_path: Path) -> None:
    run = opened(tmp_path / "spool")
    outside = tmp_path / "curve.png"
    outside.write_bytes(b"png")
    run.discard(str(outside))
    assert outside.exists()


def test_a_live_run_is_not_closed_for_its_owner(tmp_path: Path) -> None:
    run = opened(tmp_path)
    RunSpool(run.folder).close_if_abandoned()
    assert run.pending() == 1
    run.release()
    RunSpool(run.folder).close_if_abandoned()
    RunSpool(run.folder).close_if_abandoned()
    with run.sending():
        assert [event.get("status") for event in run.claim()] == [None, "KILLED"]


def test_many_processes_append_at_once_and_no_line_is_lost(tmp_path: Path) -> None:
    run = opened(tmp_path)
    code = textwrap.dedent(
        f"""
        from pathlib import Path
        from engine.tracking.spool import RunSpool
        run = RunSpool(Path({str(run.folder)!r}))
        for step in range(50):
            run.append({{"kind": "metrics", "step": step, "values": {{"a": 1.0}}}})
        """
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    processes = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(3)]
    claimed = 0
    while any(process.poll() is None for process in processes):
        claimed += _take_all(run)
    claimed += _take_all(run)
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert claimed == 1 + 3 * 50


def _take_all(run: RunSpool) -> int:
    with run.sending():
        count = len(run.claim())
        run.keep([], ended=False)
    return count
