"""Assets on two machines without a common file system, through `SCARFORGE_REMOTE` alone."""

import shutil

import dagster as dg
import pytest

from assets import studies as data
from engine.forge import Forge


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.setenv("SCARFORGE_REMOTE", f"file://{tmp_path}/bucket/prefix")

    def forge(name):
        small = ["phantom.slices=[2,2]", "phantom.matrix_px=[112,112]"]
        return Forge(source="phantom", profile="tiny", home=str(tmp_path / name), overrides=small)

    return forge


def materialise(forge, *assets):
    result = dg.materialize(list(assets), resources={"forge": forge}, selection=list(assets))
    return {
        event.asset_key.to_user_string(): event.step_materialization_data.materialization.tags["dagster/data_version"]
        for event in result.get_asset_materialization_events()
    }


@pytest.mark.slow
def test_a_second_machine_builds_nothing_and_reads_what_only_the_store_has(machine, tmp_path, capfd):
    first = materialise(machine("a"), data.studies, data.patient_split)
    assert capfd.readouterr().err.count("unchanged") == 0
    assert materialise(machine("b"), data.studies, data.patient_split) == first
    said = capfd.readouterr().err
    assert said.count("unchanged") == 2
    # A step on a third machine, which has none of what it reads.
    c = machine("c")
    assert materialise(c, data.patient_split)["patient_split"] == first["patient_split"]
    assert c.version("studies", None) == first["studies"]
    assert (c.folder("studies") / "studies.h5").exists()
    capfd.readouterr()
    # A step that must be built reads what only the store has.
    shutil.rmtree(tmp_path / "bucket/prefix/phantom/tiny/patient_split")
    materialise(machine("d"), data.patient_split)
    assert "unchanged" not in capfd.readouterr().err
    assert (tmp_path / "d/phantom/tiny/studies/studies.h5").exists()
    assert (tmp_path / "bucket/prefix/phantom/tiny/patient_split/record.json").exists()
