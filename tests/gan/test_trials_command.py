"""The command on a workspace whose slices lie there finished: trained, measured, tabulated, and found again."""

import pandas as pd
import pytest
import torch

from common.errors import InputError
from engine.forge import Forge
from engine.outcome import Outcome
from engine.record import produce
from imaging.studies.split import FoldSplit, write_splits
from pipeline.commands.trials import run_trials

SMALL = [
    "device=cpu",
    "precision=fp32",
    "pix2pix.widths=[8,16]",
    "pix2pix.discriminator_widths=[8,16]",
    "pix2pix.fine_discriminator_widths=[]",
    "pix2pix.batch=2",
    "pix2pix.normalise_innermost=true",
]


@pytest.fixture
def forge(tmp_path):
    return Forge(source="emidec", profile="tiny", home=str(tmp_path / "home"), overrides=SMALL)


@pytest.fixture
def finished(forge, make_store):
    """Put the finished slices of a fold into the workspace: three patients to train on, three to validate."""
    patients = [f"P{index:03d}" for index in range(6)]
    split = FoldSplit(0, train=tuple(patients[:3]), validation=tuple(patients[3:]), test=("P900",))

    def finish(asset, write):
        produce(forge.folder(asset, 0), asset, asset, lambda folder: write(folder) or Outcome({}))

    def copy(store):
        return lambda folder: (folder / "slices.h5").write_bytes(store.path.read_bytes()) and None

    finish("patient_split", lambda folder: write_splits(folder / "patient_split.json", [split]))
    finish("real_slices", copy(make_store(6, part=["train"] * 3 + ["validation"] * 3)))
    finish("augmented_slices", copy(make_store(3, seed=1)))
    return forge


def test_trials_are_trained_tabulated_and_found_again(finished, capsys, monkeypatch):
    folder = run_trials(finished, 0, 2, ["trial_10", "context"], SMALL)
    table = pd.read_csv(folder / "trials.csv")
    assert table["trial"].tolist() == ["trial_10", "context"]
    assert table["images_seen"].tolist() == [4, 4]
    assert table[["psnr", "ssim", "parameters_M", "minutes"]].notna().all(axis=None)
    assert "no adherence: attention_res_unet_real_only" in capsys.readouterr().err
    page = (folder / "trials.html").read_text()
    assert page.count('src="data:image/png') == 2
    assert "figures/pairs.png" not in page
    assert (folder / "context" / "figures" / "pairs.png").exists()
    assert "| trial_10 | the source's final configuration | 4 |" in (folder / "trials.md").read_text()
    assert_runs(finished, {"trial_10", "context"})

    monkeypatch.setattr("engine.worker.process.run_task", None)  # nothing is trained a second time
    run_trials(finished, 0, 2, ["trial_10", "context"], SMALL)
    pd.testing.assert_frame_equal(pd.read_csv(folder / "trials.csv"), table)


def assert_runs(forge, names):
    from mlflow import MlflowClient

    client = MlflowClient(forge.tracking_uri())
    experiment = client.get_experiment_by_name("scarforge")
    runs = client.search_runs([experiment.experiment_id], "tags.stage = 'trials'")
    assert {run.data.tags["network"] for run in runs} == names
    assert all("psnr_ventricle" in run.data.metrics and run.info.status == "FINISHED" for run in runs)


def test_what_has_to_be_materialised_is_named(forge):
    with pytest.raises(InputError, match="materialise the asset 'augmented_slices' first"):
        run_trials(forge, 0)


@pytest.fixture(autouse=True)
def _threads():
    yield
    torch.set_num_threads(1)
