"""Two folders of label maps in, tables and a status out; a file that cannot be scored is one line."""

import errno
import json
import os
import re
import shutil

import nibabel
import numpy as np
import pandas as pd
import pytest

from common.errors import InputError
from pipeline.commands.evaluate import evaluate
from segmentation.evaluation.label_maps import EMIDEC, read_prediction, read_reference
from segmentation.scoring.scores import read_scores
from tests.imaging import fake_acdc
from tests.imaging.fake_emidec import CASES, SPACING_MM, label_map, write_nifti

REAL_AFFINE = np.diag([-1.5, -1.5, 10.0, 1.0])


def worse(case_id):
    """The reference moved by one column, its no-reflow called infarct."""
    mask = np.roll(label_map(case_id), 1, axis=0)
    return np.where(mask == 4, 3, mask).astype(np.uint8)


@pytest.fixture
def folders(tmp_path):
    """Twelve patients in EMIDEC's layout, and a flat folder of predictions."""
    for case_id in CASES:
        write_nifti(tmp_path / "reference" / case_id / "Contours" / f"{case_id}.nii.gz", label_map(case_id))
        write_nifti(tmp_path / "flat" / f"{case_id}.nii.gz", worse(case_id))
    return tmp_path


def run(root, form="emidec", reference="reference", prediction="flat"):
    status = evaluate(root / reference, root / prediction, form, root / "out")
    return status, pd.read_csv(root / "out" / "summary.csv", keep_default_na=False, na_values=[""])


def row(summary, rule, tissue, metric="dice", frame=None):
    chosen = (summary["rule"] == rule) & (summary["tissue"] == tissue) & (summary["metric"] == metric)
    if frame is not None:
        chosen &= summary["frame"] == frame
    assert chosen.sum() == 1
    return summary[chosen].iloc[0]


def dice(root, case_id, tissue="myocardium"):
    table = read_scores(root / "out" / "scores.csv")
    chosen = (table["case_id"] == case_id) & (table["rule"] == "official") & (table["tissue"] == tissue)
    return float(table.loc[chosen & (table["metric"] == "dice"), "value"].iloc[0])


def test_sound_folders_give_tables_intervals_and_status_zero(folders, capsys):
    status, summary = run(folders)
    assert status == 0
    assert len(read_scores(folders / "out" / "scores.csv")) > 500
    cavity = row(summary, "positive", "cavity")
    assert cavity["low"] <= cavity["mean"] <= cavity["high"]
    assert (cavity["patients"], cavity["of_patients"], cavity["all_background"]) == (12, 12, 0)
    assert row(summary, "official", "no_reflow")["all_background"] == pytest.approx(8 / 12)
    assert row(summary, "positive", "no_reflow")["of_patients"] == 4
    shown = " ".join(capsys.readouterr().out.split())
    assert "12 of 12 studies were scored" in shown
    assert "Dice under the four rules" in shown


def test_identity_columns_are_empty(folders):
    run(folders)
    table = read_scores(folders / "out" / "scores.csv")
    assert set(table["network"]) == set(table["training_set"]) == {""}
    assert table[["fold", "seed"]].isna().all().all()


def test_the_same_labels_score_perfectly_in_every_metric(folders):
    status, summary = run(folders, prediction="reference")
    assert status == 0
    for metric in ("dice", "jaccard", "precision", "recall", "sensitivity", "specificity"):
        assert set(summary.loc[summary["metric"] == metric, "mean"]) == {1.0}
    apart = summary["metric"].str.contains("difference|hausdorff|surface")
    assert set(summary.loc[apart, "mean"]) == {0.0}


def test_summary_means_are_those_of_the_table(folders):
    _, summary = run(folders)
    table = read_scores(folders / "out" / "scores.csv")
    for rule, tissue, metric in (
        ("official", "infarction", "dice"),
        ("positive", "infarct", "hausdorff_95"),
        ("official", "myocardium", "volume"),
    ):
        chosen = (table["rule"] == rule) & (table["tissue"] == tissue) & (table["metric"] == metric)
        assert row(summary, rule, tissue, metric)["mean"] == pytest.approx(table.loc[chosen, "value"].mean())
    for rule, tissue, metric in (
        ("pooled", "infarct", "dice"),
        ("pooled", "cavity", "recall"),
        ("official", "no_reflow", "sensitivity"),
    ):
        joint = (table["case_id"] == "all") & (table["tissue"] == tissue) & (table["metric"] == metric)
        assert row(summary, rule, tissue, metric)["mean"] == pytest.approx(float(table.loc[joint, "value"].iloc[0]))


