import logging
import re

import numpy as np
import pytest

from common.errors import InputError
from imaging.sources.sunnybrook import contour_mask, read_sunnybrook
from imaging.sources.table import read_source, source_labels
from imaging.studies.study import RejectedStudy, Study
from tests.imaging import fake_sunnybrook as fake
from tests.imaging.fake_nifti_pairs import unreadable
from tests.real_data import real_data

CASE = "SCD0000101"


def by_frame(root):
    return {study.frame: study for study in read_sunnybrook(root) if isinstance(study, Study)}


def enclosed(radius):
    y, x = np.mgrid[: fake.ROWS, : fake.COLUMNS]
    return np.hypot(x - fake.CENTRE[0], y - fake.CENTRE[1]) < radius


def test_every_phase_of_every_sound_case_is_read_in_the_order_of_names(tmp_path):
    for case_id in ("SCD0000201", CASE):
        fake.write_case(tmp_path, case_id)
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "README.txt").write_text("")
    studies = list(read_sunnybrook(tmp_path))
    assert [(study.case_id, study.frame) for study in studies] == [
        (case_id, frame) for case_id in (CASE, "SCD0000201") for frame in ("ES", "ED")
    ]
    assert {study.group for study in studies} == {"normal"}


def test_image_and_mask_are_arranged_alike_as_radiologists_read_them(tmp_path):
    fake.write_case(tmp_path, CASE)
    study = by_frame(tmp_path)["ED"]
    assert study.image.shape == study.mask.shape == (3, fake.COLUMNS, fake.ROWS)  # the files' rows run to the feet
    assert (study.image.dtype, study.mask.dtype) == (np.float32, np.uint8)
    assert study.spacing_mm == pytest.approx((10.0, 1.25, 1.5), abs=1e-3)
    liver, ventricle = study.image[:, -6:].mean(), study.image[:, 15:36, :10].mean()
    assert liver > 2 * study.image[:, :6].mean()  # below
    assert ventricle > 2 * study.image[:, 15:36, -5:].mean()  # at the left edge
    assert study.image[0].min() < study.image[2].min()  # from base to apex
    for image, mask, place in zip(study.image, study.mask, fake.PLACES, strict=True):
        np.testing.assert_array_equal(image, fake.pixels(place, fake.ED).T[:, ::-1])
        assert image[mask == 1].min() > 500
        assert image[mask == 2].max() < 500


def test_contours_enclose_the_pixels_whose_centres_lie_inside(tmp_path):
    fake.write_case(tmp_path, CASE)
    square = [(20, 12), (30, 12), (30, 17), (20, 17)]  # pixels 20 to 29 and 12 to 16, whole
    fake.write_contour(fake.contour_path(tmp_path, CASE), square)
    mask = by_frame(tmp_path)["ED"].mask[0].T[::-1]  # as the file has it
    cavity = np.zeros((fake.ROWS, fake.COLUMNS), bool)
    cavity[12:17, 20:30] = True
    np.testing.assert_array_equal(mask, np.where(cavity, 1, 2 * enclosed(11.03)))


def test_a_contour_through_pixel_centres_encloses_its_area(tmp_path):
    path = tmp_path / "contour.txt"
    for square in ([(4.5, 3.5), (9.5, 3.5), (9.5, 7.5), (4.5, 7.5)], [(4, 3.5), (9, 3.5), (9, 7.5), (4, 7.5)]):
        fake.write_contour(path, square)
        assert np.count_nonzero(contour_mask(path, (12, 14))) == 5 * 4
    fake.write_contour(path, [(6.5, 1.5), (11.5, 6.5), (6.5, 11.5), (1.5, 6.5)])
    assert np.count_nonzero(contour_mask(path, (12, 14))) == 50


