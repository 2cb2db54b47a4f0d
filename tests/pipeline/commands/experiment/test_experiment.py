"""An experiment on phantom patients: killed between cells, continued, shared, checked, reported and told of."""

import re
import shutil
from dataclasses import replace

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from assets.quality import quality_checks
from common.errors import InputError
from engine.forge import Forge
from engine.record import read_record
from engine.worker.process import run_task
from imaging.slices.store import SliceStore, SliceStoreWriter
from imaging.studies.leakage import UNKNOWN, find_leaks
from imaging.studies.split import read_split
from pipeline.cli import app
from pipeline.commands.experiment.cells import Bench, Experiment
from pipeline.commands.experiment.plan import Plan
from pipeline.commands.experiment.report import conduct, status_lines
from segmentation.comparison.arms import ScoredTable, compare_arms
from segmentation.scoring.scores import SCORE_COLUMNS, read_scores
from tests.engine.test_nothing_is_trained_twice import Killed, NoTracker

pytestmark = pytest.mark.slow

SMALL = [
    "device=cpu",
    "precision=fp32",
    "processes=1",
    "phantom.slices=[2, 2]",
    "region.size_px=64",
    "training_slices=24",
    "localiser.steps=1",
    "localiser.validate_every=1",
    "pix2pix.steps=1",
    "pix2pix.validate_every=1",
    "pix2pix.crop_px=64",
    "halsr_net.crop_px=64",
    "attention_res_unet.network={name: attention_res_unet, widths: [4, 4, 4], bottleneck: 4, dropout: [0]}",
    "attention_res_unet.steps=3",
    "attention_res_unet.validate_every=1",
    "attention_res_unet.batch=2",
    "quality.slices=10",
]
ARMS = {"real_only": {}, "replace": {}, "add": {"set": ["mixing.protocol=add"]}}


def plan(**changes) -> Plan:
    content = {"name": "tryout", "profile": "tiny", "set": SMALL, "folds": [0], "arms": ARMS, **changes}
    return Plan.model_validate(content)