def test_patients_have_a_row_each(folders):
    run(folders)
    patients = pd.read_csv(folders / "out" / "patients.csv").set_index("case_id")
    assert list(patients.index) == sorted(CASES)
    assert patients.loc["Case_P001", "dice/official/myocardium"] == pytest.approx(dice(folders, "Case_P001"))
    assert np.isnan(patients.loc["Case_N001", "dice/positive/infarct"])
    assert patients["problem"].isna().all()


@pytest.fixture
def distinct(folders):
    """The same without the four patients whose label maps are others' too."""
    for path in folders.glob("*/Case_P00[5-8]*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folders


def test_what_is_suspect_is_told_on_the_terminal_in_the_json_and_beside_the_patients(distinct, capsys):
    for case_id in CASES[:2]:
        write_nifti(distinct / "flat" / f"{case_id}.nii.gz", 0 * label_map(case_id))
    status = evaluate(distinct / "reference", distinct / "flat", "emidec", distinct / "out", as_json=True)
    told = capsys.readouterr()
    line = (
        f"2 of 8 predictions ({', '.join(sorted(CASES[:2]))}) are empty, their references are not; look whether they "
        "were saved whole"
    )
    assert (status, told.err) == (0, f"warning: {line}\n")
    assert json.loads(told.out)["notes"] == [line]
    patients = pd.read_csv(distinct / "out" / "patients.csv", keep_default_na=False).set_index("case_id")
    assert patients["warnings"].to_dict() == {name: line if name in CASES[:2] else "" for name in CASES[:8]}


def test_sound_folders_have_no_warning(distinct, capsys):
    run(distinct)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["case_p002", "Case_P002_0000", "CASE_P002_seg", "Case_P002_prediction"])
def test_a_file_of_nearly_the_right_name_is_named(folders, capsys, name):
    (folders / "flat" / "Case_P002.nii.gz").rename(folders / "flat" / f"{name}.nii.gz")
    run(folders)
    near = folders / "flat" / f"{name}.nii.gz"
    expected = f"Case_P002: its prediction is missing; rename {near} to Case_P002.nii.gz if it is that"
    assert expected in capsys.readouterr().err


def test_probabilities_are_called_so_and_a_resampled_mask_is_not(folders, capsys):
    write_nifti(folders / "flat" / "Case_P001.nii.gz", label_map("Case_P001") * np.float32(0.2))
    write_nifti(folders / "flat" / "Case_P002.nii.gz", label_map("Case_P002") * np.float32(0.9))
    run(folders)
    first, second = [line for line in capsys.readouterr().err.splitlines() if "not whole label values" in line]
    assert "Case_P001" in first
    assert "it looks like probabilities or an image" in first
    assert "looks like" not in second


def test_a_missing_prediction_is_named_counted_and_in_no_score(folders, capsys):
    (folders / "flat" / "Case_P002.nii.gz").unlink()
    status, summary = run(folders)
    assert status == 2
    told = capsys.readouterr()
    assert "Case_P002: its prediction is missing" in told.err
    assert "11 of 12 studies were scored" in told.out
    found = row(summary, "positive", "no_reflow")
    assert (found["patients"], found["of_patients"]) == (3, 4)
    assert row(summary, "official", "no_reflow")["all_background"] == pytest.approx(8 / 11)
    patients = pd.read_csv(folders / "out" / "patients.csv").set_index("case_id")
    assert "missing" in patients.loc["Case_P002", "problem"]


def spoil(folders, case_id, data, **options):
    write_nifti(folders / "flat" / f"{case_id}.nii.gz", data, **options)


def cut_off(folders, case_id):
    path = folders / "flat" / f"{case_id}.nii.gz"
    path.write_bytes(path.read_bytes()[:200])


def lead_out(folders, case_id):
    path = folders / "flat" / f"{case_id}.nii.gz"
    path.rename(folders / path.name)
    path.symlink_to(folders / path.name)


