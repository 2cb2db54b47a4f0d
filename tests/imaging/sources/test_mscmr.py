import re

import numpy as np
import pytest

from common.errors import InputError
from imaging.sources.mscmr import read_mscmr_lge
from imaging.sources.table import read_source
from imaging.studies.study import RejectedStudy, Study
from tests.imaging import fake_mscmr
from tests.imaging.fake_nifti_pairs import DAMAGE, short_axis_affine, unreadable
from tests.real_data import real_data


def only(root):
    (study,) = read_mscmr_lge(root)
    return study


@pytest.mark.parametrize("sequence", ["DE", "LGE"])
@pytest.mark.parametrize("numbers", [fake_mscmr.PUBLISHED, fake_mscmr.CHALLENGE], ids=["0_to_3", "200_500_600"])
@pytest.mark.parametrize("folders", [("images", "labels"), ("", "")], ids=["two_folders", "flat"])
def test_every_naming_and_numbering_gives_the_same_study(tmp_path, sequence, numbers, folders):
    fake_mscmr.write_case(tmp_path, "subject1", sequence, numbers, folders)
    study = only(tmp_path)
    assert (study.case_id, study.frame, study.group, study.label_set) == ("subject1", "", "normal", "cine")
    np.testing.assert_array_equal(study.mask, np.array([0, 0, 2, 1])[fake_mscmr.label_map().transpose()])
    assert study.spacing_mm == (10.0, 1.5, 1.5)
    np.testing.assert_allclose(study.affine, short_axis_affine(), rtol=1e-6)


def test_patients_come_in_the_order_of_names_and_other_sequences_are_not_read(tmp_path):
    for name in ("subject29", "subject1", "sübject"):
        fake_mscmr.write_case(tmp_path, name)
    for name in ("subject1_C0.nii.gz", "._subject1_DE.nii.gz", "subject1_DE.txt"):
        (tmp_path / "images" / name).write_bytes(b"\0")
    assert [study.case_id for study in read_mscmr_lge(tmp_path)] == ["subject1", "subject29", "sübject"]


@pytest.mark.parametrize("oddity", DAMAGE)
def test_an_odd_study_is_rejected_with_one_line_and_the_others_are_read(tmp_path, oddity):
    root = tmp_path / "root"
    for name in ("subject1", "subject3"):
        fake_mscmr.write_case(root, name)
    fake_mscmr.write_damaged(root, "subject2", oddity)
    before, odd, after = read_mscmr_lge(root)
    assert (before.case_id, odd.case_id, after.case_id) == ("subject1", "subject2", "subject3")
    assert [type(study) for study in (before, odd, after)] == [Study, RejectedStudy, Study]
    assert re.search(DAMAGE[oddity][1], odd.reason)
    assert str(root) in odd.reason
    assert "subject2" in odd.reason
    assert "\n" not in odd.reason
    assert ";" in odd.reason  # what is wrong; what to do


def test_two_images_of_one_patient_are_refused(tmp_path):
    for sequence in ("DE", "LGE"):
        fake_mscmr.write_case(tmp_path, "subject1", sequence)
    assert "2 files are the image of one study; keep one of them" in only(tmp_path).reason


def test_an_unreadable_file_is_named(tmp_path):
    fake_mscmr.write_case(tmp_path, "subject1")
    path = fake_mscmr.mask_path(tmp_path, "subject1")
    with unreadable(tmp_path, path):
        study = only(tmp_path)
    assert re.search(f"{re.escape(str(path))}.*Permission denied", study.reason)


def test_an_unreadable_folder_is_an_input_error_at_once(tmp_path):
    fake_mscmr.write_case(tmp_path, "subject1")
    folder = tmp_path / "labels"
    with unreadable(tmp_path, folder), pytest.raises(InputError, match=r"labels: cannot be listed \(Permission denied"):
        read_mscmr_lge(tmp_path)


def test_a_missing_or_empty_root_is_an_input_error_at_once(tmp_path):
    with pytest.raises(InputError, match=r"MS-CMRSeg folder .* does not exist; give the folder"):
        read_mscmr_lge(tmp_path / "absent")
    with pytest.raises(InputError, match="holds no LGE files; give the folder that holds images/subject1_DE"):
        read_mscmr_lge(tmp_path)


def test_the_source_table_reads_mscmr(tmp_path):
    fake_mscmr.write_case(tmp_path, "subject1")
    assert [study.case_id for study in read_source("mscmr_lge", tmp_path, None)] == ["subject1"]


def test_real_patients_have_adult_volumes_inside_their_chests():
    studies = list(read_mscmr_lge(real_data("mscmr_lge")))
    assert [study.case_id for study in studies] == [f"subject{number}" for number in (1, 29, 36, 41, 8)]
    for study in studies:
        assert study.spacing_mm == pytest.approx((5.0, 0.745, 0.745), abs=0.02)
        cavity_ml, muscle_ml = (
            np.count_nonzero(study.mask == label) * np.prod(study.spacing_mm) / 1000 for label in (1, 2)
        )
        assert 60 < cavity_ml < 150
        assert 90 < muscle_ml < 180
