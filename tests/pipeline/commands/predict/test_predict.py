"""`scarforge predict` from files to files, with an untrained network and a localiser that knows the place."""

import errno
import json
import os
import pickle
import sys
from types import ModuleType

import nibabel
import numpy as np
import pandas as pd
import pytest
from pydicom import dcmread

from common.errors import InputError
from imaging.labels import EMIDEC_LABELS
from imaging.slices.regions import RegionConfig
from imaging.volumes.dicom.segmentation import require_highdicom
from pipeline.commands.evaluate import evaluate
from pipeline.commands.models import ModelName, find_members, models_in
from pipeline.commands.predict import predict as predict_module
from pipeline.commands.predict.predict import PredictOptions, predict
from pipeline.outermost import InterruptedCommand
from segmentation.prediction.post_processing import STEPS
from tests.imaging import fake_sunnybrook
from tests.imaging.fake_emidec import (
    SPACING_MM,
    image_of,
    image_path,
    label_map,
    mask_path,
    write_case,
    write_nifti,
)
from tests.pipeline.toy_models import CentralBox, nothing_odd, write_localiser, write_member

MODEL = "emidec/tiny/attention_res_unet/real_only"
# What a DICOM segmentation takes over; a miniature slice has none of it.
PATIENT_AND_STUDY = {
    "StudyInstanceUID": "1.2.3",
    "SeriesInstanceUID": "1.2.3.4",
    "FrameOfReferenceUID": "1.2.3.5",
    "PatientName": "A",
    "PatientBirthDate": "",
    "PatientSex": "",
    "StudyDate": "",
    "StudyTime": "",
    "StudyID": "",
    "AccessionNumber": "",
    "ReferringPhysicianName": "",
}


def no_heart(*_):
    return ["no heart at all"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr("segmentation.localiser.box_prediction.load_localiser", CentralBox)
    write_member(tmp_path / "home", 0, 0)
    return tmp_path / "home"


@pytest.fixture
def plausible(monkeypatch):
    """An untrained network draws nothing plausible; let it pass."""
    monkeypatch.setattr("segmentation.prediction.plausibility.implausibilities", nothing_odd)


def write_study(path, case_id="Case_P002", **changes):
    write_nifti(path, image_of(label_map(case_id)), **changes)
    return path


def run(home, output, *studies, **options):
    return predict(home, studies, PredictOptions(MODEL, output, **options))


def test_a_study_gives_map_numbers_pictures_and_a_page(tmp_path, home, plausible):
    study = write_study(tmp_path / "in" / "Patient 7.nii.gz")
    assert run(home, tmp_path / "out", study) == 0
    out = tmp_path / "out"
    written = nibabel.load(out / "Patient 7.nii.gz")
    assert written.shape == nibabel.load(study).shape
    np.testing.assert_array_equal(written.affine, nibabel.load(study).affine)
    assert written.header.get_zooms() == SPACING_MM
    content = json.loads((out / "Patient 7.json").read_text())
    voxels = np.bincount(np.asarray(written.dataobj).astype(int).ravel(), minlength=5)
    assert content["volumes_ml"]["cavity"] == pytest.approx(voxels[1] * np.prod(SPACING_MM) / 1000)
    assert content["familiarity"] == "not checked"
    assert content["model"]["localiser"] == "emidec/tiny, fold 0"
    assert content["flags"] == []
    row = pd.read_csv(out / "predictions.csv").loc[0]
    assert row["likeness"] == "not checked"
    assert row["infarction_ml"] == pytest.approx(voxels[3:].sum() * np.prod(SPACING_MM) / 1000)
    assert (out / "overlays" / "Patient 7.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "entropy" / "Patient 7.png").exists()
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "<title>Patient 7: prediction</title>" in page
    assert "<h1><small>Prediction</small> Patient 7</h1>" in page
    slices = written.shape[2]
    assert page.count("<image id=") == page.count('<use href="#image-') == slices  # image and contours side by side
    for row in (
        "infarction</th><td>total infarct = scar + MVO",
        "no-reflow</th><td>MVO",
        "cavity</th><td>LV blood pool",
    ):
        assert row in page
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page


def classes_of(out, name):
    labels = EMIDEC_LABELS.tissues
    files = [nibabel.load(out / "probabilities" / f"{name}_{tissue}.nii.gz") for tissue in labels]
    return files, np.stack([np.asarray(file.dataobj) for file in files])


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 10.0), SPACING_MM, (0.7, 0.7, 8.0)])
def test_probabilities_lie_on_the_studys_grid_and_their_arg_max_is_the_label_map(tmp_path, home, plausible, spacing_mm):
    affine = np.diag([-spacing_mm[0], spacing_mm[1], spacing_mm[2], 1.0])
    study = write_study(tmp_path / "in" / "a.nii.gz", spacing_mm=spacing_mm, affine=affine)
    assert run(home, tmp_path / "out", study, probabilities=True) == 0
    drawn = np.asarray(nibabel.load(tmp_path / "out" / "a.nii.gz").dataobj)
    files, probabilities = classes_of(tmp_path / "out", "a")
    np.testing.assert_array_equal(probabilities.argmax(axis=0), drawn)
    assert len(np.unique(drawn)) > 2
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=3e-3)
    np.testing.assert_array_equal(probabilities, probabilities.astype(np.float16))
    for file in files:
        np.testing.assert_array_equal(file.affine, nibabel.load(study).affine)
    outside = (probabilities[1:] == 0).all(axis=0)
    assert (probabilities[0][outside] == 1).all()


