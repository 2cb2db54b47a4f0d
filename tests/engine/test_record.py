import errno
import json
import multiprocessing
import os
import random
import re
import time
from pathlib import Path

import pytest

from common.errors import InputError
from engine import record as record_module
from engine.outcome import Check, Outcome, number
from engine.record import Neighbours, built_for, cache_key, produce, read_record


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


@pytest.mark.parametrize(("damage", "why"), [("edit", "differs from its record"), ("delete", "is missing")])
def test_a_hand_edited_result_is_built_again_and_it_is_said_why(tmp_path, damage, why):
    produce(tmp_path / "asset", "asset", "key", writes("one", []))
    target, said = tmp_path / "asset" / "result.txt", []
    if damage == "edit":
        target.write_text("two")
    else:
        target.unlink()
    _, found = produce(tmp_path / "asset", "asset", "key", writes("one", []), tell=said.append)
    assert not found
    assert target.read_text() == "one"
    assert said == [f"asset is made again: result.txt {why}"]


FOREIGN = (".DS_Store", "note.txt", "mine/Thumbs.db", "mine/figure.svg")


def put_foreign_files(folder):
    for name in FOREIGN:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)


def test_what_others_put_in_the_folder_of_a_result_does_not_make_it_again(tmp_path):
    calls, said = [], []
    produce(tmp_path / "asset", "asset", "key", writes("one", calls))
    put_foreign_files(tmp_path / "asset")
    _, found = produce(tmp_path / "asset", "asset", "key", writes("one", calls), tell=said.append)
    assert found
    assert (len(calls), said) == (1, [])


def test_what_others_put_in_the_folder_stays_there_when_the_result_is_made_again(tmp_path):
    produce(tmp_path / "asset", "asset", "old", writes("one", []))
    put_foreign_files(tmp_path / "asset")
    record, _ = produce(tmp_path / "asset", "asset", "new", writes("two", []))
    assert [(tmp_path / "asset" / name).read_text() for name in FOREIGN] == list(FOREIGN)
    assert (tmp_path / "asset" / "result.txt").read_text() == "two"
    assert set(record.files) == {"result.txt"}


def test_a_file_that_is_part_of_the_old_result_alone_does_not_stay(tmp_path):
    def build(folder):
        (folder / "familiarity.safetensors").write_text("of the old weights")
        return Outcome({})

    produce(tmp_path / "asset", "asset", "old", build)
    produce(tmp_path / "asset", "asset", "new", writes("two", []))
    assert sorted(path.name for path in (tmp_path / "asset").iterdir()) == ["record.json", "result.txt"]


@pytest.mark.parametrize("renaming", [1, 2])
def test_a_kill_between_the_renamings_loses_no_file_of_others(tmp_path, monkeypatch, renaming):
    produce(tmp_path / "asset", "asset", "old", writes("one", []))
    put_foreign_files(tmp_path / "asset")
    folders, replace = [], type(tmp_path).replace

    def killed(path, target):
        folders.extend([path] if path.is_dir() else [])
        if len(folders) == renaming:
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            produce(tmp_path / "asset", "asset", "new", writes("two", []))
    calls = []
    produce(tmp_path / "asset", "asset", "new", writes("three", calls))
    assert calls == []
    assert (tmp_path / "asset" / "result.txt").read_text() == "two"
    assert [(tmp_path / "asset" / name).read_text() for name in FOREIGN] == list(FOREIGN)
    assert not [path for path in tmp_path.glob(".asset*") if path.is_dir()]


@pytest.mark.parametrize("record", [None, "{"])
def test_a_folder_whose_record_tells_nothing_is_kept_beside(tmp_path, record):
    produce(tmp_path / "asset", "asset", "key", writes("one", []))
    put_foreign_files(tmp_path / "asset")
    (tmp_path / "asset" / "record.json").unlink()
    if record:
        (tmp_path / "asset" / "record.json").write_text(record)
    said = []
    produce(tmp_path / "asset", "asset", "key", writes("one", []), tell=said.append)
    assert "kept beside it" in said[0]
    assert (tmp_path / ".asset.unrecorded_1" / "note.txt").read_text() == "note.txt"
    assert read_record(tmp_path / "asset", "asset").cache_key == "key"


