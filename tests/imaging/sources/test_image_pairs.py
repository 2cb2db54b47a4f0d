import re

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from imaging.sources.config import SourceConfig
from imaging.sources.image_pairs import read_image_pairs
from imaging.sources.table import read_source
from imaging.studies.study import RejectedStudy, Study
from imaging.volumes.image_files import read_grey
from tests.imaging import fake_image_pairs
from tests.imaging.fake_image_pairs import LAYOUTS, ODDITIES, image_of, label_map, png, write, write_pages
from tests.imaging.fake_nifti_pairs import unreadable

CONFIG = SourceConfig(spacing_mm=(8, 1.5, 1.25))


def only(root, config=CONFIG):
    (study,) = read_image_pairs(root, config)
    assert isinstance(study, Study), study.reason
    return study


def write_one(root, image, mask):
    write(root / "images" / "P1.png", image)
    write(root / "masks" / "P1.png", mask)
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_a_study_a_patient_in_the_order_of_names(tmp_path, layout):
    for number, case_id in ((2, "P2"), (1, "P1"), (3, "Études α")):
        LAYOUTS[layout](tmp_path, case_id, number)
    (tmp_path / "images" / "._P1_000.png").write_bytes(b"\0")
    (tmp_path / "images" / "notes.txt").write_text("")
    studies = list(read_image_pairs(tmp_path, CONFIG))
    assert [study.case_id for study in studies] == ["P1", "P2", "Études α"]
    assert [study.group for study in studies] == ["normal", "infarct", "normal"]
    for study, number in zip(studies, (1, 2, 3), strict=True):
        dtype = np.uint16 if layout == "stack" else np.uint8
        np.testing.assert_array_equal(study.mask, label_map(number))
        np.testing.assert_array_equal(study.image, image_of(label_map(number), dtype))
        assert (study.image.dtype, study.mask.dtype) == (np.float32, np.uint8)
        assert (study.frame, study.spacing_mm) == ("", (8, 1.5, 1.25))


@pytest.mark.parametrize("oddity", ODDITIES)
def test_an_odd_study_is_rejected_with_one_line_and_the_others_are_read(tmp_path, oddity):
    write_odd, expected = ODDITIES[oddity]
    for case_id, write_case in (("P1", LAYOUTS["side_by_side"]), ("P2", write_odd), ("P3", LAYOUTS["folder"])):
        write_case(tmp_path, case_id)
    before, odd, after = read_image_pairs(tmp_path, CONFIG)
    assert (before.case_id, odd.case_id, after.case_id) == ("P1", "P2", "P3")
    assert isinstance(before, Study)
    assert isinstance(after, Study)
    assert isinstance(odd, RejectedStudy)
    assert re.search(expected, odd.reason)
    assert re.search(rf"{tmp_path}/(images|masks)/P2", odd.reason)
    assert "\n" not in odd.reason
    assert ";" in odd.reason  # what is wrong; what to do


@pytest.mark.parametrize("name", ["CASE-slice{}", "CASE_slice{:03d}", "CASE/{}", "CASE/scan_{:02d}"])
def test_slices_are_in_the_order_of_their_numbers(tmp_path, name):
    for index, labels in enumerate(label_map(shape=(11, 36, 44))):
        for part in ("images", "labels"):
            write(tmp_path / part / f"{name.format(index)}.png", labels)
    study = only(tmp_path)
    assert study.case_id == "CASE"
    np.testing.assert_array_equal(study.mask, label_map(shape=(11, 36, 44)))


@pytest.mark.parametrize("separator", ["_", "-", " "])
def test_the_last_number_is_the_slice(tmp_path, separator):
    for index in range(11):
        for case_id in ("site_2_P_07", "site_3_P_07"):
            for part in ("images", "masks"):
                write(tmp_path / part / f"{case_id}{separator}{index}.png", label_map(shape=(11, 36, 44))[index])
    studies = list(read_image_pairs(tmp_path, CONFIG))
    assert [study.case_id for study in studies] == ["site_2_P_07", "site_3_P_07"]
    for study in studies:
        np.testing.assert_array_equal(study.mask, label_map(shape=(11, 36, 44)))


