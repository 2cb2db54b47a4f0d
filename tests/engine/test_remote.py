"""Two machines are two workspaces with one store; `memory://` and `file://` stand for object storage."""

import json
import logging
import uuid
from pathlib import Path

import fsspec
import pytest

from common.errors import InputError
from engine.outcome import Outcome, number
from engine.record import produce, read_record
from engine.remote import Remote


@pytest.fixture(params=["file", "memory"])
def url(request, tmp_path):
    if request.param == "file":
        return f"file://{tmp_path}/bucket/prefix"
    return f"memory://{uuid.uuid4().hex}/prefix"


class Machine:
    def __init__(self, home, url):
        self.home, self.url, self.builds = home, url, []
        self.place = home / "phantom" / "demo" / "pix2pix" / "fold_0"

    @property
    def remote(self):
        return Remote(self.url, self.home)

    def make(self, text="weights", key="key", attempt=""):
        def build(folder):
            self.builds.append(text)
            (folder / "model").mkdir()
            (folder / "model" / "weights.safetensors").write_text(text)
            (folder / "card.json").write_text(json.dumps({"text": text}))
            return Outcome({"size": number(len(text))})

        return produce(self.place, "pix2pix", key, build, attempt, self.remote)[0]

    def read(self):
        self.remote.refresh(self.place)
        return (self.place / "model" / "weights.safetensors").read_text()


@pytest.fixture
def a(tmp_path, url):
    return Machine(tmp_path / "a", url)


@pytest.fixture
def b(tmp_path, url):
    return Machine(tmp_path / "b", url)


class Bucket:
    def __init__(self, machine):
        self.files, self.root = fsspec.url_to_fs(machine.url)
        self.root = self.root.rstrip("/")

    def find(self, name=""):
        return sorted(path for path in self.files.find(self.root) if path.endswith(name))

    def overwrite(self, name, content):
        [path] = self.find(name)
        self.files.pipe_file(path, content)

    def remove(self, name):
        [path] = self.find(name)
        self.files.rm(path)


def test_another_machine_finds_everything_unchanged_and_builds_nothing(a, b):
    built = a.make()
    assert b.make() == built
    assert b.builds == []
    assert b.read() == "weights"
    assert {path.relative_to(b.place) for path in b.place.rglob("*")} == {
        path.relative_to(a.place) for path in a.place.rglob("*")
    }


def test_a_reader_gets_a_folder_that_is_only_remote(a, b):
    a.make()
    assert b.read() == "weights"
    assert read_record(b.place, "pix2pix").cache_key == "key"


def test_a_reader_gets_the_later_result_of_another_machine(a, b):
    a.make("old", "old")
    assert b.read() == "old"
    a.make("new", "new")
    assert b.read() == "new"


def test_a_note_beside_a_result_stays_when_a_later_one_is_fetched_and_is_not_published(a, b):
    a.make("one", "one")
    b.make("one", "one")
    (a.place / "note.txt").write_text("mine")
    b.make("two", "two")
    assert a.read() == "two"
    assert (a.place / "note.txt").read_text() == "mine"
    a.make("three", "three")
    assert b.read() == "three"
    assert not (b.place / "note.txt").exists()


def test_what_is_read_within_one_step_stays_the_same(a, b):
    a.make("old", "old")
    remote = b.remote
    remote.refresh(b.place)
    a.make("new", "new")
    remote.refresh(b.place)
    assert (b.place / "model" / "weights.safetensors").read_text() == "old"


def test_another_key_is_built_here_and_then_holds_everywhere(a, b):
    a.make("old", "old")
    b.make("new", "new")
    assert b.builds == ["new"]
    assert a.read() == "new"


def test_a_result_that_was_replaced_leaves_no_files_in_the_store(a):
    a.make("old", "old")
    a.make("new", "new")
    names = [path.rsplit("/", 1)[-1] for path in Bucket(a).find()]
    assert sorted(names) == ["card.json", "record.json", "weights.safetensors"]


def test_a_forced_result_of_another_machine_is_found_and_not_undone(a, b):
    a.make("plain")
    b.make("plain")
    a.make("forced", attempt="night")
    b.make("again", attempt="night")
    assert b.builds == []
    assert a.make("plain") == b.make("plain")
    assert b.read() == a.read() == "forced"