def test_the_affine_tells_where_the_files_voxels_lie(tmp_path):
    fake.write_case(tmp_path, CASE)
    affine = by_frame(tmp_path)["ED"].affine
    apex = fake.position_mm(max(fake.PLACES))  # the normal points to the base
    np.testing.assert_allclose(affine[:3, 3], apex * [-1, -1, 1], atol=0.01)
    np.testing.assert_allclose(affine[:3, 1], 1.5 * fake.DIRECTIONS[1] * [-1, -1, 1], atol=1e-5)


@pytest.mark.parametrize("oddity", fake.ODDITIES)
def test_an_odd_study_is_rejected_with_one_line_and_the_others_are_read(tmp_path, oddity):
    write, expected = fake.ODDITIES[oddity]
    root = tmp_path / "cases"
    fake.write_case(root, "SCD0000101", places=(2,))
    write(root, "SCD0000201")
    fake.write_case(root, "SCD0000301", places=(2,))
    studies = list(read_sunnybrook(root))
    odd = [study for study in studies if isinstance(study, RejectedStudy)]
    read = [study.case_id for study in studies if isinstance(study, Study)]
    assert read.count("SCD0000101") == read.count("SCD0000301") == 2
    assert {study.case_id for study in odd} == {"SCD0000201"}
    assert [study.reason for study in odd if re.search(expected, study.reason)]
    for study in odd:
        assert str(root / "SCD0000201") in study.reason
        assert "\n" not in study.reason
        assert ";" in study.reason  # what is wrong; what to do


def test_a_bad_contour_costs_its_phase_and_not_the_other(tmp_path):
    fake.ODDITIES["words"][0](tmp_path, CASE)
    read, rejected = read_sunnybrook(tmp_path)
    assert (read.frame, type(rejected)) == ("ES", RejectedStudy)


def test_a_phase_with_inner_contours_alone_is_rejected_and_still_tells_which_the_other_is(tmp_path):
    fake.write_case(tmp_path, CASE, inner_only=(fake.ES,))
    rejected, read = read_sunnybrook(tmp_path)
    assert "phase ES: 3 slices carry only inner contours: 48, 68, 88; add the other" in rejected.reason
    assert read.frame == "ED"


def test_slices_with_one_contour_are_left_out_and_told(tmp_path, caplog):
    fake.write_case(tmp_path, CASE)
    fake.contour_path(tmp_path, CASE, 59, "o").unlink()
    with caplog.at_level(logging.INFO):
        assert by_frame(tmp_path)["ED"].image.shape[0] == 2
    assert "phase ED: 1 slices carry only inner contours: 59" in caplog.text


def test_cavities_are_compared_where_both_phases_have_them(tmp_path):
    fake.write_case(tmp_path, CASE)
    for number in (79, 99):
        for wall in "io":
            fake.contour_path(tmp_path, CASE, number, wall).unlink()
    assert [study.frame for study in read_sunnybrook(tmp_path)] == ["ES", "ED"]  # three small cavities, one large


def test_phases_carry_their_number_where_there_are_not_two_cavities_to_compare(tmp_path, monkeypatch):
    fake.write_case(tmp_path / "one", CASE, phases=(fake.ED,))
    assert list(by_frame(tmp_path / "one")) == ["19"]
    monkeypatch.setitem(fake.RADII, 0, (6.0, 10.0))
    fake.write_case(tmp_path / "three", CASE, phases=(fake.ES, fake.ED, 0))
    assert list(by_frame(tmp_path / "three")) == ["01", "08", "19"]


def test_other_contours_and_hidden_files_are_passed_over(tmp_path):
    fake.write_case(tmp_path, CASE)
    folder = tmp_path / CASE / "contours"
    for name in ("IM-0001-0059-p1-contour-manual.txt", "IM-0001-0059-icontour-auto.txt", "._IM-0001-0059.dcm"):
        (folder / name).write_bytes(b"\0")
    (folder / "._IM-0001-0059-icontour-manual.txt").write_bytes(b"\0")
    assert len(by_frame(tmp_path)) == 2


def rename_all(root, number_to_name):
    for path in list((root / CASE / "dicom").iterdir()):
        (path.parent / number_to_name(int(path.stem))).parent.mkdir(exist_ok=True)
        path.rename(path.parent / number_to_name(int(path.stem)))


