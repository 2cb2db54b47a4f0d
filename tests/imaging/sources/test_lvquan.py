import re

import h5py
import numpy as np
import pytest

from common.errors import InputError
from imaging.sources.config import SourceConfig
from imaging.sources.lvquan import read_lvquan18, read_lvquan19
from imaging.sources.table import read_source
from imaging.studies.study import RejectedStudy, Study
from imaging.volumes import matlab
from tests.imaging import fake_lvquan
from tests.imaging.fake_lvquan import FILE_ODDITIES, FRAME_ODDITIES, WRITERS
from tests.imaging.fake_nifti_pairs import unreadable

SPACED = SourceConfig(spacing_mm=(8, 1.5, 1.25))


@pytest.fixture(params=WRITERS)
def write(request):
    return WRITERS[request.param]


def expected_mask(number, index):
    drawn = fake_lvquan.patient(number)
    return np.where(drawn["endo"], 1, np.where(drawn["epi"], 2, 0))[..., index]


def test_every_frame_is_a_study_of_one_slice_in_the_order_of_names(tmp_path, write):
    for number in (2, 1):
        fake_lvquan.write19(tmp_path, f"p{number}", write, number=number)
    (tmp_path / "._p1.mat").write_bytes(b"\0")
    (tmp_path / "readme.txt").write_text("")
    studies = list(read_lvquan19(tmp_path))
    assert all(isinstance(study, Study) for study in studies)
    keys = [(study.case_id, study.frame) for study in studies]
    assert keys == [(case, f"{frame:02d}") for case in ("p1", "p2") for frame in range(1, 21)]
    assert {study.group for study in studies} == {"normal"}
    assert {study.label_set for study in studies} == {"cine"}


def test_rows_columns_frames_and_spacing_are_matlabs(tmp_path, write):
    fake_lvquan.write19(tmp_path, "p3", write, number=3)
    drawn = fake_lvquan.patient(3)
    for index, study in enumerate(read_lvquan19(tmp_path)):
        assert study.image.shape == (1, 36, 44)
        assert (study.image.dtype, study.mask.dtype) == (np.float32, np.uint8)
        assert study.spacing_mm == (1.0, 1.25, 1.25)
        np.testing.assert_array_equal(study.image[0], drawn["image"][..., index].astype(np.float32))
        np.testing.assert_array_equal(study.mask[0], expected_mask(3, index))


def test_a_volume_is_the_area_where_the_slice_spacing_is_unknown(tmp_path):
    fake_lvquan.write19(tmp_path, "p1")
    study = next(read_lvquan19(tmp_path))
    area_mm2 = (expected_mask(1, 0) == 1).sum() * 1.25**2
    assert (study.mask == 1).sum() * np.prod(study.spacing_mm) == area_mm2


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.uint8, np.int16])
@pytest.mark.parametrize("value", [1, 255])
def test_masks_may_be_of_any_number_type(tmp_path, write, kind, value):
    masks = {name: (fake_lvquan.patient()[name] * value).astype(kind) for name in ("endo", "epi")}
    fake_lvquan.write19(tmp_path, "p1", write, **masks)
    np.testing.assert_array_equal(next(read_lvquan19(tmp_path)).mask[0], expected_mask(1, 0))


@pytest.mark.parametrize("oddity", FILE_ODDITIES)
def test_an_odd_file_is_rejected_with_one_line_and_the_others_are_read(tmp_path, write, oddity):
    write_odd, expected = FILE_ODDITIES[oddity]
    fake_lvquan.write19(tmp_path, "p1", write)
    write_odd(tmp_path, "p2", write)
    fake_lvquan.write19(tmp_path, "p3", write)
    studies = list(read_lvquan19(tmp_path))
    odd = studies.pop(20)
    assert [study.case_id for study in studies if isinstance(study, Study)] == ["p1"] * 20 + ["p3"] * 20
    assert_one_line(odd, "p2", expected, tmp_path / "p2.mat")