def test_a_tiff_of_many_pages_is_a_patient_whatever_its_name(tmp_path):
    for number in (1, 2):
        LAYOUTS["stack"](tmp_path, f"patient_{number:02d}", number)
    assert [study.case_id for study in read_image_pairs(tmp_path, CONFIG)] == ["patient_01", "patient_02"]


def test_endings_may_differ_in_kind_and_case(tmp_path):
    labels = label_map()[0]
    write(tmp_path / "images" / "A.PNG", image_of(labels))
    write(tmp_path / "masks" / "A.Tiff", labels)
    np.testing.assert_array_equal(only(tmp_path).mask[0], labels)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_every_depth_of_tiff_is_read_exactly(tmp_path, dtype, compression):
    pixels = (np.arange(36 * 44).reshape(36, 44) * 31.25).astype(dtype)
    read = read_grey(write(tmp_path / "a.tif", pixels, compression=compression))
    assert read.dtype == dtype
    np.testing.assert_array_equal(read[0], pixels)


def test_sixteen_bits_of_png_and_of_either_byte_order_are_read_exactly(tmp_path):
    pixels = (np.arange(36 * 44).reshape(36, 44) * 41).astype(np.uint16)
    for path in (
        write(tmp_path / "a.png", pixels),
        write(tmp_path / "a.tif", pixels),
        fake_image_pairs.write_big_endian(tmp_path / "b.tif", pixels),
    ):
        np.testing.assert_array_equal(read_grey(path)[0].astype(np.float32), pixels)


def test_images_in_three_equal_colours_or_with_steady_transparency_are_grey(tmp_path):
    grey = image_of(label_map())[0]
    for channels in ([grey] * 3, [grey] * 3 + [np.full_like(grey, 255)], [grey, np.full_like(grey, 128)]):
        for suffix in (".png", ".tif"):
            path = write(tmp_path / f"a{suffix}", np.dstack(channels))
            np.testing.assert_array_equal(read_grey(path)[0], grey)


def test_a_palette_is_colours_in_an_image_and_numbers_in_a_mask(tmp_path):
    labels = label_map(2)[0]
    path = fake_image_pairs.write_palette(tmp_path / "masks" / "P1.png", labels)
    with pytest.raises(InputError, match="pixels are coloured"):
        read_grey(path)
    write(tmp_path / "images" / "P1.png", image_of(labels))
    np.testing.assert_array_equal(only(tmp_path).mask[0], labels)
    grey = Image.fromarray(labels)
    grey.putpalette([value for level in fake_image_pairs.GREY for value in (level,) * 3])
    grey.save(path)
    np.testing.assert_array_equal(read_grey(path)[0], np.array(fake_image_pairs.GREY)[labels])


def test_a_mask_of_two_values_holds_zero_and_one(tmp_path):
    wall = label_map()[0] == 2
    write_one(tmp_path, image_of(label_map()[0]), wall)
    study = only(tmp_path, SourceConfig(spacing_mm=(8, 1, 1), label_values={1: "normal_myocardium"}))
    np.testing.assert_array_equal(study.mask[0], 2 * wall)


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_values_of_a_mask_are_the_tissues_the_configuration_names(tmp_path, channels):
    labels = label_map(2)[0]
    shown = np.array(fake_image_pairs.GREY, np.uint8)[labels]
    write_one(tmp_path, image_of(labels), shown if channels == 1 else np.dstack([shown] * 3))
    names = {60: "cavity", 120: "normal_myocardium", 180: "infarct"}
    np.testing.assert_array_equal(
        only(tmp_path, SourceConfig(spacing_mm=(8, 1, 1), label_values=names)).mask[0], labels
    )
    del names[180]
    (odd,) = read_image_pairs(tmp_path, SourceConfig(spacing_mm=(8, 1, 1), label_values=names))
    assert "label values [180] stand for no tissue" in odd.reason