# What is done to which prediction, and what its line must say.
ODDITIES = {
    "Case_N001": (lambda f, c: spoil(f, c, label_map(c, (40, 48, 4))), r"shape \(4, 48, 40\), its reference \(3, 48"),
    "Case_N002": (
        lambda f, c: spoil(f, c, label_map(c), spacing_mm=(1.5, 1.5, 8.0)),
        "spacing is 8 x 1.5 x 1.5 mm, its reference's 10 x 1.5 x 1.5 mm",
    ),
    "Case_N003": (lambda f, c: spoil(f, c, label_map(c) * 5), r"label values \[5, 10\]"),
    "Case_N004": (lambda f, c: spoil(f, c, label_map(c) * np.float32(0.9)), "not whole label values"),
    "Case_P001": (lambda f, c: spoil(f, c, np.ones((4, 4, 3, 2), np.uint8)), "is not a volume"),
    "Case_P002": (cut_off, "not a readable NIfTI file"),
    "Case_P003": (lead_out, "symbolic link"),
}
SURPLUS = {
    "Case_X001": (lambda f, c: spoil(f, c, label_map(c)), "the reference folder has no Case_X001"),
    "Case_P004": (lambda f, c: write_nifti(f / "flat" / c / "Contours" / f"{c}.nii.gz", label_map(c)), "is the same"),
}


def test_each_bad_prediction_is_a_line_of_its_own_and_the_rest_is_scored(folders, capsys):
    for case_id, (damage, _) in (ODDITIES | SURPLUS).items():
        damage(folders, case_id)
    status, summary = run(folders)
    assert status == 2
    lines = capsys.readouterr().err.splitlines()
    for case_id, (_, message) in (ODDITIES | SURPLUS).items():
        assert any(re.search(message, line) for line in lines if case_id in line), case_id
    found = row(summary, "official", "myocardium")
    assert (found["patients"], found["of_patients"]) == (12 - len(ODDITIES), 12)


def test_a_bad_reference_is_named_too(folders, capsys):
    path = folders / "reference" / "Case_P001" / "Contours" / "Case_P001.nii.gz"
    path.write_bytes(b"<html>")
    status, _ = run(folders)
    assert status == 2
    assert "reference" in (told := capsys.readouterr().err)
    assert "Case_P001" in told


def in_other_order(path, axes, flips):
    """Rewrite a file in another voxel order, its affine and its spacing telling so."""
    image = nibabel.load(path)
    turned = image.as_reoriented(np.column_stack([axes, flips]).astype(float))
    spacing_mm = np.empty(3)
    spacing_mm[list(axes)] = image.header.get_zooms()
    write_nifti(path, np.asarray(turned.dataobj), spacing_mm, turned.affine)


@pytest.mark.parametrize("unit", [False, True], ids=["real affine", "unit affine"])
@pytest.mark.parametrize(
    ("axes", "flips"), [((0, 1, 2), (-1, 1, -1)), ((1, 2, 0), (1, 1, -1)), ((2, 0, 1), (1, -1, 1))]
)
def test_another_voxel_order_with_a_correct_affine_is_read_into_the_same(tmp_path, axes, flips, unit):
    path, other = tmp_path / "reference.nii.gz", tmp_path / "prediction.nii.gz"
    write_nifti(path, label_map("Case_P002"), affine=None if unit else REAL_AFFINE)
    shutil.copy(path, other)
    in_other_order(other, axes, flips)
    labels, volume = read_reference(path, EMIDEC)
    found = read_prediction(other, EMIDEC, volume)
    np.testing.assert_array_equal(found.mask, labels.mask)
    np.testing.assert_array_equal(labels.mask, label_map("Case_P002").transpose())
    assert found.spacing_mm == pytest.approx((10.0, 1.5, 1.5))


def test_a_reference_whose_slices_come_first_is_measured_slice_by_slice(tmp_path):
    path, other = tmp_path / "reference.nii.gz", tmp_path / "prediction.nii.gz"
    for file in (path, other):
        write_nifti(file, label_map("Case_P002"), affine=REAL_AFFINE)
    in_other_order(path, (2, 1, 0), (1, 1, -1))
    labels, volume = read_reference(path, EMIDEC)
    assert labels.mask.shape[0] == 3
    assert labels.spacing_mm == pytest.approx((10.0, 1.5, 1.5))
    np.testing.assert_array_equal(read_prediction(other, EMIDEC, volume).mask, labels.mask)


def test_a_prediction_without_an_affine_is_taken_as_stored(folders):
    path, other = folders / "reference/Case_P002/Contours/Case_P002.nii.gz", folders / "flat/Case_P002.nii.gz"
    write_nifti(other, worse("Case_P002"), affine=np.eye(4))
    found = read_prediction(other, EMIDEC, read_reference(path, EMIDEC)[1])
    np.testing.assert_array_equal(found.mask, worse("Case_P002").transpose())


def test_a_prediction_elsewhere_in_the_patient_is_refused(tmp_path):
    path, other = tmp_path / "reference.nii.gz", tmp_path / "prediction.nii.gz"
    write_nifti(path, label_map("Case_P002"), affine=REAL_AFFINE)
    moved = REAL_AFFINE.copy()
    moved[:3, 3] = 40.0
    write_nifti(other, label_map("Case_P002"), affine=moved)
    with pytest.raises(InputError, match="affine puts it elsewhere"):
        read_prediction(other, EMIDEC, read_reference(path, EMIDEC)[1])


