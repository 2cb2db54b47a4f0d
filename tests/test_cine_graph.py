"""A source without lesions as a user runs it: the real-only half, end to end, on a miniature ACDC."""

import os
import subprocess
import sys

import pandas as pd
import pytest

from imaging.slices.store import SliceStore
from imaging.studies.archive import StudyArchive
from tests.imaging import fake_acdc

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PATIENTS = tuple(f"patient{number:03d}" for number in range(1, 9))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workspace, and what the command printed."""
    root, home = tmp_path_factory.mktemp("acdc"), tmp_path_factory.mktemp("home")
    for patient in PATIENTS:
        (root / patient).mkdir()
        fake_acdc.write_patient(root / patient)
    (root / PATIENTS[0] / f"{PATIENTS[0]}_frame12.nii.gz").write_bytes(b"not an image")
    environment = {**os.environ, "SCARFORGE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    options = ["--source", "acdc", "--root", str(root), "--profile", "tiny"]
    command = [sys.executable, "-m", "pipeline.cli", "run", *options]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return home / "acdc" / "tiny", result


def test_only_the_real_half_is_built(run):
    root, _ = run
    built = {folder.name for folder in root.iterdir() if not folder.name.startswith(".")}
    assert {"attention_res_unet_real_only_scores", "halsr_net_real_only_scores"} <= built
    assert not [name for name in built if "gan" in name or "synth" in name or name in ("pix2pix", "lesion_masks")]


def test_both_frames_of_every_patient_are_there_but_the_broken_one(run):
    root, result = run
    archive = StudyArchive.open(root / "studies" / "studies.h5")
    assert set(archive.keys()) == {(p, f) for p in PATIENTS for f in ("ED", "ES")} - {(PATIENTS[0], "ES")}
    assert "left out patient001" in result.stderr


def test_training_slices_hold_cavity_and_myocardium_only(run):
    root, _ = run
    with SliceStore.open(root / "training_set_real_only" / "fold_0" / "slices.h5") as store:
        assert store.label_set.name == "cine"
        assert set(store.rows["origin"]) == {"augmented"}
        assert store.masks().max() == 2


@pytest.mark.parametrize("network", ["attention_res_unet", "halsr_net"])
def test_test_patients_are_scored_frame_by_frame(run, network):
    root, _ = run
    path = root / f"{network}_real_only_scores" / "fold_0" / "seed_0" / "scores.csv"
    scores = pd.read_csv(path, dtype={"frame": str})
    own = scores[(scores["network"] == network) & (scores["metric"] == "dice") & (scores["rule"] == "positive")]
    assert set(own["tissue"]) == {"cavity", "myocardium"}
    assert set(own["frame"]) == {"ED", "ES"}


def test_the_scores_are_printed(run):
    _, result = run
    for word in ("Attention Res-UNet", "HALSR-Net", "cavity", "myocardium", "pooled"):
        assert word in result.stdout