def test_probabilities_are_no_studies_and_no_label_maps(tmp_path, home, plausible):
    studies = tmp_path / "in"
    write_study(studies / "a.nii.gz")
    for _ in range(2):
        assert run(home, studies / "out", studies, probabilities=True) == 0
    write_nifti(tmp_path / "reference" / "a.nii.gz", label_map("Case_P002"))
    assert evaluate(tmp_path / "reference", studies / "out", "emidec", tmp_path / "scores") == 0
    run(home, studies / "out", studies, probabilities=True)
    assert len(list((studies / "out" / "probabilities").glob("*.nii.gz"))) == 5


def test_as_nnunet_lays_them_all_label_maps_lie_together_under_their_studys_name(tmp_path, home):
    for name in ("a_0000", "b_0000"):
        write_study(tmp_path / "imagesTs" / f"{name}.nii.gz")
    out = tmp_path / "out"
    assert run(home, out, tmp_path / "imagesTs", layout="nnunet") == 3
    assert sorted(path.name for path in out.glob("*.nii.gz")) == ["a.nii.gz", "b.nii.gz"]
    assert not (out / "flagged").exists()
    assert pd.read_csv(out / "predictions.csv")["flags"].notna().all()
    dataset = json.loads((out / "dataset.json").read_text())
    assert sorted(dataset["labels"].values()) == [0, 1, 2, 3, 4]
    assert dataset["file_ending"] == ".nii.gz"


def test_two_studies_of_one_name_without_their_channel_are_refused(tmp_path, home):
    studies = [write_study(tmp_path / f"{name}.nii.gz") for name in ("a_0000", "a")]
    with pytest.raises(InputError, match="called 'a' without its channel; rename one"):
        run(home, tmp_path / "out", *studies, layout="nnunet")


def test_an_unknown_layout_is_refused(tmp_path, home):
    with pytest.raises(InputError, match="--layout 'monai' is unknown; choose one of scarforge, nnunet"):
        run(home, tmp_path / "out", tmp_path, layout="monai")


