"""The whole graph as a user runs it: killed half way, continued by the same command, tracked, compared."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from segmentation.scoring.scores import SCORE_COLUMNS
from tests.imaging.fake_emidec import write_nifti

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

COMMAND = [sys.executable, "-m", "pipeline.cli", "run", "--profile", "tiny", "--fold", "1"]
ASSETS_BEFORE_THE_KILL = ("studies", "patient_split", "lv_localiser", "real_slices")
NETWORKS = ("attention_res_unet", "halsr_net")
ARMS = ("real_only", "real_plus_gan")


def start(home):
    environment = {**os.environ, "SCARFORGE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.Popen(
        COMMAND, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """The workspace, the lines of the second of two runs, its table, and what the first had made when it was killed."""
    home = tmp_path_factory.mktemp("home")
    first, told = start(home), []
    for line in first.stderr:
        told.append(line)
        if line.strip().startswith("+ real_slices"):
            break
    time.sleep(2)  # into the middle of the next stage
    os.killpg(first.pid, signal.SIGKILL)
    told += first.communicate()[1].splitlines()
    made = tuple(line.split()[1] for line in told if line.startswith("  + "))
    second = start(home)
    table, lines = second.communicate()
    assert second.returncode == 0, lines
    return home / "phantom" / "tiny", lines.splitlines(), table, made


def test_what_was_finished_before_the_kill_is_found_again(workspace):
    _, lines, _, made = workspace
    found = tuple(line.split()[1] for line in lines if line.startswith("  = "))
    assert made[: len(ASSETS_BEFORE_THE_KILL)] == ASSETS_BEFORE_THE_KILL
    assert found[: len(made)] == made
    assert len(found) <= len(made) + 1  # one may have been sealed and not yet told


def test_nothing_half_written_is_left(workspace):
    root, _, _, _ = workspace
    assert not list(root.rglob(".*.partial"))
    assert not list(root.rglob(".*.old"))


def test_every_model_has_scores_of_every_tissue_under_every_rule(workspace):
    root, _, _, _ = workspace
    for network in NETWORKS:
        for arm in ARMS:
            scores = pd.read_csv(root / f"{network}_{arm}_scores" / "fold_1" / "seed_0" / "scores.csv")
            assert tuple(scores.columns) == SCORE_COLUMNS
            own = scores[(scores["network"] == network) & (scores["metric"] == "dice")]
            assert set(own["rule"]) == {"official", "positive", "pooled", "per_slice"}
            assert own["value"].between(0, 1).all()
            assert set(scores["network"]) == {network, "all_background", "mean_mask", "other_patient"}


def test_the_table_shows_both_arms_of_both_networks(workspace):
    _, _, table, _ = workspace
    for word in (*NETWORKS, *ARMS, "cavity", "normal myocardium", "infarct", "no-reflow", "too few patients"):
        assert word in table


def test_arms_are_of_equal_size_and_only_one_holds_synthetic_slices(workspace):
    from imaging.slices.store import SliceStore

    root, _, _, _ = workspace
    origins = {}
    for arm in ARMS:
        with SliceStore.open(root / f"training_set_{arm}" / "fold_1" / "slices.h5") as store:
            origins[arm] = store.rows["origin"].value_counts().to_dict()
    assert origins["real_only"] == {"augmented": 160}
    assert origins["real_plus_gan"] == {"augmented": 80, "synthetic": 80}


def test_no_validation_or_test_patient_reaches_what_is_trained(workspace):
    from imaging.slices.store import SliceStore
    from imaging.studies.leakage import find_leaks
    from imaging.studies.split import read_split

    root, _, _, _ = workspace
    split = read_split(root / "patient_split" / "patient_split.json", 1)
    for asset in ("augmented_slices", "lesion_masks", "synthetic_slices", "training_set_real_plus_gan"):
        with SliceStore.open(root / asset / "fold_1" / "slices.h5") as store:
            assert find_leaks(store.rows, split).empty, asset
            assert len(store)


def label_maps(root, fold, kind, folder, reference):
    """Write what a kind's first seed drew on the fold's test patients, on their own grids, as anybody would."""
    from assets.parts.inputs import open_slices, open_studies
    from engine.forge import Forge
    from imaging.slices.regions import read_regions
    from segmentation.scoring.held_out import HeldOutPatients, read_predictions

    forge = Forge(profile="tiny", home=str(root.parents[1]))
    regions = read_regions(forge.finished("real_slices", fold).file("regions.csv"))
    patients = HeldOutPatients(open_studies(forge), open_slices(forge, "real_slices", fold), regions)
    drawn = read_predictions(forge.finished(f"{kind}_scores", fold, 0).file("predictions.h5")).prediction
    for volume in patients.cases(drawn):
        for place, mask in ((folder, volume.prediction), (reference, volume.reference)):
            write_nifti(place / f"{volume.case_id}.nii.gz", mask.transpose(2, 1, 0), volume.spacing_mm[::-1])


def test_comparing_the_label_maps_of_both_arms_gives_the_comparisons_figures(workspace, tmp_path):
    from segmentation.evaluation.compared_folders import compare_folders
    from segmentation.evaluation.label_maps import EMIDEC

    root, _, _, _ = workspace
    expected = pd.read_csv(root / "comparison" / "differences.csv").set_index(["network", "rule", "tissue"])
    for network in NETWORKS:
        for arm in ARMS:
            folder = tmp_path / network / arm / "fold_1" / "seed_0"
            label_maps(root, 1, f"{network}_{arm}", folder, tmp_path / "reference")
        arms = {arm: tmp_path / network / arm for arm in ARMS}
        found = compare_folders(tmp_path / "reference", arms, EMIDEC).comparison.differences
        ours = found.rename(columns={"first": ARMS[0], "second": ARMS[1]}).set_index(["rule", "tissue"]).sort_index()
        theirs = expected.loc[network].sort_index()
        assert list(ours.index) == list(theirs.index)
        # Holm's correction is over the rows of one table: here those of one network, there those of both.
        figures = theirs.columns.drop(["p_holm", "verdict"])
        np.testing.assert_allclose(ours[figures].astype(float), theirs[figures].astype(float), rtol=0, atol=1e-9)
        assert list(ours["verdict"]) == list(theirs["verdict"])


def test_the_report_shows_patients_segments_and_every_training(workspace):
    root, _, _, _ = workspace
    page = (root / "comparison" / "report.html").read_text(encoding="utf-8")
    assert "tiny" in page
    assert page.count("data:image/png") >= 1
    assert page.count("data:image/svg+xml") == 6  # forest, pairs, two volumes, segments, curves
    assert page.count(">training</a>") == page.count(">scores</a>") == len(NETWORKS) * len(ARMS)


def test_every_training_and_evaluation_is_a_finished_mlflow_run(workspace):
    from mlflow import MlflowClient

    root, _, _, _ = workspace
    home = root.parents[1]
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("scarforge")
    runs = client.search_runs([experiment.experiment_id])
    stages = [(run.data.tags["stage"], run.data.tags["network"], run.data.tags["training_set"]) for run in runs]
    assert len(stages) == len(set(stages))
    for network in NETWORKS:
        for arm in ARMS:
            assert ("training", network, arm) in stages
            assert ("evaluation", network, arm) in stages
    assert {stage for stage, _, _ in stages} >= {"localiser", "synthesis", "synthesis_quality", "comparison"}
    assert {run.info.status for run in runs} == {"FINISHED"}
    evaluation = next(run for run in runs if run.data.tags["stage"] == "evaluation")
    assert "dice/positive/cavity" in evaluation.data.metrics
    assert evaluation.data.tags["fold"] == "1"
    for run in runs:
        if run.data.tags["stage"] in ("localiser", "synthesis", "training"):
            files = {file.path for file in client.list_artifacts(run.info.run_id)}
            assert {"history.csv", "curves.png", "validation.png"} <= files
            assert run.outputs.model_outputs


def test_the_first_pages_ten_lines_run(workspace, monkeypatch, capsys):
    root, _, _, _ = workspace
    page = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(root.parents[2])
    monkeypatch.setenv("SCARFORGE_HOME", str(root.parents[1]))
    code = lines.replace("phantom/demo", "phantom/tiny").replace("fold_0", "fold_1")
    exec(compile(code.replace('"workspace/', f'"{root.parents[1]}/'), "README.md", "exec"), {})
    told = capsys.readouterr().out
    assert "verdict" in told
    assert re.search(r"\((\d+, \d+, \d+)\) \(\1\)", told)


def test_the_notebook_runs(workspace, monkeypatch):
    root, _, _, _ = workspace
    book = json.loads((Path(__file__).parents[1] / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]
    code = "\n".join(cells).replace('profile, fold = "demo", 0', 'profile, fold = "tiny", 1')
    monkeypatch.chdir(root.parents[2])
    monkeypatch.setenv("SCARFORGE_HOME", str(root.parents[1]))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    shown = {}
    exec(compile(code, "notebook.ipynb", "exec"), shown)
    assert set(shown["differences"]["verdict"]) == {"too few patients"}
    assert len(shown["store"].rows) > 0
    shown["plt"].close("all")
