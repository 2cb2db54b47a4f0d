import pytest

from assets.comparison import _unknown_donors, repeat_command, report_setup
from engine.forge import Forge
from imaging.labels import EMIDEC_LABELS
from imaging.phantom import PhantomConfig
from imaging.sources.table import read_source
from imaging.studies.archive_writer import write_studies
from imaging.studies.leakage import ALLOWED_UNKNOWN
from segmentation.model_kind import model_kinds
from tests.imaging.small_stores import ring, write
from tests.pipeline.sealed import seal


@pytest.mark.parametrize(
    ("given", "command"),
    [
        ({}, "scarforge run --source phantom --profile demo --fold 3"),
        (
            {"source": "emidec", "root": "/somewhere", "profile": "paper", "seeds": [1, 2]},
            "scarforge run --source emidec --root DIR --profile paper --fold 3 --seed 1 --seed 2",
        ),
        (
            {"overrides": ["region.percentiles=[1, 99]"]},
            "scarforge run --source phantom --profile demo --fold 3 --set 'region.percentiles=[1, 99]'",
        ),
    ],
)
def test_the_command_repeats_the_run(given, command):
    assert repeat_command(Forge(**given), 3) == command


def test_a_comparison_begins_with_the_slices_whose_donors_nobody_has_told(tmp_path, monkeypatch):
    masks = [ring("infarct"), ring("no_infarct"), ring("no_reflow")]
    of = [ALLOWED_UNKNOWN, "P1", "P1"]
    stores = {
        "training_set_real_plus_gan": write(
            tmp_path / "a.h5", masks, origin=["synthetic", "synthetic", "real"], case_id=of
        ),
        "training_set_real_only": write(tmp_path / "b.h5", masks),
    }
    monkeypatch.setattr("assets.comparison.open_slices", lambda _, name, __: stores[name])
    found = [(kind, fold, seed) for kind in model_kinds() for fold in (0, 2) for seed in (0, 1)]
    forge = Forge(overrides=["synthesis.method=folder", "synthesis.root=DIR", "synthesis.donors=unknown"])
    first, second = _unknown_donors(forge, found)
    assert first.startswith(
        "Donors unknown: of 1 of 2 synthetic slices of fold 0 nobody has told which patients they were"
    )
    assert "synthetic slices of fold 2" in second
    assert not _unknown_donors(forge, [place for place in found if not place[0].training_set.endswith("gan")])
    assert not _unknown_donors(Forge(), found)


def test_the_setup_is_that_of_the_settings_and_the_studies(tmp_path):
    overrides = [
        "training_slices=320",
        "pix2pix.steps=77",
        "region.jitter_mm=2",
        "simulator.shares.synthetic_anatomy=0",
    ]
    forge = Forge(home=str(tmp_path), profile="tiny", overrides=overrides, seeds=[4, 5])
    items = read_source("phantom", None, PhantomConfig(patients=6))
    write_studies(forge.folder("studies") / "studies.h5", items, EMIDEC_LABELS, "phantom")
    seal(forge.folder("studies"), "studies")
    setup = report_setup(forge)
    assert setup.total_patients == 6
    assert setup.simulated
    assert (setup.training_slices, setup.synthetic_slices) == (320, 160)
    assert (setup.synthesis.steps, setup.region.jitter_mm, setup.seeds) == (77, 2, (4, 5))
    assert setup.synthesis.strategy_shares["synthetic_anatomy"] == 0
    assert sum(setup.synthesis.strategy_shares.values()) == pytest.approx(1)
    assert not setup.synthesis.from_folder
    assert setup.networks["halsr_net"] == forge.settings().halsr_net