@pytest.mark.parametrize("place", ["results", "."])
def test_results_below_the_studies_are_no_studies_at_the_next_call(tmp_path, home, plausible, place):
    studies = tmp_path / "in"
    write_study(studies / "p1" / "a.nii.gz")
    for _ in range(2):
        assert run(home, studies / place, studies) == 0
        assert list(pd.read_csv(studies / place / "predictions.csv")["case_id"]) == ["a"]
    write_study(studies / place / "p2" / "b.nii.gz")
    run(home, studies / place, studies)
    assert sorted(pd.read_csv(studies / place / "predictions.csv")["case_id"]) == ["a", "b"]


def test_flagged_results_are_no_studies_either(tmp_path, home):
    studies = tmp_path / "in"
    write_study(studies / "p1" / "a.nii.gz")
    for _ in range(2):
        assert run(home, studies / "out", studies) == 3
    assert (studies / "out" / "flagged" / "a.nii.gz").is_file()


def test_seeds_and_folds_are_averaged_unless_a_fold_is_named(tmp_path, home, plausible, capsys):
    write_member(home, 0, 1)
    write_member(home, 3, 0)
    study = write_study(tmp_path / "a.nii.gz")
    run(home, tmp_path / "all", study)
    assert "3 networks, localiser emidec/tiny, fold 0, 3" in capsys.readouterr().err
    content = json.loads((tmp_path / "all" / "a.json").read_text())
    assert content["model"]["members"] == [{"fold": 0, "seed": 0}, {"fold": 0, "seed": 1}, {"fold": 3, "seed": 0}]
    assert content["uncertainty"]["cavity"]["spread_ml"] >= 0
    run(home, tmp_path / "one", study, fold=3)
    content = json.loads((tmp_path / "one" / "a.json").read_text())
    assert content["model"]["members"] == [{"fold": 3, "seed": 0}]
    assert content["uncertainty"]["cavity"]["spread_ml"] is None


def nothing_left(masks, labels):
    return np.zeros_like(masks)


def test_post_processing_is_off_until_asked_for_and_then_told_with_its_reason(tmp_path, home, plausible, monkeypatch):
    monkeypatch.setattr("segmentation.prediction.post_processing.STEPS", {**STEPS, "largest_piece": nothing_left})
    dice = {"none": 0.5, "largest_piece": 0.512, "one_ring": 0.5, "no_reflow_in_infarct": 0.5}
    write_member(home, 0, 0, post_processing={"chosen": ["largest_piece"], "mean_dice": dice})
    study = write_study(tmp_path / "a.nii.gz")
    drawn = {}
    for name, options in {"off": {}, "on": {"post_processing": True}}.items():
        run(home, tmp_path / name, study, **options)
        drawn[name] = np.count_nonzero(nibabel.load(tmp_path / name / "a.nii.gz").dataobj)
    assert drawn["off"] > drawn["on"] == 0
    told = {name: json.loads((tmp_path / name / "a.json").read_text())["model"]["post_processing"] for name in drawn}
    assert told["off"] == "not asked for"
    assert told["on"][0] == {"step": "largest_piece", "applied": True, "why": "validation Dice +0.0120"}
    pages = {name: (tmp_path / name / "index.html").read_text(encoding="utf-8") for name in drawn}
    assert "Post-processing: not asked for." in pages["off"]
    assert "applied (validation Dice +0.0120)" in pages["on"]


def test_an_implausible_result_goes_to_flagged_and_back_when_it_is_not(tmp_path, home, monkeypatch, capsys):
    study, out = write_study(tmp_path / "a.nii.gz"), tmp_path / "out"
    monkeypatch.setattr("segmentation.prediction.plausibility.implausibilities", no_heart)
    assert run(home, out, study) == 3
    assert "flagged: a: no heart at all" in capsys.readouterr().err
    for name in ("a.nii.gz", "a.json", "overlays/a.png", "entropy/a.png"):
        assert (out / "flagged" / name).exists()
        assert not (out / name).exists()
    row = pd.read_csv(out / "predictions.csv").loc[0]
    assert (row["flags"], row["label_map"]) == ("no heart at all", "flagged/a.nii.gz")
    page = (out / "index.html").read_text(encoding="utf-8")
    assert 0 < page.index('<div class="notice bad">') < page.index("no heart at all") < page.index("Volumes of a")
    monkeypatch.setattr("segmentation.prediction.plausibility.implausibilities", nothing_odd)
    assert run(home, out, study) == 0
    assert (out / "a.nii.gz").exists()
    assert not (out / "flagged" / "a.nii.gz").exists()


