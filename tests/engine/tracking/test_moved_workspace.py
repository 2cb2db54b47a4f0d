"""A workspace may be called anything, be moved, and be copied: everything goes on where it lies."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest

from assets.studies import patient_split, studies
from common.errors import InputError
from engine.forge import Forge
from engine.tracking.publish import replay
from engine.tracking.store import connect, prepare_store, tracking_places
from engine.tracking.tracker import Tracker
from engine.workspace import addressable
from pipeline.services.dagster_home import prepare_dagster_home
from tests.mlflow_stores import told

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return


def fill(home: Path, empty_store: Path) -> None:
    """Make a workspace with read studies, a run of Dagster and a run of MLflow that holds a file."""
    home.mkdir(parents=True)
    shutil.copy2(empty_store, home / "mlflow.db")
    forge = Forge(profile="tiny", home=str(home))
    prepare_store(forge.tracking_uri(), forge.workspace.artifact_root)
    with dg.DagsterInstance.from_config(str(prepare_dagster_home(home))) as instance:
        assets, resources = [studies, patient_split], {"forge": forge}
        assert dg.materialize(assets, instance=instance, resources=resources).success
    track(home, "first")


def track(home: Path, name: str) -> None:
    notes = home / f"{name}.txt"
    notes.write_text(name)
    with Tracker.of(told(home, name, name=name)) as tracker:
        tracker.dataset("d", "digest", "slices.h5", "training", pd.DataFrame({"case_id": ["a"]}))
        tracker.artifact(notes)
    notes.unlink()


def tracked(home: Path) -> dict[str, str]:
    """Return the text of the file of every run, by the run's name."""
    client = connect(tracking_places(home, {}).uri)
    experiment = client.get_experiment_by_name("scarforge")
    runs = client.search_runs([experiment.experiment_id])
    found = {}
    for run in runs:
        (file,) = [entry.path for entry in client.list_artifacts(run.info.run_id) if entry.path.endswith(".txt")]
        found[run.info.run_name] = Path(client.download_artifacts(run.info.run_id, file)).read_text()
    return found


def use(home: Path) -> None:
    """Do what a command does at its start, and track one more run."""
    places = tracking_places(home, {})
    prepare_store(places.uri, places.artifact_root)
    with dg.DagsterInstance.from_config(str(prepare_dagster_home(home))) as instance:
        assert instance.get_runs_count() == 1
        (key,) = [key for key in instance.all_asset_keys() if key.to_user_string() == "studies"]
        assert instance.get_latest_materialization_event(key)
        assert instance.storage_directory().startswith(str(addressable(home)))
    track(home, "second")
    forge = Forge(profile="tiny", home=str(home))
    assert forge.finished("studies").file("studies.h5").is_relative_to(home)


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_moved_workspace_goes_on_where_it_lies(tmp_path: Path, empty_store: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new" / "deeper"
    fill(old, empty_store)
    new.parent.mkdir()
    old.rename(new)
    use(new)
    assert tracked(new) == {"first": "first", "second": "second"}
    assert not old.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"new"}


def test_a_copied_workspace_shares_nothing_with_the_original(tmp_path: Path, empty_store: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    fill(old, empty_store)
    shutil.copytree(old, new)
    before = listing(old)
    use(new)
    assert tracked(new) == {"first": "first", "second": "second"}
    assert listing(old) == before
    shutil.rmtree(new)
    assert tracked(old) == {"first": "first"}


def test_a_workspace_of_any_name_works_and_leaves_nothing_beside_it(tmp_path: Path, empty_store: Path) -> None:
    home = tmp_path / "it's Käfer #1, 100%"
    fill(home, empty_store)
    assert tracked(home) == {"first": "first"}
    assert {path.name for path in tmp_path.iterdir()} == {home.name}
    assert (home / "mlflow.db").is_file()
    assert (home / "dagster" / "history" / "runs.db").is_file()


def test_a_name_that_no_address_can_hold_works_too(tmp_path: Path, empty_store: Path) -> None:
    fill(tmp_path / "x%20y", empty_store)
    (tmp_path / "x%20y").rename(tmp_path / "where?mode=ro")
    use(tmp_path / "where?mode=ro")
    assert {path.name for path in tmp_path.iterdir()} == {"where?mode=ro"}
    (tmp_path / "where?mode=ro").rename(tmp_path / "plain")
    assert tracked(tmp_path / "plain") == {"first": "first", "second": "second"}


def test_what_waited_while_the_workspace_was_moved_is_sent_to_where_it_lies(tmp_path: Path, empty_store: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    (old / "notes.txt").parent.mkdir()
    (old / "notes.txt").write_text("waited")
    with Tracker.of(told(old, "waited", uri="http://127.0.0.1:9", name="waited")) as tracker:  # nobody answers
        tracker.artifact(old / "notes.txt")
    old.rename(new)
    shutil.copy2(empty_store, new / "mlflow.db")
    assert replay(tracking_places(new, {})) == 1
    assert tracked(new) == {"waited": "waited"}
    assert not old.exists()


def test_files_that_a_user_keeps_elsewhere_are_left_there(tmp_path: Path, empty_store: Path) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "archive"
    home.mkdir()
    shutil.copy2(empty_store, home / "mlflow.db")
    prepare_store(tracking_places(home, {}).uri, elsewhere)
    home.rename(tmp_path / "moved")
    client = connect(tracking_places(tmp_path / "moved", {}).uri)
    assert client.get_experiment_by_name("scarforge").artifact_location == elsewhere.as_uri()


def test_runs_that_a_user_keeps_elsewhere_are_left_there(tmp_path: Path) -> None:
    path = prepare_dagster_home(tmp_path) / "dagster.yaml"
    path.write_text("storage:\n  sqlite:\n    base_dir: /fast/disk\n")
    prepare_dagster_home(tmp_path)
    assert path.read_text() == "storage:\n  sqlite:\n    base_dir: /fast/disk\n"


def test_a_name_for_which_no_link_can_be_made_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"x%20y: a `\?`.*Not a directory.*choose a SCARFORGE_HOME without them"):
        addressable(tmp_path / "x%20y")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "z%20z"))
    with pytest.raises(InputError, match=r"has such a name, too"):
        addressable(tmp_path / "x%20y")