@pytest.mark.parametrize("oddity", FRAME_ODDITIES)
def test_an_odd_frame_is_rejected_alone(tmp_path, write, oddity):
    write_odd, expected = FRAME_ODDITIES[oddity]
    write_odd(tmp_path, "p1", write)
    studies = list(read_lvquan19(tmp_path))
    odd = studies.pop(6)
    assert [study.frame for study in studies] == [f"{frame:02d}" for frame in range(1, 21) if frame != 7]
    assert_one_line(odd, "p1", expected, f"{tmp_path / 'p1.mat'} frame 07")


def assert_one_line(odd, case_id, expected, place):
    assert isinstance(odd, RejectedStudy)
    assert odd.case_id == case_id
    assert re.search(expected, odd.reason)
    assert str(place) in odd.reason
    assert "\n" not in odd.reason
    assert ";" in odd.reason  # what is wrong; what to do


def test_a_few_pixels_of_the_cavity_outside_the_wall_stay_cavity(tmp_path):
    endo = fake_lvquan.patient()["endo"]
    endo[0, :5, 0] = True
    endo[0, :6, 1] = True
    fake_lvquan.write19(tmp_path, "p1", endo=endo)
    first, second, *_ = read_lvquan19(tmp_path)
    assert (first.mask[0, 0, :6] == [1, 1, 1, 1, 1, 0]).all()
    assert "6 of " in second.reason


def test_the_same_patient_twice_is_named_once(tmp_path):
    fake_lvquan.write19(tmp_path, "p1")
    (tmp_path / "p1.mat").rename(tmp_path / "p1.MAT")
    fake_lvquan.write19(tmp_path, "p1")
    *_, twice = studies = list(read_lvquan19(tmp_path))
    assert len(studies) == 21
    assert re.search(r"patient 'p1' is there already, from .*p1.MAT; remove", twice.reason)


def test_names_may_be_in_any_script(tmp_path, write):
    fake_lvquan.write19(tmp_path, "Пациент é", write)
    assert {study.case_id for study in read_lvquan19(tmp_path)} == {"Пациент é"}


def test_an_unreadable_file_is_named(tmp_path, write):
    path = fake_lvquan.write19(tmp_path, "p1", write)
    with unreadable(tmp_path, path):
        (odd,) = read_lvquan19(tmp_path)
    assert_one_line(odd, "p1", "cannot be read .Permission denied", path)


def test_a_missing_or_empty_root_is_an_input_error(tmp_path):
    for read in (read_lvquan19, lambda root: read_lvquan18(root, SPACED)):
        with pytest.raises(InputError, match="does not exist; give the folder"):
            read(tmp_path / "absent")
    with pytest.raises(InputError, match=r"holds no \.mat file; give the folder"):
        read_lvquan19(tmp_path)
    with pytest.raises(InputError, match=r"should hold one \.mat file and holds none; give"):
        read_lvquan18(tmp_path, SPACED)


def test_twenty_frames_in_a_row_are_a_patient(tmp_path, write):
    fake_lvquan.write18(tmp_path, 3, write)
    studies = list(read_lvquan18(tmp_path, SPACED))
    keys = [(f"patient{number:03d}", f"{frame:02d}") for number in (1, 2, 3) for frame in range(1, 21)]
    assert [(study.case_id, study.frame) for study in studies] == keys
    assert {study.spacing_mm for study in studies} == {(8, 1.5, 1.25)}
    np.testing.assert_array_equal(studies[25].mask[0], expected_mask(2, 5))
    np.testing.assert_array_equal(studies[25].image[0], fake_lvquan.patient(2)["image"][..., 5].astype(np.float32))
    np.testing.assert_array_equal(studies[0].affine, np.diag([1.5, 1.25, 8, 1]))


