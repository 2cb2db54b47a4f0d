import re

import nibabel
import numpy as np
import pytest

from common.errors import InputError
from imaging.labels import CINE_LABELS
from imaging.sources.acdc import read_acdc
from imaging.sources.table import read_source
from imaging.studies.archive_writer import write_studies
from imaging.studies.study import RejectedStudy, Study
from tests.imaging import fake_acdc
from tests.imaging.fake_acdc import INFO, LARGE, SMALL, write_patient
from tests.imaging.fake_nifti_pairs import unreadable
from tests.real_data import real_data


def frames_of(root):
    """File of each study by (patient, frame)."""
    return {(study.case_id, study.frame): study.path.split("_frame")[-1] for study in read_acdc(root)}


def phases_of(root):
    return {file: frame for (_, frame), file in frames_of(root).items()}


def only_rejected(root):
    (odd,) = [study for study in read_acdc(root) if isinstance(study, RejectedStudy)]
    return odd


def test_a_published_patient_gives_end_diastole_and_end_systole(tmp_path):
    folder = write_patient(tmp_path / "patient001")
    diastole, systole = read_acdc(tmp_path)
    assert [diastole.frame, systole.frame] == ["ED", "ES"]
    assert {(study.case_id, study.group, study.label_set) for study in (diastole, systole)} == {
        ("patient001", "normal", "cine")
    }
    assert systole.path == str(fake_acdc.image_path(folder, 12))
    assert systole.clinical["group"] == "DCM"
    assert systole.clinical["nbframe"] == "30"


def test_axes_are_taken_as_stored_and_the_right_ventricle_is_background(tmp_path):
    write_patient(tmp_path / "patient001")
    study = next(read_acdc(tmp_path))
    stored = fake_acdc.label_map(LARGE).transpose()  # (column, row, slice) in the file
    assert study.image.shape == (3, 48, 40)
    assert study.spacing_mm == (10.0, 1.5, 1.5)
    np.testing.assert_array_equal(study.mask, np.array([0, 0, 2, 1])[stored])


@pytest.mark.parametrize(
    ("info", "frames", "expected"),
    [
        ("", [(1, LARGE), (2, SMALL)], {"01": "ED", "02": "ES"}),
        ("", [(1, SMALL), (2, LARGE)], {"01": "ES", "02": "ED"}),
        ("", [(1, 6), (5, LARGE), (9, SMALL)], {"01": "01", "05": "ED", "09": "ES"}),
        ("", [(7, LARGE)], {"07": "07"}),
        ("", [(1, LARGE), (2, LARGE)], {"01": "ED", "02": "ES"}),
        ("Weight: 95\n", [(1, SMALL), (2, LARGE)], {"01": "ES", "02": "ED"}),
        ("ED: 1\n", [(1, SMALL), (2, LARGE)], {"01": "ED", "02": "ES"}),
        ("ES: 4\n", [(1, LARGE), (2, 6), (4, LARGE)], {"01": "ED", "02": "02", "04": "ES"}),
        (INFO, [(1, SMALL), (12, LARGE)], {"01": "ED", "12": "ES"}),
        (INFO, [(1, 6), (3, LARGE), (12, 6), (20, SMALL)], {"01": "ED", "03": "03", "12": "ES", "20": "20"}),
    ],
)
def test_info_names_the_phases_and_else_the_cavity_does(tmp_path, info, frames, expected):
    write_patient(tmp_path / "patient001", frames, info)
    assert {file[:2]: frame for file, frame in phases_of(tmp_path).items()} == expected


def test_patients_are_found_in_training_and_testing_in_the_order_of_names(tmp_path):
    for folder in ("training/patient002", "testing/patient101", "training/patient001"):
        write_patient(tmp_path / folder)
    (tmp_path / "training" / "patient_list.txt").write_text("")
    assert [case_id for case_id, _ in frames_of(tmp_path)] == [
        name for name in ("patient001", "patient002", "patient101") for _ in range(2)
    ]
    assert len(frames_of(tmp_path / "training")) == 4


def test_a_patient_found_twice_is_kept_once(tmp_path):
    for folder in ("training/patient001", "testing/patient001"):
        write_patient(tmp_path / folder)
    summary = write_studies(tmp_path / "studies.h5", read_acdc(tmp_path), CINE_LABELS, "acdc", minimum_patients=1)
    assert summary.studies == 2
    assert "is there already" in summary.rejected[0].reason