def test_half_a_file_and_a_desktops_file_are_no_part_of_a_result(tmp_path):
    def build(folder):
        for name in (".weights.safetensors.77.partial", ".DS_Store", "desktop.ini"):
            (folder / name).write_text("?")
        return writes("one", [])(folder)

    odd, _ = produce(tmp_path / "odd", "asset", "key", build)
    plain, _ = produce(tmp_path / "plain", "asset", "key", writes("one", []))
    assert (odd.files, odd.data_version) == (plain.files, plain.data_version)
    assert not list((tmp_path / "odd").glob("*.partial"))


BEFORE = {
    "code_version": "3",
    "parents": {"real_slices": "a", "studies": "s"},
    "config": {"steps": 5, "part": {"x": 1}},
}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"code_version": "4"}, "code version 3 -> 4"),
        ({"parents": {"real_slices": "b", "studies": "s"}}, "input real_slices changed"),
        ({"parents": {"real_slices": "a", "studies": "s", "vgg16": "v"}}, "input vgg16 is new"),
        ({"config": {"steps": 7, "part": {"x": 1}}}, "the setting steps changed from 5 to 7"),
        ({"config": {"steps": 5, "part": {"x": (1, 2)}}}, "the setting part.x changed from 1 to [1, 2]"),
        ({"config": {"steps": 5}}, "the setting part changed from {'x': 1} to not given"),
    ],
)
def test_it_is_said_which_part_of_the_key_differs(tmp_path, change, why):
    said = []
    for made_of in (BEFORE, {**BEFORE, **change}):
        produce(
            tmp_path / "asset",
            "asset",
            cache_key(**made_of),
            writes("one", []),
            made_of=made_of,
            tell=said.append,
        )
    assert said == [f"asset is made again: {why}"]


def test_of_a_record_that_does_not_tell_what_it_was_made_of_this_is_said(tmp_path):
    said = []
    produce(tmp_path / "asset", "asset", "older", writes("one", []))
    produce(tmp_path / "asset", "asset", "key", writes("one", []), made_of=BEFORE, tell=said.append)
    assert "its record does not tell which" in said[0]


def test_checkpoints_leave_with_the_sealing_and_are_no_part_of_a_result(tmp_path, monkeypatch):
    def trains(folder):
        (folder / "utility" / "checkpoint").mkdir(parents=True, exist_ok=True)
        (folder / "utility" / "checkpoint" / "last.pt").write_text("state")
        return writes("one", [])(folder)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(record_module, "_seal", killed)
        with pytest.raises(KeyboardInterrupt):
            produce(tmp_path / "asset", "asset", "key", trains)
    assert list(tmp_path.glob(".asset.*.partial/utility/checkpoint/last.pt"))
    record, _ = produce(tmp_path / "asset", "asset", "key", trains)
    assert set(record.files) == {"result.txt"}
    assert not list(tmp_path.rglob("last.pt"))


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


