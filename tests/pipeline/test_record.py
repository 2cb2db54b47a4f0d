import errno
import multiprocessing
import os
import time

import pytest

from imaging.errors import InputError
from pipeline import record as record_module
from pipeline.outcome import Check, Outcome, number
from pipeline.record import cache_key, partial_name, produce, read_record


def writes(text, calls):
    def build(folder):
        calls.append(folder)
        (folder / "result.txt").write_text(text)
        return Outcome({"size": number(len(text))}, (Check("fits", True, {"limit": 3}),))

    return build


def test_a_second_run_with_the_same_key_returns_the_first_result(tmp_path):
    calls = []
    first, found_first = produce(tmp_path / "asset", "asset", "key", writes("one", calls))
    second, found_second = produce(tmp_path / "asset", "asset", "key", writes("two", calls))
    assert (found_first, found_second) == (False, True)
    assert len(calls) == 1
    assert second == first


def test_another_key_builds_anew_and_changes_the_version(tmp_path):
    first, _ = produce(tmp_path / "asset", "asset", "key", writes("one", []))
    second, found = produce(tmp_path / "asset", "asset", "other", writes("two", []))
    assert not found
    assert second.data_version != first.data_version
    assert (tmp_path / "asset" / "result.txt").read_text() == "two"


def test_equal_results_have_equal_versions(tmp_path):
    first, _ = produce(tmp_path / "a", "asset", "key", writes("one", []))
    second, _ = produce(tmp_path / "b", "asset", "another key", writes("one", []))
    assert first.data_version == second.data_version


def test_the_run_id_and_the_speed_of_a_training_are_no_part_of_its_version(tmp_path):
    def trains(run_id):
        def build(folder):
            (folder / "weights").write_text("equal")
            (folder / "training_result.json").write_text(f'{{"run_id": "{run_id}"}}')
            return Outcome({})

        return build

    first, _ = produce(tmp_path / "a", "asset", "key", trains("one"))
    second, _ = produce(tmp_path / "b", "asset", "key", trains("two"))
    assert first.data_version == second.data_version
    assert first.files != second.files


@pytest.mark.parametrize("damage", ["edit", "delete", "add"])
def test_a_hand_edited_result_is_built_again(tmp_path, damage):
    produce(tmp_path / "asset", "asset", "key", writes("one", []))
    target = tmp_path / "asset" / "result.txt"
    if damage == "edit":
        target.write_text("two")
    elif damage == "delete":
        target.unlink()
    else:
        (tmp_path / "asset" / "stray.txt").write_text("?")
    _, found = produce(tmp_path / "asset", "asset", "key", writes("one", []))
    assert not found
    assert target.read_text() == "one"


def test_a_failed_build_leaves_nothing_under_the_final_name_and_is_continued(tmp_path):
    def fails(folder):
        (folder / "checkpoint").write_text("half way")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        produce(tmp_path / "asset", "asset", "key", fails)
    assert not (tmp_path / "asset").exists()
    found = []

    def continues(folder):
        found.append((folder / "checkpoint").read_text())
        return Outcome({})

    produce(tmp_path / "asset", "asset", "key", continues)
    assert found == ["half way"]


def test_what_a_killed_build_with_another_key_left_is_not_continued(tmp_path):
    def fails(folder):
        (folder / "checkpoint").write_text("old settings")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        produce(tmp_path / "asset", "asset", "old", fails)
    produce(tmp_path / "asset", "asset", "new", writes("one", []))
    assert sorted(path.name for path in (tmp_path / "asset").iterdir()) == ["record.json", "result.txt"]
    assert not list(tmp_path.glob(".*partial"))


def test_a_missing_result_names_the_asset_to_materialise(tmp_path):
    with pytest.raises(InputError, match="materialise the asset 'pix2pix' first"):
        read_record(tmp_path / "pix2pix", "pix2pix")


def test_a_damaged_record_names_the_asset_to_rematerialise(tmp_path):
    produce(tmp_path / "asset", "asset", "key", writes("one", []))
    (tmp_path / "asset" / "record.json").write_text("{")
    with pytest.raises(InputError, match="rematerialise the asset 'pix2pix'"):
        read_record(tmp_path / "asset", "pix2pix")
    assert not produce(tmp_path / "asset", "asset", "key", writes("one", []))[1]


