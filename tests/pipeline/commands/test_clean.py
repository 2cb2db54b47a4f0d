"""What `scarforge clean` deletes and what it never does."""

import os
import time

import dagster as dg
import pytest
from filelock import FileLock

from common.errors import InputError
from common.files import write_json
from pipeline.commands.clean import clean
from pipeline.services.dagster_home import prepare_dagster_home
from tests.pipeline.sealed import seal

DAY_S = 86_400
LEFT = (".fold_0.0123456789abcdef.partial", ".fold_0.old", ".fold_0.taken", ".fold_0.unrecorded_1")


@pytest.fixture
def home(tmp_path):
    """A workspace with a finished model, its champion, and what killed builds left beside it; all of it is old."""
    asset = tmp_path / "emidec" / "tiny" / "pix2pix"
    seal(asset / "fold_0", "pix2pix")
    (asset / "fold_0" / "weights.safetensors").write_text("w")
    write_json(asset.parent / "champions" / "fold_0" / "a.json", {"version": "v"})
    for name in LEFT:
        (asset / name / "checkpoint").mkdir(parents=True)
        (asset / name / "checkpoint" / "last.pt").write_text("x")
    prepare_dagster_home(tmp_path)
    (tmp_path / "dagster" / "storage" / ".x.old").mkdir(parents=True)
    (tmp_path / ".mine.kept").mkdir()
    for path in tmp_path.rglob("*"):
        os.utime(path, (time.time() - 40 * DAY_S,) * 2)
    return tmp_path


def names(home):
    return {path.relative_to(home).as_posix() for path in home.rglob("*") if "dagster" not in path.parts}


def test_a_listing_deletes_nothing_and_names_every_folder(home):
    before = names(home)
    said = clean(home, 30, delete=False)
    assert all(name in said for name in LEFT)
    assert "4 folders" in said
    assert "Nothing was changed" in said
    assert names(home) == before


def test_what_killed_builds_left_goes_and_every_result_and_champion_stays(home):
    before = names(home)
    assert "4 folders" in clean(home, 30, delete=True)
    gone = {name for name in before if any(f"/{left}" in name for left in LEFT)}
    assert names(home) == before - gone
    assert (home / "dagster" / "storage" / ".x.old").exists()


def test_what_is_younger_or_worked_in_or_unknown_to_mlflow_stays(home):
    assert "0 folders" in clean(home, 50, delete=True)
    asset = home / "emidec" / "tiny" / "pix2pix"
    write_json(asset / LEFT[0] / ".mlflow" / "run.json", {"key": "k"})
    os.utime(asset / LEFT[0] / ".mlflow" / "run.json", (1, 1))
    with FileLock(asset / ".fold_0.lock"):
        assert "0 folders" in clean(home, 30, delete=True)
    clean(home, 0, delete=True)
    assert [name for name in LEFT if (asset / name).exists()] == [LEFT[0]]


def test_a_run_goes_unless_the_latest_state_of_an_asset_stands_on_it(home):
    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["0", "1"]))
    def pix2pix() -> None: ...

    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        first, of_fold_1, latest = (
            dg.materialize([pix2pix], instance=instance, partition_key=fold).run_id for fold in ("0", "1", "0")
        )
    assert "and 1 run of Dagster" in clean(home, 0, delete=False)
    assert "and 1 run of Dagster" in clean(home, 0, delete=True)
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        assert {run.run_id for run in instance.get_runs()} == {of_fold_1, latest}
        assert first not in {run.run_id for run in instance.get_runs()}


def test_a_folder_that_is_no_workspace_is_refused(tmp_path):
    with pytest.raises(InputError, match="is no workspace; set SCARFORGE_HOME"):
        clean(tmp_path, 30, delete=True)
