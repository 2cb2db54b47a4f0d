"""The command on a fold whose slices lie there finished: trained, scored, tabulated, found again and continued."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import pipeline.commands.sweep.sweep
from assets.parts.inputs import VARIED_SLICES
from common.errors import InputError
from engine.forge import Forge
from engine.outcome import Outcome
from engine.record import produce
from imaging.augmentation.varied import write_augmented_slices
from imaging.phantom import read_phantom
from imaging.slices.mixing import write_training_set
from imaging.slices.regions import write_real_slices, write_regions
from imaging.slices.store import SliceStore, SliceStoreWriter
from imaging.sources.table import source_labels
from imaging.studies.archive import StudyArchive
from imaging.studies.archive_writer import write_studies
from imaging.studies.box import Box
from imaging.studies.leakage import find_leaks
from imaging.studies.preparation import reference_box
from imaging.studies.split import read_split, split_patients, write_splits
from pipeline.cli import app
from pipeline.commands.sweep.plan import SweepPoint, equal_total, plan_points, read_patients, read_seeds, read_shares
from pipeline.commands.sweep.sweep import run_sweep
from tests.pipeline.sealed import reseal

SMALL = [
    "device=cpu",
    "precision=fp32",
    "processes=1",
    "region.size_px=64",
    "pix2pix.crop_px=64",
    "halsr_net.crop_px=64",
    "training_slices=24",
    "attention_res_unet.network={name: attention_res_unet, widths: [4, 4, 4], bottleneck: 4, dropout: [0]}",
    "attention_res_unet.steps=2",
    "attention_res_unet.validate_every=1",
    "attention_res_unet.batch=2",
]
SYNTHETIC = 12


@pytest.fixture(scope="module")
def finished(tmp_path_factory, empty_store):
    """A fold of phantom patients with real, augmented and stand-in synthetic slices, as the assets leave them."""
    home = tmp_path_factory.mktemp("finished")
    shutil.copy2(empty_store, home / "mlflow.db")
    forge = Forge(source="phantom", profile="tiny", home=str(home), overrides=SMALL)
    settings, labels = forge.settings(), source_labels("phantom")

    def finish(asset, write):
        def build(folder):
            write(folder)
            return Outcome({})

        produce(forge.folder(asset, 0), asset, asset, build)

    finish(
        "studies", lambda folder: write_studies(folder / "studies.h5", read_phantom(settings.phantom), labels, "p", 5)
    )
    archive = StudyArchive.open(forge.folder("studies") / "studies.h5")
    split = split_patients(archive.groups())[0]
    finish("patient_split", lambda folder: write_splits(folder / "patient_split.json", [split]))
    keys = archive.keys()
    boxes: dict[tuple[str, str], Box] = {key: reference_box(archive.load(*key).mask) for key in keys}

    def cut(folder):
        regions = write_real_slices(folder / "slices.h5", archive, split, boxes, settings.region, 0, "1")
        write_regions(folder / "regions.csv", regions)

    finish("real_slices", cut)
    real = SliceStore.open(forge.folder("real_slices", 0) / "slices.h5")
    train = np.flatnonzero(real.rows["case_id"].isin(split.train).to_numpy())

    def augment(folder):
        write_augmented_slices(folder / "slices.h5", real, train, 24, settings.augment, settings.balance, 0, 1, "1")

    finish("augmented_slices", augment)
    finish("synthetic_slices", lambda folder: write_synthetic(folder / VARIED_SLICES, real, train[:SYNTHETIC]))
    return forge


def write_synthetic(path, real, rows):
    """Real slices that say they are synthetic, each with the next patient as the lender of its lesion."""
    patients = sorted(set(real.rows["case_id"].iloc[rows]))
    own = real.rows.iloc[rows].reset_index(drop=True)
    donors = [patients[(patients.index(case) + 1) % len(patients)] for case in own["case_id"]]
    with SliceStoreWriter(path, real.attributes) as writer:
        writer.append(real.images(rows), real.masks(rows), own.assign(origin="synthetic", donor_ids=donors))


@pytest.fixture
def forge(finished, tmp_path):
    """A copy of the finished fold, to be swept."""
    shutil.copytree(finished.home, tmp_path / "home")
    return finished.model_copy(update={"home": str(tmp_path / "home")})


def point_store(folder, name):
    return SliceStore.open(folder.parent / "training_sets" / name / "slices.h5")


def test_a_sweep_is_trained_tabulated_tracked_and_found_again(forge, monkeypatch):
    points = plan_points((0.0, 0.5, 1.0), (None,))
    folder = run_sweep(forge, 0, points)
    table = pd.read_csv(folder / "sweep.csv")
    assert set(table["synthetic_share"]) == {0, 0.5, 1}
    assert set(table["rule"]) == {"positive", "pooled"}
    assert set(table["augmented_slices"] + table["synthetic_slices"]) == {SYNTHETIC}
    assert table.loc[table["synthetic_share"] > 0, "difference"].notna().all()
    assert table.loc[table["synthetic_share"] == 0, "difference"].isna().all()
    assert (table["low"] <= table["mean"]).all()
    assert set(point_store(folder, "share_1_patients_all").rows["origin"]) == {"synthetic"}
    page = (folder / "sweep.html").read_text()
    assert "<svg" in page
    assert "src=" not in page
    assert "smaller real-only arm of 12" in page
    assert "generator" not in page  # all patients are used
    assert "| 0.5 |" in (folder / "sweep.md").read_text()
    assert_nested_runs(forge, {point.name for point in points})

    monkeypatch.setattr("engine.worker.process.run_task", None)  # nothing is trained a second time
    run_sweep(forge, 0, points)
    pd.testing.assert_frame_equal(pd.read_csv(folder / "sweep.csv"), table)


def assert_nested_runs(forge, names):
    from mlflow import MlflowClient

    client = MlflowClient(forge.tracking_uri())
    experiment = client.get_experiment_by_name("scarforge")
    runs = client.search_runs([experiment.experiment_id])
    by_stage = {stage: [run for run in runs if run.data.tags["stage"] == stage] for stage in ("sweep", "sweep_point")}
    (parent,) = by_stage["sweep"]
    assert {run.data.tags["training_set"] for run in by_stage["sweep_point"]} == names
    assert {run.data.tags["mlflow.parentRunId"] for run in by_stage["sweep_point"]} == {parent.info.run_id}
    trained = [run for run in runs if run.data.tags["stage"] == "sweep_training"]
    points = {run.info.run_id for run in by_stage["sweep_point"]}
    assert {run.data.tags["mlflow.parentRunId"] for run in trained} == points
    assert all(run.info.status == "FINISHED" for run in runs)
    assert all("dice/positive/cavity" in run.data.metrics for run in by_stage["sweep_point"])


def test_share_0_of_the_profile_s_size_is_the_real_only_arm(forge, tmp_path):
    folder = run_sweep(forge, 0, [SweepPoint(0.0)])
    augmented = SliceStore.open(forge.folder("augmented_slices", 0) / "slices.h5")
    write_training_set(tmp_path / "arm.h5", [(augmented, 24)], forge.settings().split_seed, "1")
    assert point_store(folder, "share_0_patients_all").digest == SliceStore.open(tmp_path / "arm.h5").digest


def test_fewer_patients_leave_out_every_slice_with_another_donor(forge):
    patients = 8
    folder = run_sweep(forge, 0, [SweepPoint(0.2, patients)])
    store = point_store(folder, f"share_0.2_patients_{patients}")
    used = set(store.rows["case_id"]) | set(store.rows["donor_ids"]) - {""}
    split = read_split(forge.folder("patient_split") / "patient_split.json", 0)
    assert len(used) <= patients < len(split.train)
    assert find_leaks(store.rows, split).empty
    assert {path.name for path in store.path.parent.iterdir()} == {"slices.h5", "record.json"}
    assert f"trained on all {len(split.train)} training patients" in " ".join((folder / "sweep.md").read_text().split())


def test_a_sweep_that_was_stopped_goes_on_where_it_was(forge, monkeypatch):
    points, trained = plan_points((0.0, 0.5), (None,)), []
    train = pipeline.commands.sweep.sweep.SweepBench._train

    def counted(bench, point, *rest):
        trained.append(point.name)
        return train(bench, point, *rest)

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline.commands.sweep.sweep.SweepBench, "_train", counted)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline.commands.sweep.sweep, "score_model", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_sweep(forge, 0, points, slices=12)
    folder = run_sweep(forge, 0, points, slices=12)
    assert trained == [point.name for point in points]
    assert len(pd.read_csv(folder / "sweep.csv")["training_set"].unique()) == 2


def test_too_few_slices_are_refused_with_what_there_is(forge):
    with pytest.raises(
        InputError, match=r"share_1_patients_all needs 24 of synthetic_slices, which has 12.*--slices 12"
    ):
        run_sweep(forge, 0, plan_points((0.0, 1.0), (None,)), slices=24)
    with pytest.raises(InputError, match="share_1_patients_1 needs 10 of synthetic_slices, which has 0"):
        run_sweep(forge, 0, [SweepPoint(1.0, 1)])


def test_a_test_patient_among_the_donors_is_refused(forge):
    split = read_split(forge.folder("patient_split") / "patient_split.json", 0)
    path = forge.folder("synthetic_slices", 0) / VARIED_SLICES
    store = SliceStore.open(path)
    with SliceStoreWriter(path.with_name("leaking.h5"), store.attributes) as writer:
        writer.append(store.images(), store.masks(), store.rows.assign(donor_ids=split.test[0]))
    path.with_name("leaking.h5").replace(path)
    reseal(path.parent)
    with pytest.raises(InputError, match=rf"synthetic_slices: leakage in fold 0: {split.test[0]} \(test"):
        run_sweep(forge, 0, [SweepPoint(0.5)])


def test_what_is_missing_or_unknown_is_named(forge):
    with pytest.raises(InputError, match=r"fold_3: no finished result; materialise the asset 'real_slices' first"):
        run_sweep(forge, 3, [SweepPoint(0.0)])
    with pytest.raises(InputError, match="'unet' does not exist; choose attention_res_unet or halsr_net"):
        run_sweep(forge, 0, [SweepPoint(0.0)], "unet")
    with pytest.raises(InputError, match="99 training patients were asked for"):
        run_sweep(forge, 0, [SweepPoint(0.0, 99)])
    shutil.rmtree(forge.folder("synthetic_slices", 0))
    with pytest.raises(InputError, match="materialise the asset 'synthetic_slices' first"):
        run_sweep(forge, 0, [SweepPoint(0.5)])


def test_options_are_read():
    assert read_shares("1,0,0.25") == (0.0, 0.25, 1.0)
    assert read_patients("all,20,10") == (10, 20, None)
    assert (read_seeds(""), read_seeds("2,0")) == ((), (0, 2))
    names = [point.name for point in plan_points((0.0, 0.5), (10, 20, None))]
    assert names[:3] == ["share_0_patients_all", "share_0.5_patients_all", "share_0_patients_20"]


@pytest.mark.parametrize(
    ("read", "text", "words"),
    [
        (read_shares, "0,1.5", "1.5 is outside 0 to 1"),
        (read_shares, "-0.1", "-0.1 is outside"),
        (read_shares, "0,0.5,0.50", "names 0.5 twice"),
        (read_shares, "0,,1", "'' is no number"),
        (read_shares, "nan", "'nan' is no number"),
        (read_patients, "ten", "'ten' is no number"),
        (read_patients, "0,all", "0 is no number of patients"),
        (read_patients, "2.5", "2.5 is no number of patients"),
        (read_patients, "10,10", "names 10 twice"),
        (read_patients, "all,all", "names all twice"),
        (read_seeds, "-1", "no whole numbers"),
    ],
)
def test_options_that_mean_nothing_are_refused(read, text, words):
    with pytest.raises(InputError, match=words):
        read(text)


def test_the_command_refuses_before_it_starts():
    found = CliRunner().invoke(app, ["sweep", "--synthetic-share", "0,2"])
    assert isinstance(found.exception, InputError)


@pytest.mark.parametrize(
    ("share", "augmented", "synthetic", "largest"),
    [(0.0, 30, 0, 30), (1.0, 30, 20, 20), (0.5, 30, 20, 41), (0.25, 30, 20, 40)],
)
def test_the_largest_total_is_what_the_pools_hold(share, augmented, synthetic, largest):
    pools = {SweepPoint(share): {"augmented_slices": augmented, "synthetic_slices": synthetic}}
    assert equal_total(pools, None, 1000) == largest
    assert equal_total(pools, None, 15) == 15
    with pytest.raises(InputError, match=f"--slices {largest}"):
        equal_total(pools, 60, 1000)


@pytest.fixture(autouse=True)
def _threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