def test_bad_studies_are_one_line_each_and_the_others_go_on(tmp_path, home, plausible, capsys):
    folder = tmp_path / "in"
    write_study(folder / "good.nii.gz")
    (folder / "page.nii.gz").write_bytes(b"<html>not found</html>")
    write_nifti(folder / "flat.nii", np.full((20, 20, 3), 7, np.float32))
    holes = image_of(label_map("Case_P001"))
    holes[3, 3, 1] = np.nan
    write_nifti(folder / "holes.nii", holes)
    assert run(home, tmp_path / "out", folder) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("scarforge: ")]
    assert len(lines) == 3
    assert "every voxel is 7; export it again" in lines[0]
    assert "1 of 5760 voxels are NaN or infinite" in lines[1]
    assert "not a readable NIfTI file" in lines[2]
    assert list(pd.read_csv(tmp_path / "out" / "predictions.csv")["case_id"]) == ["good"]
    assert "&lt;html&gt;" not in (tmp_path / "out" / "index.html").read_text()
    assert "every voxel is 7" in (tmp_path / "out" / "index.html").read_text()


def test_of_many_studies_memory_holds_figures_and_few_pictures(tmp_path, home, plausible, monkeypatch):
    runs = []
    monkeypatch.setattr(predict_module, "MOST_IN_FULL", 2)
    monkeypatch.setattr(predict_module.PredictionRun, "finish", lambda run: runs.append(run) or finish(run))
    studies = [write_study(tmp_path / "in" / f"{name}.nii.gz") for name in "abcd"]
    run(home, tmp_path / "out", *studies)
    assert [bool(part.slices) for part in runs[0].parts] == [bool(part.pictures) for part in runs[0].parts]
    assert [part.told.case_id for part in runs[0].parts if part.slices] == ["a", "b"]
    assert len(pickle.dumps(runs[0].parts[2:])) < 4000  # bytes: no array of a study is kept
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "2 of them are shown slice by slice" in page
    assert [name for name in "abcd" if f"Volumes of {name}" in page] == ["a", "b"]
    assert (tmp_path / "out" / "overlays" / "d.png").is_file()


finish = predict_module.PredictionRun.finish


def test_a_full_disk_ends_the_command_at_the_file_and_leaves_no_half_of_a_study(tmp_path, home, plausible, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    studies = [write_study(tmp_path / "in" / f"{name}.nii.gz") for name in "ab"]
    monkeypatch.setattr(predict_module, "_write_bytes", full)
    with pytest.raises(InputError, match=r"/out/overlays/a\.png: cannot be written \(No space left.*free disk space"):
        run(home, tmp_path / "out", *studies)
    assert {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()} == {".scarforge"}


def test_a_signal_leaves_no_half_of_a_study(tmp_path, home, plausible, monkeypatch):
    def interrupted(path, content):
        raise InterruptedCommand

    monkeypatch.setattr(predict_module, "_write_bytes", interrupted)
    with pytest.raises(InterruptedCommand):
        run(home, tmp_path / "out", write_study(tmp_path / "in" / "a.nii.gz"))
    assert {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()} == {".scarforge"}


def test_two_studies_of_one_name_are_both_named(tmp_path, home):
    first, second = write_study(tmp_path / "one" / "a.nii.gz"), write_study(tmp_path / "two" / "a.nii")
    with pytest.raises(InputError, match=rf"{first} and {second} are both called 'a'"):
        run(home, tmp_path / "out", tmp_path / "one", second)
    assert not (tmp_path / "out").exists()


def test_label_maps_beside_images_of_the_same_name_are_left_out_with_a_word(tmp_path, home, plausible, capsys):
    """As EMIDEC lays them out: `Images/Case_P002.nii.gz` and `Contours/Case_P002.nii.gz`."""
    write_case(tmp_path / "emidec", "Case_P002")
    assert run(home, tmp_path / "out", tmp_path / "emidec") == 0
    told = json.loads((tmp_path / "out" / "Case_P002.json").read_text())
    assert told["input"]["path"] == str(image_path(tmp_path / "emidec", "Case_P002"))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("scarforge: ")]
    assert f"left out: {mask_path(tmp_path / 'emidec', 'Case_P002')}" in line


