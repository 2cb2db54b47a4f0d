import pytest

from assets.comparison import repeat_command, report_setup
from engine.forge import Forge
from imaging.labels import EMIDEC_LABELS
from imaging.phantom import PhantomConfig
from imaging.sources.table import read_source
from imaging.studies.archive_writer import write_studies
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
    assert setup.networks["halsr_net"] == forge.settings().halsr_net