@pytest.fixture
def cine(tmp_path):
    for number in (1, 2, 3):
        info = "" if number == 2 else fake_acdc.INFO
        fake_acdc.write_patient(tmp_path / "reference" / f"patient00{number}", info=info)
        for frame, name in ((1, "ED"), (12, "ES")):
            source = fake_acdc.mask_path(tmp_path / "reference" / f"patient00{number}", frame)
            for folder, token in (("numbers", f"frame{frame:02d}"), ("flat", name)):
                (tmp_path / folder).mkdir(exist_ok=True)
                shutil.copy(source, tmp_path / folder / f"patient00{number}_{token}.nii.gz")
    return tmp_path


@pytest.mark.parametrize("prediction", ["reference", "numbers", "flat"])
def test_cine_frames_are_named_and_ejection_fractions_formed(cine, prediction):
    status, summary = run(cine, "acdc", prediction=prediction)
    assert status == 0
    for frame in ("ED", "ES", "all"):
        assert row(summary, "official", "cavity", frame=frame)["mean"] == 1.0
        assert row(summary, "official", "cavity", "hausdorff", frame)["mean"] == 0.0
    fraction = row(summary, "official", "cavity", "reference_ejection_fraction")
    large, small = (np.count_nonzero(fake_acdc.label_map(size) == 3) for size in (fake_acdc.LARGE, fake_acdc.SMALL))
    assert fraction["mean"] == pytest.approx(100 * (large - small) / large)
    assert "right_ventricle" not in set(summary["tissue"])


def test_flat_references_meet_predictions_in_the_data_sets_layout(cine):
    status, summary = run(cine, "acdc", reference="numbers", prediction="reference")
    assert status == 0
    assert row(summary, "official", "myocardium", frame="ES")["patients"] == 3


def test_a_missing_frame_is_named_and_leaves_no_ejection_fraction(cine, capsys):
    (cine / "flat" / "patient002_ES.nii.gz").unlink()
    status, summary = run(cine, "acdc")
    assert status == 2
    assert "patient002 ES: its prediction is missing" in capsys.readouterr().err
    assert row(summary, "official", "cavity", "ejection_fraction")["patients"] == 2
    assert row(summary, "official", "cavity", frame="ES")["of_patients"] == 3


def test_foreign_cine_names_and_numbers_are_told(cine, capsys):
    write_nifti(cine / "flat" / "patient001.nii.gz", fake_acdc.label_map(5))
    for path in (cine / "flat").glob("*_E*.nii.gz"):
        mask = np.asarray(nibabel.load(path).dataobj)
        write_nifti(path, np.select([mask == 3, mask == 2], [1, 2]).astype(np.uint8))
    assert run(cine, "acdc")[0] == 2
    told = capsys.readouterr().err
    assert "patient001.nii.gz: the name tells no frame" in told
    assert "no prediction holds a 3" in told


@pytest.mark.parametrize(
    ("form", "reference", "prediction", "message"),
    [
        ("brats", "reference", "flat", "format 'brats' is unknown; choose one of emidec, acdc"),
        ("emidec", "absent", "flat", "reference folder .*absent does not exist"),
        ("emidec", "reference", "empty", "prediction folder .* holds no label map"),
        ("acdc", "reference", "flat", "holds no label map of format acdc"),
        ("emidec", "reference", "other", "none of the 12 reference studies could be scored"),
    ],
)
def test_hopeless_input_is_one_line(folders, form, reference, prediction, message):
    (folders / "empty").mkdir()
    write_nifti(folders / "other" / "Case_X001.nii.gz", label_map("Case_P002"), SPACING_MM)
    with pytest.raises(InputError, match=message):
        evaluate(folders / reference, folders / prediction, form, folders / "out")
    assert not (folders / "out").exists()


def test_a_full_disk_keeps_the_earlier_table(folders, monkeypatch):
    run(folders)
    before = (folders / "out" / "scores.csv").read_bytes()

    def full(table, part):
        part.write_text("half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("segmentation.scoring.scores.write_csv", full)
    with pytest.raises(InputError, match=r"/out/scores\.csv: cannot be written \(No space left.*\); free disk space"):
        run(folders)
    assert (folders / "out" / "scores.csv").read_bytes() == before
    assert not list((folders / "out").glob(".*partial"))