def test_a_label_map_is_not_segmented(tmp_path, home, capsys):
    write_case(tmp_path / "emidec", "Case_P002")
    mask = mask_path(tmp_path / "emidec", "Case_P002")
    assert run(home, tmp_path / "out", mask) == 2
    assert f"{mask}: all voxels are one of 0, 1, 2, 3, 4: a label map and no image; give" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_names_beyond_ascii_work(tmp_path, home, plausible):
    name = "Größe <b>&amp; 心臓"
    assert run(home, tmp_path / "aus", write_study(tmp_path / "ein" / f"{name}.nii.gz")) == 0
    assert (tmp_path / "aus" / f"{name}.nii.gz").exists()
    assert pd.read_csv(tmp_path / "aus" / "predictions.csv").loc[0, "case_id"] == name
    assert "Größe &lt;b&gt;&amp;amp; 心臓" in (tmp_path / "aus" / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "message"),
    [("caf\udce9.nii", r"caf\udce9.nii': its name is not UTF-8; rename it"), ("new\rline.nii", "holds a line break")],
)
def test_a_name_that_cannot_be_written_is_one_line_and_the_others_go_on(
    tmp_path, home, plausible, capsys, name, message
):
    write_study(tmp_path / "in" / "a.nii").rename(tmp_path / "in" / name)
    write_study(tmp_path / "in" / "good.nii")
    assert run(home, tmp_path / "out", tmp_path / "in") == 2
    (line,) = [line for line in capsys.readouterr().err.split("\n") if line.startswith("scarforge: ")]
    assert message in line
    assert list(pd.read_csv(tmp_path / "out" / "predictions.csv")["case_id"]) == ["good"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("empty", "holds neither NIfTI files nor DICOM slices"),
        ("nothing.nii.gz", "does not exist"),
        ("text.txt", "is no NIfTI file"),
    ],
)
def test_what_holds_no_study_is_refused(tmp_path, home, given, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("hello")
    with pytest.raises(InputError, match=message):
        run(home, tmp_path / "out", tmp_path / given)


def test_a_study_is_never_overwritten_by_its_label_map(tmp_path, home):
    study = write_study(tmp_path / "a.nii.gz")
    before = study.read_bytes()
    with pytest.raises(InputError, match="would be overwritten by its own result"):
        run(home, tmp_path, study)
    assert study.read_bytes() == before


def results_below(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix in (".gz", ".json")}


def two_patients(root, kind):
    """Studies of two patients that are called alike."""
    if kind == "NIfTI":
        cases = ("Case_P002", "Case_P001")
        return [write_study(root / name / "a.nii.gz", case) for name, case in zip("AB", cases, strict=True)]
    for name in "AB":
        fake_sunnybrook.write_case(root, name, phases=(fake_sunnybrook.ED,))
    for path in (root / "B" / "dicom").iterdir():
        content = dcmread(path)
        fake_sunnybrook.edit(path, PixelData=content.pixel_array[::-1].tobytes())
    return [root / name / "dicom" for name in "AB"]


@pytest.mark.parametrize(("kind", "flagged"), [("NIfTI", True), ("DICOM", False)])
def test_a_result_is_not_replaced_by_that_of_another_study_of_its_name(
    tmp_path, home, monkeypatch, capsys, kind, flagged
):
    odd = no_heart if flagged else nothing_odd
    monkeypatch.setattr("segmentation.prediction.plausibility.implausibilities", odd)
    first, second = two_patients(tmp_path, kind)
    status = run(home, tmp_path / "out", first)
    before = results_below(tmp_path / "out")
    assert (status, len(before)) == (3 if flagged else 0, 2)
    monkeypatch.setattr("segmentation.prediction.plausibility.implausibilities", nothing_odd)
    capsys.readouterr()
    assert run(home, tmp_path / "out", second) == 2
    assert results_below(tmp_path / "out") == before
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("scarforge: ")]
    (place,) = [path for path in before if path.suffix == ".json"]
    assert line == (
        f"scarforge: {second}: its result would replace {place}, which was made from other images, of {first}; "
        "choose another --output, or rename the study"
    )
    monkeypatch.setattr("segmentation.prediction.plausibility.implausibilities", odd)
    assert run(home, tmp_path / "out", first) == status
    assert results_below(tmp_path / "out") == before