@pytest.fixture(scope="module")
def trained():
    """The folders that were trained into; trainings run in this process and are not tracked."""
    folders = []

    def train(_, task):
        folders.append(task.folder)
        run_task(task)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("assets.parts.training_run.run_pipes", train)
        for module in ("engine.worker.process", "engine.tracking.tracker", "pipeline.commands.experiment.report"):
            patch.setattr(f"{module}.Tracker", NoTracker)
        patch.setenv("DAGSTER_HOME", "")
        yield folders
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def home(tmp_path_factory, empty_store, trained):
    """A workspace in which a plan was killed in its second cell, and carried through by the same command."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copy2(empty_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bench, "_train", killed_after(1))
        with pytest.raises(Killed):
            conduct(plan(), folder)
    trained.append("killed")
    conduct(plan(), folder)
    return folder


def killed_after(count):
    train, done = Bench._train, []

    def until(bench, cell):
        if len(done) == count:
            raise Killed
        done.append(cell)
        train(bench, cell)

    return until


@pytest.fixture
def root(home):
    return home / "phantom" / "tiny" / "experiments" / "tryout"


def test_nothing_is_trained_twice_and_arms_share_their_generator(home, trained):
    names = [folder.split("/arms/")[1].split("/")[:2] for folder in trained if folder != "killed"]
    assert [asset for _, asset in names].count("pix2pix") == 1
    assert [asset for _, asset in names].count("lv_localiser") == 1
    # Real only of 3 and of 4 steps, of which the latter is the judge of the arm that adds, too.
    assert [asset for _, asset in names].count("attention_res_unet_real_only") == 2
    assert [asset for _, asset in names].count("attention_res_unet_real_plus_gan") == 2
    assert len(names) == 6
    before = trained.index("killed")
    assert 0 < before < 6


def test_the_same_command_again_trains_nothing(home, root, trained, capsys):
    before, tables = len(trained), (root / "scores.csv").read_bytes()
    conduct(plan(), home)
    assert len(trained) == before
    assert (root / "scores.csv").read_bytes() == tables
    assert "4 cells, 4 done" in capsys.readouterr().err


def test_shared_folders_take_up_the_disk_once(root):
    files = sorted(root.glob("arms/*/real_slices/fold_0/slices.h5"))
    assert len(files) == 4
    assert len({file.stat().st_ino for file in files}) == 1


def test_validation_patients_are_scored_as_the_scores_assets_score(root):
    scores = pd.read_csv(root / "scores.csv", keep_default_na=False)
    assert list(scores.columns) == [*SCORE_COLUMNS, "arm", "patients"]
    assert set(scores["arm"]) == {"real_only", "real_only_4_steps", "replace", "add"}
    split = read_split(next(root.glob("arms/real_only-*/patient_split/patient_split.json")), 0)
    assert set(scores["case_id"]) - {"all"} == set(split.validation)
    assert {"official", "positive", "pooled", "per_slice"} <= set(scores["rule"])


def test_the_report_says_what_comparison_says_of_the_same_two_arms(root):
    tables = [
        ScoredTable(read_scores(next(root.glob(f"arms/{arm}-*/*_scores_of_validation/fold_0/seed_0/scores.csv"))), {})
        for arm in ("real_only", "replace")
    ]
    expected = compare_arms(tables).differences
    found = pd.read_csv(root / "differences.csv")
    own = found[found["arm"] == "replace"].reset_index(drop=True)
    same = ["tissue", "rule", "difference", "low", "high", "p_value", "detectable", "pairs", "folds", "seeds"]
    pd.testing.assert_frame_equal(own[same], expected[same], check_dtype=False)
    assert set(found[found["arm"] == "add"]["against"]) == {"real_only_4_steps"}
    page, text = ((root / name).read_text() for name in ("report.html", "report.md"))
    assert "data:image/svg+xml" in page
    assert set(re.findall(r'src="(\w+:)', page)) == {"data:"}
    assert "too few patients" in page
    assert "Validation patients are scored" in text


def test_status_tells_every_cell(home, root):
    lines = status_lines(Experiment.of(plan(folds=[0, 1]), home))
    assert sum(line.count("done, ") for line in lines[0].splitlines()) == 4
    assert "to do" in lines[0]
    assert "4 of 8 cells are done; 4 segmenters and 1 generators at most are left to train: about" in lines[-1]
    told = CliRunner().invoke(app, ["experiment", "status"], env={"SCARFORGE_HOME": str(home)})
    assert "tryout: 4 arms x 1 networks x 1 folds x 1 seeds x 1 numbers of patients: 4 cells, 4 done" in told.output
    told = CliRunner().invoke(app, ["experiment", "status", str(root / "plan.yaml")], env={"SCARFORGE_HOME": str(home)})
    assert "4 of 4 cells are done; nothing is left to train" in told.output


def test_code_or_inputs_of_another_day_leave_a_cell_to_do(home, monkeypatch):
    bench = Experiment.of(plan(), home).benches()[0]
    (cell,) = bench.cells
    assert bench.done(cell)
    monkeypatch.setattr("pipeline.commands.experiment.cells._code_version", lambda _: "another")
    assert not bench.done(cell)
    monkeypatch.undo()
    changed = Experiment.of(plan(set=[*SMALL, "phantom.seed=5"]), home).benches()[0]
    assert not changed.done(cell)


def test_unknown_arms_and_folds_are_refused(home):
    with pytest.raises(InputError, match="--only nobody: the plan has the arms real_only"):
        conduct(plan(), home, ["nobody"])
    with pytest.raises(InputError, match=r"--fold 3: the plan has the folds \[0\]"):
        conduct(plan(), home, folds=[3])


def test_failed_checks_block_an_arm_or_are_told(home, monkeypatch):
    def fail(report, settings):
        checks = quality_checks(report, settings)
        return tuple(
            replace(one, passed=False, figures={"found": 0.1}) if one.name == "variety" else one for one in checks
        )

    monkeypatch.setattr("assets.quality.quality_checks", fail)
    judged = {"name": "judged", "set": [*SMALL, "quality.minimum_variety=0.2"], "arms": {"replace": {}}}
    with pytest.raises(InputError, match=r"1 of the plan could not be made, the rest is done: .*variety \(found 0.1"):
        conduct(plan(**judged), home)
    root = home / "phantom" / "tiny" / "experiments" / "judged"
    assert set(pd.read_csv(root / "scores.csv")["arm"]) == {"real_only"}
    assert "refused by checks" in "\n".join(status_lines(Experiment.of(plan(**judged), home)))
    conduct(plan(**judged, checks="warn"), home)
    assert set(pd.read_csv(root / "scores.csv")["arm"]) == {"real_only", "replace"}
    said = "replace, fold 0, was trained on synthetic slices that fail variety (found 0.1)."
    assert said in (root / "report.md").read_text()


def test_fewer_patients_are_all_that_anything_of_an_arm_is_made_of(home):
    few = plan(name="few", patients=[5], arms={"real_only": {}, "replace": {}}, scored_on="test", curve=True)
    conduct(few, home)
    root = home / "phantom" / "tiny" / "experiments" / "few"
    (arm,) = root.glob("arms/replace-5-*")
    split = read_split(arm / "patient_split" / "patient_split.json", 0)
    assert len(split.train) == 5
    for asset in ("real_slices", "augmented_slices", "lesion_masks", "synthetic_slices", "training_set_real_plus_gan"):
        rows = SliceStore.open(arm / asset / "fold_0" / "slices.h5").rows
        assert not set(rows["case_id"]) & set(split.left_out), asset
        if asset != "real_slices":
            assert find_leaks(rows, split).empty, asset
    scores = pd.read_csv(root / "scores.csv")
    assert set(scores["case_id"]) - {"all"} == set(split.test)
    assert set(scores["patients"]) == {5}
    assert (root / "curve.svg").read_text().startswith("<?xml")
    assert read_record(arm / "attention_res_unet_real_plus_gan_scores" / "fold_0" / "seed_0", "scores").made_of


def test_slices_of_a_folder_are_an_arm_and_are_taken_anew_when_they_change(home, root, tmp_path):
    (own,) = root.glob("arms/replace-all-*")
    store = tmp_path / "DIR" / "fold_0" / "slices.h5"
    store.parent.mkdir(parents=True)
    shutil.copy2(own / "synthetic_slices" / "fold_0" / "slices.h5", store)
    asked = ["synthesis.method=folder", f"synthesis.root={tmp_path / 'DIR'}", "synthesis.donors=unknown"]
    outside = plan(name="outside", arms={"real_only": {}, "folder": {"set": asked}})
    conduct(outside, home)
    written = home / "phantom" / "tiny" / "experiments" / "outside"
    (arm,) = written.glob("arms/folder-all-*")
    sets = [SliceStore.open(each / "training_set_real_plus_gan" / "fold_0" / "slices.h5") for each in (own, arm)]
    for first, second in zip(*([one.images(), one.masks(), one.rows.to_numpy()] for one in sets), strict=True):
        assert (first == second).all()
    assert sets[0].digest != sets[1].digest
    assert not (arm / "pix2pix" / "fold_0" / "weights.safetensors").exists()
    assert "Donors unknown" not in (written / "report.md").read_text()
    _forget_donors(store)
    (bench,) = (one for one in Experiment.of(outside, home).benches() if one.arm.name == "folder")
    assert not bench.done(bench.cells[0])
    conduct(outside, home)
    assert (
        "Donors unknown: of 12 of 12 synthetic slices of folder, fold 0 nobody has told which patients they"
        in (written / "report.md").read_text()
    )


def _forget_donors(path):
    with SliceStore.open(path) as store:
        images, masks, rows = store.images(), store.masks(), store.rows
        attributes = store.attributes
    with SliceStoreWriter(path, attributes) as writer:
        writer.append(images, masks, rows.assign(case_id=UNKNOWN, donor_ids=UNKNOWN))


def test_runs_are_tagged_with_experiment_and_arm():
    forge = Forge(experiment="screening/arms/repaint-add-20-1a2b3c4d")
    assert forge.experiment_tags == {"experiment": "screening", "arm": "repaint-add", "patients": "20"}
    assert Forge().experiment_tags == {}
