import re

import nibabel
import numpy as np
import pytest

from common.errors import InputError
from imaging.sources.emidec import read_emidec
from imaging.sources.table import read_source, source_labels
from imaging.studies.study import RejectedStudy, Study
from imaging.volumes.nifti import read_nifti, write_label_map
from tests.imaging import fake_emidec
from tests.real_data import real_data


def only(root):
    (study,) = read_emidec(root)
    return study


def test_every_sound_patient_is_read_in_the_order_of_names(tmp_path):
    studies = list(read_emidec(fake_emidec.write_root(tmp_path)))
    assert [study.case_id for study in studies] == sorted(fake_emidec.CASES)
    assert all(isinstance(study, Study) for study in studies)


def test_axes_spacing_and_affine_are_the_files(tmp_path):
    fake_emidec.write_case(tmp_path, "Case_P002", spacing_mm=(1.25, 1.5, 10.0))
    study = only(tmp_path)
    stored = fake_emidec.label_map("Case_P002")
    assert study.image.shape == (3, 48, 40)
    assert study.spacing_mm == (10.0, 1.5, 1.25)
    assert study.image.dtype == np.float32
    assert study.mask.dtype == np.uint8
    assert (study.mask[1, 30, 12], study.mask.sum()) == (stored[12, 30, 1], stored.sum())
    np.testing.assert_array_equal(study.affine, np.diag([-1, -1, 1, 1]))


@pytest.mark.parametrize(
    ("case_id", "group"), [("Case_N001", "normal"), ("Case_P001", "infarct"), ("Case_P002", "no_reflow")]
)
def test_group_comes_from_the_mask(tmp_path, case_id, group):
    fake_emidec.write_case(tmp_path, case_id)
    assert only(tmp_path).group == group


def test_group_does_not_come_from_the_name(tmp_path):
    fake_emidec.write_case(tmp_path, "Case_N001", mask=fake_emidec.label_map("Case_P002"))
    assert only(tmp_path).group == "no_reflow"


@pytest.mark.parametrize("oddity", fake_emidec.ODDITIES)
def test_an_odd_study_is_rejected_with_one_line_and_the_others_are_read(tmp_path, oddity):
    write, expected = fake_emidec.ODDITIES[oddity]
    fake_emidec.write_case(tmp_path, "Case_P001")
    write(tmp_path, "Case_P002")
    fake_emidec.write_case(tmp_path, "Case_P003")
    before, odd, after = read_emidec(tmp_path)
    assert (before.case_id, odd.case_id, after.case_id) == ("Case_P001", "Case_P002", "Case_P003")
    assert isinstance(before, Study)
    assert isinstance(after, Study)
    assert isinstance(odd, RejectedStudy)
    assert re.search(expected, odd.reason)
    assert str(tmp_path / "Case_P002") in odd.reason
    assert "\n" not in odd.reason
    assert ";" in odd.reason  # what is wrong; what to do


def test_labels_stored_as_floats_are_rounded(tmp_path):
    mask = fake_emidec.label_map("Case_P002").astype(np.float32) + np.float32(1e-5)
    fake_emidec.write_case(tmp_path, "Case_P002", mask=mask)
    study = only(tmp_path)
    assert isinstance(study, Study)
    assert set(np.unique(study.mask)) == {0, 1, 2, 3, 4}


def test_uncompressed_files_and_a_trailing_axis_of_one_are_read(tmp_path):
    mask = fake_emidec.label_map("Case_P001")
    for part, data in (("Images", fake_emidec.image_of(mask)), ("Contours", mask)):
        path = tmp_path / "Case_P001" / part / "Case_P001.nii"
        fake_emidec.write_nifti(path, data[..., None])
    assert only(tmp_path).image.shape == (3, 48, 40)


def test_a_missing_or_empty_root_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="does not exist; give the folder"):
        read_emidec(tmp_path / "absent")
    with pytest.raises(InputError, match="holds no Case_"):
        read_emidec(tmp_path)


def test_a_label_map_goes_back_into_the_studys_own_geometry(tmp_path):
    fake_emidec.write_case(tmp_path, "Case_P002", spacing_mm=(1.25, 1.5, 10.0))
    study = only(tmp_path)
    path = tmp_path / "out" / "Case_P002.nii.gz"
    volume = read_nifti(fake_emidec.image_path(tmp_path, "Case_P002"))
    write_label_map(path, study.mask, volume)
    written, original = nibabel.load(path), nibabel.load(fake_emidec.mask_path(tmp_path, "Case_P002"))
    np.testing.assert_array_equal(np.asarray(written.dataobj), np.asarray(original.dataobj))
    np.testing.assert_array_equal(written.affine, original.affine)
    assert written.header.get_zooms() == original.header.get_zooms()
    assert written.get_data_dtype() == np.uint8
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    again = read_nifti(path)
    np.testing.assert_array_equal(again.data, study.mask)
    assert again.spacing_mm == study.spacing_mm


def test_what_is_told_about_a_patient_comes_from_text_and_table(tmp_path):
    fake_emidec.write_case(tmp_path, "Case_P002")
    (tmp_path / "clinical.csv").write_text("case_id,Killip Max,sex\nCase P002,2,\nCase_P009,1,F\n", encoding="utf-8")
    assert only(tmp_path).clinical == {"killip_max": "2", "gap_between_slices": "10 mm", "sex": "M"}


def test_a_clinical_table_separated_by_semicolons_is_called_so(tmp_path, caplog):
    fake_emidec.write_case(tmp_path, "Case_P002")
    (tmp_path / "clinical.csv").write_text("case_id;myocardium_ml\nCase_P002;120\n", encoding="utf-8")
    assert isinstance(only(tmp_path), Study)
    assert "clinical.csv: is separated by semicolons; save it with commas" in caplog.text


def test_a_clinical_table_without_patients_costs_no_study(tmp_path, caplog):
    fake_emidec.write_case(tmp_path, "Case_P002")
    (tmp_path / "clinical.csv").write_bytes(b"patient;age\n\xff;3\n")
    assert isinstance(only(tmp_path), Study)
    assert "clinical.csv" in caplog.text


def test_the_source_table_reads_emidec_and_says_what_it_lacks(tmp_path):
    fake_emidec.write_case(tmp_path, "Case_N001")
    assert source_labels("emidec").has_lesions
    assert [study.case_id for study in read_source("emidec", tmp_path, None)] == ["Case_N001"]
    with pytest.raises(InputError, match="needs the folder that holds the studies; give --root"):
        read_source("emidec", None, None)
    with pytest.raises(InputError, match=r"'emidek' is unknown; choose one of .*emidec"):
        read_source("emidek", tmp_path, None)


def test_a_published_patient_has_its_true_spacing():
    (study,) = read_emidec(real_data("emidec_native"))
    assert study.image.shape == (7, 258, 248)
    assert study.spacing_mm == pytest.approx((13.0, 1.40625, 1.40625))


def test_real_volumes_are_those_of_the_clinical_table():
    import pandas as pd

    root = real_data("emidec_roi")
    clinical = pd.read_csv(root / "clinical.csv", index_col="case_id")
    studies = list(read_emidec(root))
    assert len(studies) == len(clinical) == 65
    assert not [study for study in studies if isinstance(study, RejectedStudy)]
    ml = [np.isin(s.mask, [2, 3, 4]).sum() * np.prod(s.spacing_mm) / 1000 for s in studies]
    expected = clinical.loc[[study.case_id for study in studies], "myocardium_ml"]
    np.testing.assert_allclose(ml, expected, rtol=0.002)