def test_the_same_voxels_under_two_names_are_one_warning_and_no_flag(tmp_path, home, plausible, capsys):
    first, other = write_study(tmp_path / "in" / "A.nii.gz"), write_study(tmp_path / "in" / "B.nii.gz", "Case_P001")
    (tmp_path / "in" / "C.nii.gz").write_bytes(first.read_bytes())
    assert run(home, tmp_path / "out", tmp_path / "in") == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert warnings == ["warning: C: has the same voxels as A"]
    told = {name: json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in "ABC"}
    assert {name: one["warnings"] for name, one in told.items()} == {
        "A": [],
        "B": [],
        "C": ["has the same voxels as A"],
    }
    assert not [name for name, one in told.items() if one["flags"]]
    assert run(home, tmp_path / "out", first, other) == 0  # of a run of its own nothing is said
    assert "same voxels" not in capsys.readouterr().err


def test_another_study_at_the_same_path_is_told_apart_and_a_copy_is_the_same_study(tmp_path, home, plausible, capsys):
    study, other = two_patients(tmp_path, "NIfTI")
    assert run(home, tmp_path / "out", study) == 0
    copy = tmp_path / "copied" / "a.nii.gz"
    copy.parent.mkdir()
    copy.write_bytes(study.read_bytes())
    assert run(home, tmp_path / "out", copy) == 0
    copy.write_bytes(other.read_bytes())  # as where patient after patient is mounted at one place
    assert run(home, tmp_path / "out", copy) == 2
    assert f"made from other images, of {copy};" in capsys.readouterr().err


def test_an_unreadable_study_does_not_remove_the_result_of_another_of_its_name(tmp_path, home, plausible):
    study, other = two_patients(tmp_path, "NIfTI")
    assert run(home, tmp_path / "out", study) == 0
    before = results_below(tmp_path / "out")
    other.write_bytes(b"<html>")
    assert run(home, tmp_path / "out", other) == 2
    assert results_below(tmp_path / "out") == before


@pytest.mark.parametrize("readable", [True, False])
def test_a_file_of_somebody_else_in_the_place_of_a_result_stays(tmp_path, home, plausible, capsys, readable):
    study, own = write_study(tmp_path / "a.nii.gz"), tmp_path / "out" / "a.nii.gz"
    write_nifti(own, label_map("Case_P002"))
    drawn = own.read_bytes()
    if not readable:
        study.write_bytes(b"<html>")
    assert run(home, tmp_path / "out", study) == 2
    assert own.read_bytes() == drawn
    assert (f"would replace {own}, which ScarForge did not write" in capsys.readouterr().err) == readable