def test_uncompressed_files_and_names_beyond_ascii_are_read(tmp_path):
    folder = write_patient(tmp_path / "Müller" / "patient_é[1]")
    for path in folder.glob("*.nii.gz"):
        nibabel.save(nibabel.load(path), path.with_suffix(""))
        path.unlink()
    assert list(frames_of(tmp_path / "Müller")) == [("patient_é[1]", "ED"), ("patient_é[1]", "ES")]


@pytest.mark.parametrize("oddity", fake_acdc.FRAME_ODDITIES)
def test_an_odd_frame_costs_neither_the_other_frame_nor_other_patients(tmp_path, oddity):
    root = tmp_path / "root"
    write, expected = fake_acdc.FRAME_ODDITIES[oddity]
    write_patient(root / "patient001")
    write(root / "patient002")
    write_patient(root / "patient003")
    sound = [(study.case_id, study.frame) for study in read_acdc(root) if isinstance(study, Study)]
    assert sound[:3] == [("patient001", "ED"), ("patient001", "ES"), ("patient002", "ED")]
    assert sound[-2:] == [("patient003", "ED"), ("patient003", "ES")]
    _check_reason(only_rejected(root), expected, root / "patient002")


@pytest.mark.parametrize("oddity", fake_acdc.PATIENT_ODDITIES)
def test_an_odd_patient_is_rejected_with_one_line_and_the_others_are_read(tmp_path, oddity):
    root = tmp_path / "root"
    write, expected = fake_acdc.PATIENT_ODDITIES[oddity]
    write_patient(root / "patient001")
    write(root / "patient002")
    assert [type(study) for study in read_acdc(root)] == [Study, Study, RejectedStudy]
    _check_reason(only_rejected(root), expected, root / "patient002")


def _check_reason(odd, expected, place):
    assert odd.case_id == "patient002"
    assert re.search(expected, odd.reason)
    assert str(place) in odd.reason
    assert "\n" not in odd.reason
    assert ";" in odd.reason  # what is wrong; what to do


def test_a_frame_that_was_never_drawn_leaves_the_drawn_ones_their_phases(tmp_path):
    folder = write_patient(tmp_path / "patient001", [(1, SMALL), (2, LARGE), (3, LARGE)], info="")
    fake_acdc.mask_path(folder, 3).unlink()
    assert [getattr(study, "frame", None) for study in read_acdc(tmp_path)] == ["ES", "ED", None]
    assert "_frame03.nii.gz: its mask is missing; add it" in only_rejected(tmp_path).reason


@pytest.mark.parametrize("name", ["Info.cfg", "patient001_frame01.nii.gz", "."])
def test_what_may_not_be_read_is_named(tmp_path, name):
    write_patient(tmp_path / "patient001")
    with unreadable(tmp_path, tmp_path / "patient001" / name):
        studies = list(read_acdc(tmp_path))
    reasons = [study.reason for study in studies if isinstance(study, RejectedStudy)]
    assert reasons
    assert all("Permission denied" in reason and str(tmp_path / "patient001") in reason for reason in reasons)


def test_a_missing_or_empty_root_is_an_input_error_at_once(tmp_path):
    with pytest.raises(InputError, match=r"ACDC folder .* does not exist; give the folder"):
        read_acdc(tmp_path / "absent")
    (tmp_path / "training").mkdir()
    with pytest.raises(InputError, match=r"holds no patient.*give the folder that holds patient001"):
        read_acdc(tmp_path)


def test_the_source_table_reads_acdc(tmp_path):
    write_patient(tmp_path / "patient001")
    assert [study.frame for study in read_source("acdc", tmp_path, None)] == ["ED", "ES"]


def test_real_patients_eject_blood_and_keep_their_muscle():
    studies = list(read_acdc(real_data("acdc")))
    assert len(studies) == 92
    assert not [study for study in studies if isinstance(study, RejectedStudy)]
    by_phase = {phase: [study for study in studies if study.frame == phase] for phase in ("ED", "ES")}
    cavity, muscle = (
        np.array([[_ml(study, label) for study in by_phase[phase]] for phase in ("ED", "ES")]) for label in (1, 2)
    )
    assert (cavity[0] > cavity[1]).all()
    assert np.percentile(muscle[1] / muscle[0], [5, 95]) == pytest.approx([1.0, 1.35], abs=0.05)


def test_a_real_patients_info_tells_the_phases():
    studies = [study for study in read_acdc(real_data("acdc")) if study.case_id == "patient101"]
    assert [(study.frame, study.path[-14:-7]) for study in studies] == [("ED", "frame01"), ("ES", "frame14")]
    assert studies[0].clinical["group"] == "DCM"


def _ml(study, label):
    return np.count_nonzero(study.mask == label) * np.prod(study.spacing_mm) / 1000