def test_pixels_of_unknown_size_are_one_millimetre_with_one_warning(tmp_path, caplog):
    path = fake_lvquan.write18(tmp_path)
    assert {study.spacing_mm for study in read_lvquan18(path, SourceConfig())} == {(1, 1, 1)}
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "source.spacing_mm=" in caplog.text


def test_an_odd_frame_of_lvquan18_is_rejected_alone(tmp_path, write):
    epi = np.concatenate([fake_lvquan.patient(number)["epi"] for number in (1, 2)], axis=2)
    epi[..., 26] = False
    path = fake_lvquan.write18(tmp_path, 2, write, epi_LV=epi)
    studies = list(read_lvquan18(tmp_path, SPACED))
    assert_one_line(studies.pop(26), "patient002", "epi is empty", f"{path} patient002 frame 07")
    assert all(isinstance(study, Study) for study in studies)


def test_a_patient_whose_part_of_the_file_is_damaged_is_rejected_alone(tmp_path):
    path = fake_lvquan.write18(tmp_path, 2, fake_lvquan.write_version73)
    with h5py.File(path, "r") as file:
        offset = file["epi_LV"].id.get_chunk_info(1).byte_offset + 512
    raw = bytearray(path.read_bytes())
    raw[offset : offset + 40] = b"\xff" * 40
    path.write_bytes(raw)
    *sound, odd = read_lvquan18(tmp_path, SPACED)
    assert [study.case_id for study in sound] == ["patient001"] * 20
    assert_one_line(odd, "patient002", "not a readable MATLAB file", path)


def test_a_file_compressed_as_a_whole_is_decoded_once(tmp_path, monkeypatch):
    path = fake_lvquan.write18(tmp_path, 5, fake_lvquan.write_version73)
    with h5py.File(path, "a") as file:
        for name, values in {name: file[name][:] for name in file}.items():
            del file[name]
            file.create_dataset(name, data=values, chunks=values.shape, compression="gzip")
    reads, read = [], matlab.MatFile.read
    monkeypatch.setattr(matlab.MatFile, "read", lambda *given: reads.append(given[1:]) or read(*given))
    assert len(list(read_lvquan18(tmp_path, SPACED))) == 100
    assert reads == [("images_LV",), ("endo_LV",), ("epi_LV",)]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"epi_LV": None}, "has no 'epi_LV' but .'endo_LV', 'images_LV'"),
        ({"epi_LV": np.ones((36, 44, 39))}, r"epi_LV \(36, 44, 39\); give three arrays"),
        (
            {name: np.ones((36, 44, 39)) for name in ("images_LV", "endo_LV", "epi_LV")},
            "39 frames are not 20 a patient",
        ),
    ],
)
def test_a_file_that_is_not_lvquan18s_is_an_input_error_at_once(tmp_path, write, changes, expected):
    fake_lvquan.write18(tmp_path, 2, write, **changes)
    with pytest.raises(InputError, match=expected):
        read_lvquan18(tmp_path, SPACED)


def test_the_one_file_of_lvquan18_must_be_sound_alone_and_inside(tmp_path):
    path = fake_lvquan.write18(tmp_path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(InputError, match="not a readable MATLAB file"):
        read_lvquan18(tmp_path, SPACED)
    (tmp_path / "test.mat").write_bytes(b"")
    with pytest.raises(InputError, match=r"holds LVQuan18\.mat, test\.mat; give it alone"):
        read_lvquan18(tmp_path, SPACED)
    root = tmp_path / "root"
    root.mkdir()
    (root / "LVQuan18.mat").symlink_to(path)
    with pytest.raises(InputError, match="leads out of the folder"):
        read_lvquan18(root, SPACED)


def test_the_source_table_knows_both(tmp_path):
    path = fake_lvquan.write18(tmp_path)
    assert len(list(read_source("lvquan18", tmp_path, None, SPACED))) == 40
    path.unlink()
    fake_lvquan.write19(tmp_path, "p1")
    assert len(list(read_source("lvquan19", tmp_path, None))) == 20