def test_results_of_earlier_runs_that_table_and_page_leave_out_are_named(tmp_path, home, plausible, capsys):
    for name in "ab":
        assert run(home, tmp_path / "out", write_study(tmp_path / f"{name}.nii.gz")) == 0
    said = f"{tmp_path / 'out'}: also holds a of other runs, which predictions.csv and index.html leave out"
    assert said in capsys.readouterr().err
    assert run(home, tmp_path / "out", tmp_path / "a.nii.gz", tmp_path / "b.nii.gz") == 0
    assert "other runs" not in capsys.readouterr().err


def test_a_link_out_of_the_folder_is_one_line(tmp_path, home, capsys):
    study = write_study(tmp_path / "elsewhere" / "a.nii.gz")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.nii.gz").symlink_to(study)
    assert run(home, tmp_path / "out", tmp_path / "in") == 2
    assert "leads out of the folder" in capsys.readouterr().err


def test_a_cine_of_dicom_slices_is_one_study_a_phase(tmp_path, home, plausible):
    fake_sunnybrook.write_case(tmp_path, "SCD0000101")
    assert run(home, tmp_path / "out", tmp_path / "SCD0000101") == 0
    names = ["dicom_frame08", "dicom_frame19"]
    assert list(pd.read_csv(tmp_path / "out" / "predictions.csv")["case_id"]) == names
    written = nibabel.load(tmp_path / "out" / "dicom_frame19.nii.gz")
    assert written.shape == (fake_sunnybrook.COLUMNS, fake_sunnybrook.ROWS, len(fake_sunnybrook.PLACES))
    assert run(home, tmp_path / "one", tmp_path / "SCD0000101", phase=8) == 0
    assert list(pd.read_csv(tmp_path / "one" / "predictions.csv")["case_id"]) == names[:1]
    assert run(home, tmp_path / "none", tmp_path / "SCD0000101", phase=3) == 2


def test_an_lge_series_is_one_volume_whatever_its_header_says_of_phases(tmp_path, home, plausible):
    fake_sunnybrook.write_case(tmp_path, "LGE", phases=(fake_sunnybrook.ED,))
    for place in fake_sunnybrook.PLACES:
        number = fake_sunnybrook.number_of(place, fake_sunnybrook.ED)
        fake_sunnybrook.edit(fake_sunnybrook.dicom_path(tmp_path, "LGE", number), InstanceNumber=place)
    assert run(home, tmp_path / "out", tmp_path / "LGE" / "dicom") == 0
    assert (tmp_path / "out" / "dicom.nii.gz").exists()