@pytest.mark.parametrize(
    "name",
    [
        lambda number: f"IM-0004-{number:04d}.dcm",
        lambda number: f"place {number // 20}/IM-0004-{number:04d}.DCM",
        lambda number: f"é {chr(number)}.dcm",  # only the InstanceNumber is left
        lambda number: f"{number + 1000}.dcm",
    ],
)
def test_contours_find_their_files_by_name_and_else_by_instance_number(tmp_path, name):
    fake.write_case(tmp_path, CASE)
    expected = by_frame(tmp_path)
    rename_all(tmp_path, name)
    for frame, study in by_frame(tmp_path).items():
        np.testing.assert_array_equal(study.image, expected[frame].image)
        np.testing.assert_array_equal(study.mask, expected[frame].mask)


def test_of_series_that_share_numbers_the_one_with_all_contoured_slices_counts(tmp_path):
    fake.write_case(tmp_path, CASE)
    expected = by_frame(tmp_path)["ED"]
    for number in (48, 59):
        copy = tmp_path / CASE / "long axis" / f"IM-0001-{number:04d}.dcm"
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(fake.dicom_path(tmp_path, CASE, number).read_bytes())
        fake.edit(copy, SeriesInstanceUID="1.2.3", ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    np.testing.assert_array_equal(by_frame(tmp_path)["ED"].image, expected.image)


def test_names_beyond_ascii_are_read(tmp_path):
    fake.write_case(tmp_path, "Zoë Пациент")
    assert {study.case_id for study in by_frame(tmp_path).values()} == {"Zoë Пациент"}


@pytest.mark.parametrize("path", [fake.dicom_path, fake.contour_path, lambda root, case_id: root / case_id / "dicom"])
def test_what_may_not_be_read_is_named(tmp_path, path):
    for case_id in (CASE, "SCD0000201"):
        fake.write_case(tmp_path, case_id)
    with unreadable(tmp_path, path(tmp_path, CASE)):
        rejected = [study for study in read_sunnybrook(tmp_path) if isinstance(study, RejectedStudy)]
    (reason,) = (study.reason for study in rejected)
    assert str(path(tmp_path, CASE)) in reason
    assert re.search(r"cannot be (read|listed) \(Permission denied\);", reason)


def test_a_missing_or_foreign_root_is_an_input_error_at_once(tmp_path):
    with pytest.raises(InputError, match="does not exist; give the folder"):
        read_sunnybrook(tmp_path / "absent")
    with pytest.raises(InputError, match=r"holds no folder with \.dcm files and .*; give the folder that holds SCD"):
        read_sunnybrook(tmp_path)
    fake.write_case(tmp_path, CASE)
    with pytest.raises(InputError, match=r"holds no folder with \.dcm files"):
        read_sunnybrook(tmp_path / CASE)


def test_the_source_table_reads_sunnybrook(tmp_path):
    fake.write_case(tmp_path, CASE)
    assert not source_labels("sunnybrook").has_lesions
    assert [study.frame for study in read_source("sunnybrook", tmp_path, None)] == ["ES", "ED"]


def test_the_real_patient_has_its_diastole_and_only_cavities_in_systole():
    rejected, study = read_sunnybrook(real_data("sunnybrook"))
    assert "phase ES: 9 slices carry only inner contours: 48, 68, 88," in rejected.reason
    assert (study.case_id, study.frame, study.image.shape) == (CASE, "ED", (9, 256, 256))
    assert study.spacing_mm == pytest.approx((10.0, 1.367188, 1.367188), abs=1e-3)
    cavity, myocardium = (study.image[study.mask == tissue].mean() for tissue in (1, 2))
    assert cavity > 2 * myocardium  # bright blood, as cine sequences show it
    ml = np.bincount(study.mask.ravel()) * np.prod(study.spacing_mm) / 1000
    assert 150 < ml[1] < 300
    assert 80 < ml[2] < 200