def test_any_bit_of_a_record_that_flipped_is_found_or_says_the_same(tmp_path):
    produce(tmp_path / "asset", "asset", "key", writes("one", []), made_of={"config": {"steps": 3}})
    path, chance = tmp_path / "asset" / "record.json", random.Random(0)
    whole, found = path.read_bytes(), 0
    wanted = read_record(path.parent, "asset")
    for _ in range(300):
        content = bytearray(whole)
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
        try:
            assert read_record(path.parent, "asset") == wanted
        except InputError as error:
            assert re.search("rematerialise the asset 'asset'|made by ScarForge", str(error))  # noqa: PT017
            found += 1
    assert found > 200


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.EACCES])
def test_a_record_that_the_disk_does_not_give_makes_nobody_build_again(tmp_path, monkeypatch, number):
    produce(tmp_path / "asset", "asset", "key", writes("one", []))
    calls, read_text = [], Path.read_text

    def read(path, *arguments, **options):
        if path.name == "record.json":
            raise OSError(number, os.strerror(number), str(path))
        return read_text(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", read)
        with pytest.raises(OSError, match=r"record\.json"):
            produce(tmp_path / "asset", "asset", "key", writes("two", calls))
    assert calls == []
    assert produce(tmp_path / "asset", "asset", "key", writes("two", calls))[1]
    assert not list(tmp_path.glob(".asset.unrecorded*"))


def made_by_0_1_0(place):
    """Turn a finished folder into one as ScarForge 0.1.0 left it."""
    content = json.loads((place / "record.json").read_text())
    del content["format"], content["outcome"]["behind"]
    (place / "record.json").write_text(json.dumps(content))


def test_what_0_1_0_made_is_neither_used_nor_replaced(tmp_path):
    place = tmp_path / "asset"
    produce(place, "asset", "key", writes("one", []))
    made_by_0_1_0(place)
    line = (
        rf"^{place}: this workspace was made by ScarForge 0.1.0, whose results this version cannot use; choose another"
    )
    for key in ("key", "another key"):
        with pytest.raises(InputError, match=line):
            produce(place, "asset", key, writes("two", []))
    with pytest.raises(InputError, match=line):
        read_record(place, "asset")
    assert (place / "result.txt").read_text() == "one"


def test_what_a_result_was_made_of_is_part_of_its_version(tmp_path):
    def built(studies, place):
        record, _ = produce(tmp_path / place, "asset", place, lambda _: Outcome({}, behind={"studies": studies}))
        return record

    first, second, same = built("s1", "a"), built("s2", "b"), built("s1", "c")
    assert first.data_version == same.data_version != second.data_version
    assert read_record(tmp_path / "a", "asset").behind == {"studies": "s1"}


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
    assert len({folder.name for folder in calls}) == 2


def test_what_a_folder_is_built_for_can_be_told_from_its_record(tmp_path):
    told = []

    def build(folder):
        told.append(built_for(folder))
        return Outcome({})

    for attempt in ("", "forced"):
        record, _ = produce(tmp_path / "asset", "asset", "key", build, attempt)
        assert told[-1] == ("asset", record.attempt or record.cache_key)


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


def taking_from(folder):
    return Neighbours(lambda place: [folder / place.name])


def test_a_neighbour_s_equal_result_is_taken_over_without_a_second_copy(tmp_path):
    first, _ = produce(tmp_path / "a" / "asset", "asset", "key", writes("one", []))
    calls = []
    second, found = produce(
        tmp_path / "b" / "asset", "asset", "key", writes("two", calls), elsewhere=taking_from(tmp_path / "a")
    )
    assert (second, found, calls) == (first, True, [])
    files = [tmp_path / name / "asset" / "result.txt" for name in ("a", "b")]
    assert files[0].stat().st_ino == files[1].stat().st_ino
    produce(tmp_path / "a" / "asset", "asset", "other", writes("three", []))
    assert [file.read_text() for file in files] == ["three", "one"]


@pytest.mark.parametrize("fault", ["another key", "damaged", "unfinished"])
def test_a_neighbour_s_other_result_is_left_where_it_is(tmp_path, fault):
    there = tmp_path / "a" / "asset"
    produce(there, "asset", "other" if fault == "another key" else "key", writes("one", []))
    if fault == "damaged":
        (there / "result.txt").write_text("edited")
    if fault == "unfinished":
        (there / "record.json").unlink()
    calls = []
    _, found = produce(
        tmp_path / "b" / "asset", "asset", "key", writes("two", calls), elsewhere=taking_from(tmp_path / "a")
    )
    assert (found, len(calls)) == (False, 1)
    assert (tmp_path / "b" / "asset" / "result.txt").read_text() == "two"
    assert not list((tmp_path / "b").glob(".asset.taken"))


def test_where_no_link_can_be_made_a_neighbour_s_files_are_copied(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr("pathlib.Path.hardlink_to", refuse)
    first, _ = produce(tmp_path / "a" / "asset", "asset", "key", writes("one", []))
    second, found = produce(
        tmp_path / "b" / "asset", "asset", "key", writes("two", []), elsewhere=taking_from(tmp_path / "a")
    )
    assert (second, found) == (first, True)


def test_beyond_the_neighbours_is_looked_for_after_them(tmp_path):
    class Beyond:
        asked, told = 0, 0

        def fetch(self, *_, **__):
            Beyond.asked += 1
            return False

        def publish(self, *_, **__):
            Beyond.told += 1

    produce(tmp_path / "a" / "asset", "asset", "key", writes("one", []))
    for key in ("key", "other"):
        produce(
            tmp_path / "b" / "asset",
            "asset",
            key,
            writes("two", []),
            elsewhere=Neighbours(lambda place: [tmp_path / "a" / place.name], Beyond()),
        )
    assert (Beyond.asked, Beyond.told) == (1, 2)