def test_checks_and_facts_survive_the_file(tmp_path):
    built, _ = produce(tmp_path / "asset", "asset", "key", writes("one", []))
    assert read_record(tmp_path / "asset", "asset").outcome == built.outcome


def test_every_part_of_the_key_counts():
    keys = {
        cache_key("1", {"studies": "a"}, {"x": 1}),
        cache_key("2", {"studies": "a"}, {"x": 1}),
        cache_key("1", {"studies": "b"}, {"x": 1}),
        cache_key("1", {"studies": "a"}, {"x": 2}),
    }
    assert len(keys) == 4


def test_a_forced_build_replaces_a_valid_result_once_and_the_next_plain_run_finds_it(tmp_path):
    calls = []
    produce(tmp_path / "asset", "asset", "key", writes("one", calls))
    _, found = produce(tmp_path / "asset", "asset", "key", writes("two", calls), attempt="forced")
    assert not found
    _, found_by_its_retry = produce(tmp_path / "asset", "asset", "key", writes("three", calls), attempt="forced")
    _, found_the_next_night = produce(tmp_path / "asset", "asset", "key", writes("four", calls))
    assert found_by_its_retry
    assert found_the_next_night
    assert (tmp_path / "asset" / "result.txt").read_text() == "two"
    assert len({folder.name for folder in calls}) == 2  # a training's name in MLflow comes from its folder


def test_the_folder_of_a_build_can_be_told_from_its_record(tmp_path):
    for attempt in ("", "forced"):
        calls = []
        record, _ = produce(tmp_path / "asset", "asset", "key", writes("one", calls), attempt=attempt)
        assert [folder.name for folder in calls] == [partial_name(tmp_path / "asset", record)]


def build_slowly(place, begun, calls):
    def build(folder):
        with calls.open("a") as file:
            file.write("built\n")
        begun.set()
        time.sleep(0.5)
        return Outcome({})

    produce(place, "asset", "key", build)


def test_two_processes_build_one_result_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    begun, calls = context.Event(), tmp_path / "calls"
    first = context.Process(target=build_slowly, args=(tmp_path / "asset", begun, calls))
    first.start()
    assert begun.wait(60)
    build_slowly(tmp_path / "asset", begun, calls)
    first.join()
    assert calls.read_text() == "built\n"


def test_the_second_says_whom_it_waits_for(tmp_path, capfd):
    context = multiprocessing.get_context("spawn")
    begun = context.Event()
    first = context.Process(target=build_slowly, args=(tmp_path / "asset", begun, tmp_path / "calls"))
    first.start()
    assert begun.wait(60)
    produce(tmp_path / "asset", "asset", "key", writes("one", []))
    first.join()
    assert f"waits for another run that makes asset, which holds {tmp_path}" in capfd.readouterr().err


def test_a_result_that_was_killed_before_its_last_renaming_is_not_made_again(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(record_module, "replace_folder", killed)
        with pytest.raises(KeyboardInterrupt):
            produce(tmp_path / "asset", "asset", "key", writes("one", []))
    assert not (tmp_path / "asset").exists()
    calls = []
    record, _ = produce(tmp_path / "asset", "asset", "key", writes("two", calls))
    assert calls == []
    assert (tmp_path / "asset" / "result.txt").read_text() == "one"
    assert record == read_record(tmp_path / "asset", "asset")


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, InputError), (errno.EIO, OSError)])
def test_a_full_disk_keeps_the_earlier_result_and_says_what_to_do(tmp_path, number, kind):
    produce(tmp_path / "asset", "asset", "old", writes("one", []))

    def fills_the_disk(folder):
        raise OSError(number, os.strerror(number))

    with pytest.raises(kind, match=os.strerror(number)) as fault:
        produce(tmp_path / "asset", "asset", "new", fills_the_disk)
    assert (tmp_path / "asset" / "result.txt").read_text() == "one"
    if kind is InputError:
        assert "free disk space and rematerialise asset" in str(fault.value)