@pytest.mark.parametrize("damage", ["edited", "missing"])
def test_a_damaged_file_is_refused_by_name_and_the_result_built_and_published_again(a, b, caplog, damage):
    a.make()
    bucket = Bucket(a)
    if damage == "edited":
        bucket.overwrite("weights.safetensors", b"weightz")
    else:
        bucket.remove("weights.safetensors")
    b.make()
    assert b.builds == ["weights"]
    assert "model/weights.safetensors missing there or unlike the record's digest" in caplog.text
    assert "phantom/demo/pix2pix/fold_0" in caplog.text
    c = Machine(b.home.parent / "c", b.url)
    assert c.read() == "weights"


def test_half_an_upload_is_not_taken_for_a_result(a, b):
    a.make()
    Bucket(a).remove("record.json")
    with pytest.raises(FileNotFoundError):
        b.read()
    b.make()
    assert b.builds == ["weights"]


def test_half_a_record_is_not_taken_for_a_result(a, b):
    a.make()
    [path] = Bucket(a).find("record.json")
    Bucket(a).overwrite("record.json", fsspec.url_to_fs(a.url)[0].cat_file(path)[:40])
    b.make()
    assert b.builds == ["weights"]


def test_an_upload_that_breaks_off_leaves_the_earlier_result_whole(a, b, monkeypatch, caplog):
    a.make("old", "old")
    with monkeypatch.context() as broken:
        broken.setattr(type(fsspec.url_to_fs(a.url)[0]), "pipe_file", refuse)
        a.make("new", "new")
    assert "is not published" in caplog.text
    assert b.read() == "old"


def refuse(*_, **__):
    raise ConnectionError("no route to host")


def is_down(monkeypatch, machine):
    kind = type(fsspec.url_to_fs(machine.url)[0])
    for name in ("cat_file", "pipe_file", "put_file", "get_file", "find"):
        monkeypatch.setattr(kind, name, refuse)


def test_a_store_that_is_away_costs_nothing_but_the_publication(a, b, monkeypatch, caplog):
    with monkeypatch.context() as away:
        is_down(away, a)
        a.make()
        assert a.read() == "weights"
    assert "no route to host" in caplog.text
    assert f"{a.place} is not published" in caplog.text
    assert Bucket(a).find() == []
    caplog.clear()
    a.make()
    assert a.builds == ["weights"]
    assert b.read() == "weights"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_what_could_not_be_published_is_not_replaced_by_an_earlier_result(a, b, monkeypatch):
    b.make("earlier", "earlier")
    with monkeypatch.context() as away:
        is_down(away, a)
        a.make("only copy", "later")
    assert a.read() == "only copy"
    a.make("only copy", "later")
    assert b.read() == "only copy"


def test_a_workspace_from_before_is_published_by_its_next_run(a, b):
    a.url, there = f"memory://{uuid.uuid4().hex}", a.url
    a.make()
    a.url = there
    a.make()
    assert a.builds == ["weights"]
    assert b.read() == "weights"


def test_a_hand_edited_folder_is_fetched_again(a):
    a.make()
    (a.place / "card.json").write_text("{}")
    a.make()
    assert a.builds == ["weights"]
    assert json.loads((a.place / "card.json").read_text()) == {"text": "weights"}


def test_a_killed_build_keeps_its_checkpoint_here_and_publishes_nothing(a):
    def build(folder):
        (folder / "checkpoint").write_text("half way")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        produce(a.place, "pix2pix", "key", build, "", a.remote)
    assert Bucket(a).find() == []
    assert list(a.place.parent.glob(".*partial/checkpoint"))


def test_names_that_lead_out_of_the_folder_are_refused(a, b, caplog, tmp_path):
    a.make()
    [path] = Bucket(a).find("record.json")
    record = json.loads(fsspec.url_to_fs(a.url)[0].cat_file(path))
    record["files"] = {"../../evil": "0"}
    Bucket(a).overwrite("record.json", json.dumps(record).encode())
    b.make()
    assert b.builds == ["weights"]
    assert "names the file '../../evil', outside its folder" in caplog.text
    assert not list(tmp_path.rglob("evil"))