def test_dicom_segmentations_without_highdicom_say_what_to_install(tmp_path, home, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(InputError, match=r"pip install 'scarforge\[dicom\]'"):
        run(home, tmp_path / "out", write_study(tmp_path / "a.nii.gz"), dicom_seg=True)
    assert not (tmp_path / "out").exists()


def test_a_dicom_segmentation_holds_the_label_map(tmp_path, home, plausible):
    pytest.importorskip("highdicom")
    fake_sunnybrook.write_case(tmp_path, "LGE", phases=(fake_sunnybrook.ED,))
    for number, path in enumerate(sorted((tmp_path / "LGE" / "dicom").iterdir())):
        fake_sunnybrook.edit(path, **PATIENT_AND_STUDY, SOPInstanceUID=f"1.2.3.4.{number + 1}")
    run(home, tmp_path / "out", tmp_path / "LGE" / "dicom", dicom_seg=True)
    segmentation = require_highdicom().seg.segread(tmp_path / "out" / "dicom.dcm")
    labels = np.asarray(nibabel.load(tmp_path / "out" / "dicom.nii.gz").dataobj)
    names = {text.segment_label: text.segment_number for text in segmentation.SegmentSequence}
    assert segmentation.NumberOfFrames >= 1
    assert set(names) <= {"cavity", "normal myocardium", "infarct", "no-reflow"}
    assert segmentation.pixel_array.sum() == np.count_nonzero(labels)


def test_a_study_that_allows_no_dicom_segmentation_keeps_its_other_results(
    tmp_path, home, plausible, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "highdicom", ModuleType("highdicom"))
    monkeypatch.setattr("segmentation.prediction.study.post_process", lambda drawn, *_: np.zeros_like(drawn))
    fake_sunnybrook.write_case(tmp_path, "LGE", phases=(fake_sunnybrook.ED,))
    assert run(home, tmp_path / "out", tmp_path / "LGE", dicom_seg=True) == 2
    assert "the label map is empty, which DICOM cannot say; see the NIfTI file" in capsys.readouterr().err
    assert (tmp_path / "out" / "dicom.nii.gz").is_file()
    assert list(pd.read_csv(tmp_path / "out" / "predictions.csv")["case_id"]) == ["dicom"]


def test_a_missing_model_names_what_there_is_and_the_command(tmp_path, home):
    assert models_in(home) == ["emidec/tiny/attention_res_unet/real_only (fold 0)"]
    with pytest.raises(InputError) as error:
        find_members(home, ModelName.parse("emidec/quick/halsr_net/real_only"))
    assert "it holds emidec/tiny/attention_res_unet/real_only (fold 0)" in str(error.value)
    assert "`scarforge run --source emidec --root DIR --profile quick --fold 0`" in str(error.value)
    with pytest.raises(InputError, match="fold 4, is not in the workspace"):
        find_members(home, ModelName.parse(MODEL), fold=4)
    with pytest.raises(InputError, match="it holds no trained model"):
        find_members(tmp_path / "nowhere", ModelName.parse(MODEL))
    with pytest.raises(InputError, match="networks are attention_res_unet, halsr_net"):
        find_members(home, ModelName.parse("emidec/tiny/unet/real_only"))


@pytest.mark.parametrize("text", ["emidec/quick", "a/b/c/d/e", "../../etc/passwd", "emidec//x/y"])
def test_what_is_no_model_name_is_refused(text):
    with pytest.raises(InputError, match="SOURCE/PROFILE/NETWORK/TRAINING_SET"):
        ModelName.parse(text)


def test_an_unfinished_training_is_no_member(home):
    folder = write_member(home, 1, 0)
    (folder / "record.json").unlink()
    assert [member.fold for member in find_members(home, ModelName.parse(MODEL))] == [0]


def test_the_localisers_of_another_source_are_named(tmp_path, home, plausible):
    for fold in (0, 2):
        write_localiser(home, fold, "acdc", "quick")
    run(home, tmp_path / "out", write_study(tmp_path / "a.nii.gz"), localiser="acdc/quick")
    assert pd.read_csv(tmp_path / "out" / "predictions.csv").loc[0, "localiser"] == "acdc/quick, fold 0, 2"
    with pytest.raises(InputError, match=r"mscmr/quick/lv_localiser: has no finished localiser; train it with"):
        run(home, tmp_path / "out", tmp_path / "a.nii.gz", localiser="mscmr/quick")


def test_members_that_were_trained_on_other_regions_are_not_averaged(tmp_path, home):
    write_member(home, 1, 0, RegionConfig(size_px=32, percentiles=(1, 99)))
    with pytest.raises(InputError, match="name one fold with --fold, or train them alike"):
        run(home, tmp_path / "out", write_study(tmp_path / "a.nii.gz"))


def test_the_command_ends_with_the_status_of_the_prediction(tmp_path, home, monkeypatch):
    from typer.testing import CliRunner

    from pipeline.cli import app

    monkeypatch.setenv("SCARFORGE_HOME", str(home))
    study = write_study(tmp_path / "a.nii.gz")
    seen = {}
    monkeypatch.setattr(predict_module, "predict", lambda *values: seen.update(values=values) or 3)
    result = CliRunner().invoke(
        app, ["predict", "--model", MODEL, "--fold", "2", "--post-processing", str(study), "-o", str(tmp_path / "o")]
    )
    assert result.exit_code == 3
    assert seen["values"] == (home, [study], PredictOptions(MODEL, tmp_path / "o", fold=2, post_processing=True))
