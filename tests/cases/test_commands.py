"""Odd studies as the commands meet them: one line each, and the others are read, predicted and scored."""

import re
import shutil
import unicodedata

import nibabel
import numpy as np
import pandas as pd
import pytest

from common.errors import escaped
from common.files import MARK
from common.tables import read_csv
from pipeline.commands.evaluate import evaluate
from pipeline.commands.external_test import ExternalTestOptions, external_test
from pipeline.commands.predict.predict import PredictOptions, predict
from segmentation.scoring.scores import read_scores
from tests.pipeline.toy_models import CentralBox, nothing_odd, write_member

MODEL = "emidec/tiny/attention_res_unet/real_only"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A workspace with an untrained network, whose results are taken as plausible."""
    monkeypatch.setattr("segmentation.localiser.box_prediction.load_localiser", CentralBox)
    monkeypatch.setattr("segmentation.prediction.plausibility.implausibilities", nothing_odd)
    write_member(tmp_path / "home", 0, 0)
    return tmp_path / "home"


def lines_of(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("scarforge: ")]


def scored(folder, output, form="emidec"):
    status = evaluate(folder / "ref", folder / "pred", form, output)
    return status, read_csv(output / "patients.csv", keep_default_na=False).set_index("case_id")


def segmented(home, given, output):
    status = predict(home, [given], PredictOptions(MODEL, output))
    return status, list(read_csv(output / "predictions.csv", keep_default_na=False)["case_id"])


def test_patients_called_all_and_mean_are_in_every_table(case, tmp_path):
    status, patients = scored(case("17") / "d" / "a_all", tmp_path)
    assert status == 0
    assert list(patients.index) == ["all", "good", "mean"]
    dice = patients["dice/official/myocardium"].astype(float)
    assert dice["all"] == dice["mean"] == dice["good"]
    summary = pd.read_csv(tmp_path / "summary.csv")
    counted = summary[summary["rule"].isin(["official", "pooled"]) & (summary["metric"] == "dice")]
    assert set(counted["patients"]) == set(counted["of_patients"]) == {3}
    joint = read_scores(tmp_path / "scores.csv").query("case_id == 'all' and rule == 'pooled' and metric == 'dice'")
    assert set(joint["tissue"]) == {"cavity", "normal_myocardium", "infarct", "no_reflow"}


@pytest.mark.faulty
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("b_rgb", "x.nii.gz: "),
        ("e_4d_first", "is not a volume"),
        ("h_prob", "5821 voxels are not whole label values"),
        ("i_255", r"label values \[255\] stand for no tissue of format emidec \(0 background, 1 cavity"),
        ("j_nan", "292147 voxels are NaN or infinite"),
        ("k_image", r"label values \[5, 6, 7, 8, 9 and \d+ more\] stand for no tissue of format emidec"),
        ("m_inf", "4566 voxels are NaN or infinite, no label values"),
    ],
)
def test_a_prediction_that_is_no_label_map_is_one_bounded_line_and_the_rest_is_scored(
    case, tmp_path, capsys, name, said
):
    status, patients = scored(case("17") / "d" / name, tmp_path)
    (line,) = lines_of(capsys)
    assert status == 2
    assert "x.nii.gz" in line
    assert re.search(said, line)
    assert "source." not in line, "evaluate has no --set"
    assert len(line) < 700
    assert patients["dice/official/myocardium"].astype(bool).to_dict() == {"good": True, "x": False}


@pytest.mark.parametrize("name", ["d_4d_last", "g_dir", "l_negzero"])
def test_a_harmless_oddity_is_read(case, tmp_path, capsys, name):
    status, patients = scored(case("17") / "d" / name, tmp_path)
    assert (status, lines_of(capsys)) == (0, [])
    assert patients.loc["x", "dice/official/myocardium"] == patients.loc["good", "dice/official/myocardium"]


def test_a_name_in_capitals_is_read_or_named(case, tmp_path, capsys):
    status, patients = scored(case("17") / "d" / "f_upper", tmp_path)
    told = lines_of(capsys)
    assert (status == 0) == bool(patients.loc["x", "dice/official/myocardium"])
    assert status == 0 or any("x.NII.GZ: looks like an image and is not read" in line for line in told)


def test_monais_folder_a_patient_is_read(case, tmp_path, capsys):
    status, patients = scored(case("17") / "d" / "o_monai", tmp_path)
    assert (status, lines_of(capsys)) == (0, [])
    assert list(patients.index) == ["x"]


def test_flat_names_with_an_ending_meet_their_reference(case, tmp_path):
    shutil.copytree(case("17") / "d" / "d_4d_last", tmp_path / "in")
    pred = tmp_path / "in" / "pred"
    (pred / "x.nii.gz").rename(pred / "x_seg.nii.gz")
    status, patients = scored(tmp_path / "in", tmp_path / "out")
    assert status == 0
    assert patients.loc["x", "dice/official/myocardium"] != ""


def test_what_lies_beside_the_label_maps_is_named(case, tmp_path, capsys):
    shutil.copytree(case("17") / "d" / "d_4d_last", tmp_path / "in")
    pred = tmp_path / "in" / "pred"
    (pred / "other.mha").write_bytes(b"")
    (pred / "x.mha").write_bytes(b"")  # probabilities beside the map
    (pred / "deep" / "er").mkdir(parents=True)
    for name in ("1.nii.gz", "2.nii.gz"):
        shutil.copy(pred / "x.nii.gz", pred / "deep" / "er" / name)
    status, _ = scored(tmp_path / "in", tmp_path / "out")
    assert status == 2
    lone, deep = lines_of(capsys)
    assert "pred/other.mha: looks like an image and is not read; name label maps as Case_P001/Contours" in lone
    assert "pred/deep/er: 2 files look like images and are not read: 1.nii.gz, 2.nii.gz;" in deep


def test_another_numbering_of_the_classes_is_told(case, tmp_path, capsys):
    status, _ = scored(case("17") / "d" / "p_mnms", tmp_path, "acdc")
    (line,) = lines_of(capsys)
    assert status == 2
    assert "their 1 lies on the references' 3, 3 lies on the references' 1" in line
    assert "(1 right ventricle, 2 myocardium, 3 cavity)" in line


@pytest.mark.faulty
def test_an_rgb_volume_among_studies_is_one_line_and_the_others_are_predicted(case, home, tmp_path, capsys):
    status, names = segmented(home, case("21") / "rgb", tmp_path / "out")
    (line,) = [line for line in lines_of(capsys) if "bad.nii.gz" in line]
    assert status == 2
    assert {"good", "zlast"} <= set(names)
    assert "bad" not in names
    assert len(line) < 600
    assert "bad.nii.gz" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_nothing_in_a_folder_is_passed_over_in_silence(case, home, tmp_path, capsys):
    folder = case("18") / "d" / "images"
    status, names = segmented(home, folder, tmp_path / "out")
    told = "\n".join(lines_of(capsys))
    assert status == 2
    for path in folder.iterdir():
        stem = re.split(r"\.nii", path.name, flags=re.IGNORECASE)[0]
        assert {stem, unicodedata.normalize("NFC", stem)} & set(names) or escaped(path.name) in told, path.name
    assert "look like images and are not read" in told


def test_predict_advises_nothing_that_it_has_not(case, home, tmp_path, capsys):
    chosen = tmp_path / "in"
    chosen.mkdir()
    for name in ("thin", "two", "tiny_3x3x5", "coarse"):
        shutil.copy(case("21") / "d" / f"{name}.nii.gz", chosen)
    segmented(home, chosen, tmp_path / "out")
    told = lines_of(capsys)
    assert any("thin.nii.gz: spacing 0.05 x 1.457 x 1.457 mm" in line and "correct the header" in line for line in told)
    assert not any("source." in line or "--set" in line for line in told)


def test_pictures_are_named_but_are_no_studies(case, home, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(case("21") / "d" / "oneslice.nii.gz", folder)
    (folder / "screenshot.PNG").write_bytes(b"")
    (folder / "notes.txt").write_text("")
    status, names = segmented(home, folder, folder / "out")
    assert (status, names) == (0, ["oneslice"])
    (line,) = lines_of(capsys)
    assert line.endswith("screenshot.PNG: looks like an image and is not read; only NIfTI and DICOM are segmented")


def test_a_study_that_turned_bad_keeps_no_result_of_an_earlier_run(case, home, tmp_path):
    study, out = tmp_path / "a.nii.gz", tmp_path / "out"
    shutil.copy(case("21") / "d" / "oneslice.nii.gz", study)
    assert predict(home, [study], PredictOptions(MODEL, out)) == 0
    study.write_bytes(b"<html>")
    assert predict(home, [study], PredictOptions(MODEL, out)) == 2
    assert {path.name for path in out.rglob("*") if path.is_file()} == {"index.html", MARK}


@pytest.mark.faulty
def test_an_exception_in_one_study_costs_neither_the_others_nor_the_tables(case, home, tmp_path, capsys, monkeypatch):
    from segmentation.prediction import study as checked_prediction

    sound = checked_prediction.predict_checked

    def break_first(image, spacing_mm, segmenter, localisers, region, familiarity, source):
        if "case01" in source:
            raise IndexError("index 7 is out of bounds for axis 0 with size 7")
        return sound(image, spacing_mm, segmenter, localisers, region, familiarity, source)

    monkeypatch.setattr("segmentation.prediction.study.predict_checked", break_first)
    monkeypatch.setattr("pipeline.commands.external_test.predict_checked", break_first)
    root = tmp_path / "pairs"
    good = case("17") / "d" / "d_4d_last" / "ref" / "good.nii.gz"
    for name in ("case01", "case02"):
        write_pair(root, name, good)
    assert external_test(home, ExternalTestOptions((MODEL,), "nifti", root, tmp_path / "tested")) == 2
    (line,) = lines_of(capsys)
    assert "case01.nii.gz: cannot be used (IndexError: index 7 is out of bounds" in line
    assert "please report it" in line
    patients = pd.read_csv(tmp_path / "tested" / "patients.csv").set_index("case_id")
    assert patients["dice/official/myocardium"].notna().to_dict() == {"case01": False, "case02": True}
    status, names = segmented(home, root / "images", tmp_path / "out")
    assert (status, names) == (2, ["case02"])


def write_pair(root, name, label_map):
    """A made-up image under the label map of a case."""
    labels = nibabel.load(label_map)
    mask = np.asarray(labels.dataobj).squeeze()
    image = np.random.default_rng(len(name)).normal(100 + 20 * mask, 5).astype(np.float32)
    for folder, data in (("images", image), ("labels", mask.astype(np.uint8))):
        (root / folder).mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(data, labels.affine), root / folder / f"{name}.nii.gz")


NAMES = ("001", "01", "1", "1e5", "-1", "NaN", "NA", "null", "None", "True", "inf", "all", "mean", "a,b", 'q"x', "=1+1")


def test_ids_that_look_like_numbers_or_gaps_stay_texts_in_every_table(tmp_path):
    mask = np.zeros((20, 20, 4), np.uint8)
    mask[5:15, 5:15], mask[8:12, 8:12] = 2, 1
    for folder, data in (("ref", mask), ("pred", np.roll(mask, 1, 0))):
        (tmp_path / folder).mkdir()
        for name in NAMES:
            image = nibabel.Nifti1Image(data, np.diag([-1.4, -1.4, 8, 1]))
            nibabel.save(image, tmp_path / folder / f"{name}.nii.gz")
    assert evaluate(tmp_path / "ref", tmp_path / "pred", "emidec", tmp_path) == 0
    patients = read_csv(tmp_path / "patients.csv", dtype=str, keep_default_na=False)
    assert sorted(patients["case_id"]) == sorted(NAMES)
    assert len(set(patients["dice/official/myocardium"])) == 1
    scores = read_scores(tmp_path / "scores.csv")
    assert set(scores.query("rule == 'official'")["case_id"]) == set(NAMES)
    summary = pd.read_csv(tmp_path / "summary.csv").query("rule == 'official' and metric == 'dice'")
    assert set(summary["patients"]) == set(summary["of_patients"]) == {len(NAMES)}