def test_cine_labels_can_be_chosen(tmp_path):
    LAYOUTS["folder"](tmp_path, "P1", 1)
    study = only(tmp_path, SourceConfig(spacing_mm=(8, 1, 1), label_set="cine"))
    assert (study.label_set, study.group) == ("cine", "normal")


def test_white_as_zero_is_refused_where_it_would_be_misread(tmp_path):
    pixels = np.arange(36 * 44, dtype=np.uint16).reshape(36, 44)
    path = write(tmp_path / "a.tif", pixels, tiffinfo={262: 0})
    with pytest.raises(InputError, match="stores white as zero; save it with black as zero"):
        read_grey(path)


def test_the_resolution_a_file_announces_is_not_its_spacing(tmp_path):
    labels = label_map()[0]
    write(tmp_path / "images" / "P1.tif", image_of(labels), dpi=(72, 72))
    write(tmp_path / "masks" / "P1.tif", labels)
    assert only(tmp_path).spacing_mm == (8, 1.5, 1.25)
    with pytest.raises(InputError, match=r"carry no spacing; give --set source.spacing_mm=\[8,1.4,1.4\] \(slice, row"):
        read_image_pairs(tmp_path, SourceConfig())


def test_an_implausible_spacing_or_an_unknown_tissue_is_an_input_error_at_once(tmp_path):
    LAYOUTS["folder"](tmp_path, "P1")
    with pytest.raises(InputError, match=r"source\.spacing_mm: spacing 8 x 140 x 140 mm"):
        read_image_pairs(tmp_path, SourceConfig(spacing_mm=(8, 140, 140)))
    with pytest.raises(InputError, match=r"'scar'.* are no tissues of label set 'emidec'"):
        read_image_pairs(tmp_path, SourceConfig(spacing_mm=(8, 1, 1), label_values={1: "scar"}))


def test_a_missing_or_empty_root_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="does not exist; give the folder"):
        read_image_pairs(tmp_path / "absent", CONFIG)
    with pytest.raises(InputError, match="holds 0 images and 0 masks; give the folder"):
        read_image_pairs(tmp_path, CONFIG)
    write(tmp_path / "images" / "P1.png", label_map()[0])
    with pytest.raises(InputError, match="holds 1 images and 0 masks; give the folder"):
        read_image_pairs(tmp_path, CONFIG)


def test_an_unreadable_file_is_named(tmp_path):
    write_one(tmp_path, image_of(label_map()[0]), label_map()[0])
    with unreadable(tmp_path, tmp_path / "masks" / "P1.png"):
        (odd,) = read_image_pairs(tmp_path, CONFIG)
    assert re.search(r"masks/P1.png: cannot be read \(Permission denied\); correct it", odd.reason)


def test_many_pages_are_refused_by_their_sum_before_one_is_decoded(tmp_path, monkeypatch):
    path = write_pages(tmp_path / "a.tif", image_of(label_map()))
    monkeypatch.setattr("imaging.volumes.image_files.MOST_VOXELS", 4000)
    monkeypatch.setattr("imaging.volumes.image_files._page", lambda *_: pytest.fail("decoded"))
    with pytest.raises(InputError, match="announces 3 pages of 36 x 44"):
        read_grey(path)


def test_a_picture_with_grey_of_few_bits_is_spread_over_eight(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(4, 1, 2, 0, b"\0" + bytes([0b00011011])))
    np.testing.assert_array_equal(read_grey(path)[0], [[0, 85, 170, 255]])


def test_the_source_table_knows_them(tmp_path):
    LAYOUTS["folder"](tmp_path, "P1")
    assert [study.case_id for study in read_source("image_pairs", tmp_path, None, CONFIG)] == ["P1"]