def test_every_finished_folder_below_one_is_fetched(a, b):
    root = a.place.parent
    for fold in (0, 1):
        a.place = root / f"fold_{fold}" / "seed_0"
        a.make()
    b.remote.refresh_below(b.place.parent)
    found = sorted(path.parent.relative_to(b.place.parent).as_posix() for path in b.home.rglob("record.json"))
    assert found == ["fold_0/seed_0", "fold_1/seed_0"]


def test_nothing_lies_below_a_folder_of_which_the_store_knows_nothing(b):
    b.remote.refresh_below(b.place)
    assert not b.home.exists()


class TestState:
    @pytest.fixture
    def books(self, a, b):
        return a.home / "phantom" / "demo" / "champions", b.home / "phantom" / "demo" / "champions"

    def test_it_grows_by_turns_on_two_machines(self, a, b, books):
        for machine, book, line in ((a, books[0], "one"), (b, books[1], "two"), (a, books[0], "three")):
            machine.remote.pull_state(book)
            book.mkdir(parents=True, exist_ok=True)
            (book / line).write_text(line)
            machine.remote.push_state(book)
        assert sorted(path.name for path in books[0].iterdir()) == ["one", "three", "two"]

    def test_a_note_beside_it_stays_when_a_later_one_is_pulled(self, a, b, books):
        for machine, book, line in ((a, books[0], "one"), (b, books[1], "two")):
            machine.remote.pull_state(book)
            book.mkdir(parents=True, exist_ok=True)
            (book / f"{line}.json").write_text(line)
            machine.remote.push_state(book)
        (books[0] / "note.txt").write_text("mine")
        a.remote.pull_state(books[0])
        assert sorted(path.name for path in books[0].iterdir()) == ["note.txt", "one.json", "two.json"]

    def test_a_store_that_is_away_is_an_error_since_going_on_would_begin_anew(self, a, books, monkeypatch):
        is_down(monkeypatch, a)
        with pytest.raises(InputError, match="run this step again when the store can be reached"):
            a.remote.pull_state(books[0])

    def test_what_could_not_be_pushed_is_pushed_by_the_next(self, a, b, books, monkeypatch, caplog):
        books[0].mkdir(parents=True)
        (books[0] / "one").write_text("one")
        with monkeypatch.context() as away:
            is_down(away, a)
            a.remote.push_state(books[0])
        assert "is not published" in caplog.text
        a.remote.pull_state(books[0])
        a.remote.push_state(books[0])
        b.remote.pull_state(books[1])
        assert (books[1] / "one").read_text() == "one"

    def test_a_damaged_one_is_an_error_that_names_the_file(self, a, b, books):
        books[0].mkdir(parents=True)
        (books[0] / "champion.json").write_text("{}")
        a.remote.push_state(books[0])
        Bucket(a).overwrite("champion.json", b"{]")
        with pytest.raises(InputError, match=r"champion\.json missing there or unlike .*; restore it, or remove it"):
            b.remote.pull_state(books[1])


class TestAddress:
    def test_no_variable_means_no_store(self):
        assert Remote.of(Path("/tmp"), {}) is None
        assert Remote.of(Path("/tmp"), {"SCARFORGE_REMOTE": " "}) is None

    @pytest.mark.parametrize("url", ["bucket/prefix", "s3:/bucket", "file://", "/data/store", "s3:bucket"])
    def test_what_is_no_address_is_refused(self, url):
        with pytest.raises(InputError, match="write PROTOCOL://PLACE, such as s3://bucket/prefix"):
            Remote(url, Path("/tmp"))

    def test_an_unknown_protocol_is_named(self):
        with pytest.raises(InputError, match=r"(?i)SCARFORGE_REMOTE='s4://bucket'.*s4.*s3, gs, abfs, file"):
            Remote("s4://bucket", Path("/tmp"))

    def test_a_missing_driver_names_what_to_install(self, monkeypatch):
        def missing(protocol):
            raise ImportError("Install s3fs to access S3")

        monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
        with pytest.raises(InputError, match="the driver of s3:// is not installed; run `pip install s3fs`"):
            Remote("s3://bucket/prefix", Path("/tmp"))

    def test_a_password_in_the_address_is_not_shown(self):
        with pytest.raises(InputError) as error:
            Remote("s4://user:secret@host/prefix", Path("/tmp"))
        assert "secret" not in str(error.value)
