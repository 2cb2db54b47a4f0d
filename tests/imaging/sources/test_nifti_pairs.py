import re

import nibabel
import numpy as np
import pytest
from pydantic import ValidationError

from common.errors import InputError
from imaging.labels import CINE_LABELS
from imaging.sources.config import SourceConfig
from imaging.sources.nifti_pairs import read_nifti_pairs
from imaging.sources.table import read_source, source_labels
from imaging.studies.study import RejectedStudy, Study
from tests.imaging import fake_nifti_pairs
from tests.imaging.fake_emidec import label_map
from tests.imaging.fake_nifti_pairs import DAMAGE, image_path, mask_path, unreadable, write_study

EMIDEC = SourceConfig(label_set="emidec")


def read(root, config=EMIDEC):
    return list(read_nifti_pairs(root, config))


def only(root, config=EMIDEC):
    (study,) = read(root, config)
    return study


@pytest.mark.parametrize(
    ("name", "group"), [("Case_N001", "normal"), ("Case_P001", "infarct"), ("Case_P002", "no_reflow")]
)
def test_a_study_has_its_files_arrays_and_its_masks_group(tmp_path, name, group):
    write_study(tmp_path, name)
    study = only(tmp_path)
    assert (study.case_id, study.frame, study.group, study.label_set) == (name, "", group, "emidec")
    np.testing.assert_array_equal(study.mask, label_map(name).transpose())
    np.testing.assert_array_equal(study.image, nibabel.load(image_path(tmp_path, name)).get_fdata().transpose())
    assert study.spacing_mm == (10.0, 1.5, 1.5)


@pytest.mark.parametrize("folder", ["labels", "masks"])
@pytest.mark.parametrize("ending", ["", "_gt", "_seg", "_label", "_manual"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_masks_are_found_under_each_of_their_names(tmp_path, folder, ending, suffix):
    write_study(tmp_path, "Case_P001")
    mask_path(tmp_path, "Case_P001").unlink()
    fake_nifti_pairs.write_volume(tmp_path / folder / f"Case_P001{ending}{suffix}", label_map("Case_P001"))
    assert isinstance(only(tmp_path), Study)


def test_an_image_whose_name_ends_like_a_masks_keeps_its_own_mask(tmp_path):
    for name in ("Case_P001", "Case_P001_seg"):
        fake_nifti_pairs.write_volume(image_path(tmp_path, name), label_map("Case_P001").astype(np.float32))
        fake_nifti_pairs.write_volume(mask_path(tmp_path, name), label_map("Case_P001"))
    assert [(study.case_id, type(study)) for study in read(tmp_path, SourceConfig(one_slice_per_patient=True))] == [
        ("Case_P001", Study),
        ("Case_P001_seg", Study),
    ]


def test_names_beyond_ascii_are_read_and_hidden_files_are_not(tmp_path):
    write_study(tmp_path / "Büro", "Ünal_001")
    (tmp_path / "Büro" / "images" / "._Ünal_001.nii.gz").write_bytes(b"\0")
    assert only(tmp_path / "Büro").case_id == "Ünal_001"


def test_numbers_in_the_file_mean_what_the_configuration_says(tmp_path):
    numbers = np.array([0, 85, 170, 255, 0])
    write_study(tmp_path, "Case_P001", numbers[label_map("Case_P001")].astype(np.int16))
    tissues = {85: "cavity", 170: "myocardium", 255: "background"}
    study = only(tmp_path, SourceConfig(label_set="cine", label_values=tissues))
    np.testing.assert_array_equal(study.mask, np.array([0, 1, 2, 0, 0])[label_map("Case_P001").transpose()])
    assert (study.label_set, study.group) == ("cine", "normal")


def test_a_number_that_the_configuration_leaves_out_is_named(tmp_path):
    write_study(tmp_path, "Case_P001")
    study = only(tmp_path, SourceConfig(label_values={1: "cavity", 2: "normal_myocardium"}))
    assert "label values [3] stand for no tissue; known are [0, 1, 2]" in study.reason
    assert "source.label_values" in study.reason


def test_an_unknown_tissue_is_one_error_that_names_those_there_are(tmp_path):
    write_study(tmp_path, "Case_P001")
    config = SourceConfig(label_set="cine", label_values={1: "cavity", 2: "muscle"})
    with pytest.raises(InputError, match=r"'muscle'.*'cine'.*choose from.*background.*cavity.*myocardium"):
        read_nifti_pairs(tmp_path, config)


def test_a_given_spacing_takes_the_headers_place(tmp_path):
    write_study(tmp_path, "Case_P001")
    assert only(tmp_path, SourceConfig(spacing_mm=(8.0, 1.25, 1.3))).spacing_mm == (8.0, 1.25, 1.3)
    assert "not plausible" in only(tmp_path, SourceConfig(spacing_mm=(8.0, 1.25, 130.0))).reason
    with pytest.raises(ValidationError, match="positive millimetres"):
        SourceConfig(spacing_mm=(8.0, 0.0, 1.0))


@pytest.mark.parametrize("oddity", DAMAGE)
def test_an_odd_study_is_rejected_with_one_line_and_the_others_are_read(tmp_path, oddity):
    root = tmp_path / "root"
    for name in ("Case_P001", "Case_P003"):
        write_study(root, name)
    fake_nifti_pairs.write_damaged(root, "Case_P002", oddity)
    before, odd, after = read(root)
    assert (before.case_id, odd.case_id, after.case_id) == ("Case_P001", "Case_P002", "Case_P003")
    assert [type(study) for study in (before, odd, after)] == [Study, RejectedStudy, Study]
    assert re.search(DAMAGE[oddity][1], odd.reason)
    assert "Case_P002" in odd.reason
    assert str(root) in odd.reason
    assert "\n" not in odd.reason
    assert ";" in odd.reason  # what is wrong; what to do


@pytest.mark.parametrize("place", [image_path, mask_path])
def test_an_unreadable_file_is_named(tmp_path, place):
    write_study(tmp_path, "Case_P001")
    with unreadable(tmp_path, place(tmp_path, "Case_P001")):
        study = only(tmp_path)
    assert re.search(f"{re.escape(str(place(tmp_path, 'Case_P001')))}.*Permission denied", study.reason)


def test_a_missing_or_empty_root_is_an_input_error_at_once(tmp_path):
    with pytest.raises(InputError, match=r"NIfTI folder .* does not exist; give the folder"):
        read_nifti_pairs(tmp_path / "absent", EMIDEC)
    with pytest.raises(InputError, match="holds 0 images and 0 masks; give the folder that holds images/NAME"):
        read_nifti_pairs(tmp_path, EMIDEC)


def test_the_source_table_hands_the_configuration_on(tmp_path):
    cine = SourceConfig(label_set="cine")
    write_study(tmp_path, "Case_N001")
    assert source_labels("nifti", cine) is CINE_LABELS
    assert [study.label_set for study in read_source("nifti", tmp_path, None, cine)] == ["cine"]
