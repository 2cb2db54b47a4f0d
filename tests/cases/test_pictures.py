"""What a picture shows decides, not how it is stored; what is no mask or no picture is one line of bounded length."""

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from imaging.labels import CINE_LABELS, EMIDEC_LABELS, labels_by_colour
from imaging.sources.config import SourceConfig
from imaging.sources.image_pairs import read_image_pairs
from imaging.studies.study import RejectedStudy, Study
from imaging.volumes.image_files import read_grey, read_pixels
from tests.imaging.fake_image_pairs import image_of, label_map, write

CONFIG = SourceConfig(spacing_mm=(8, 1.4, 1.4), one_slice_per_patient=True)
LONGEST_LINE = 600  # characters, most of them the path's and the remedy's
LABELS = label_map(2)[0]  # 0, 1, 2 and 3


def write_palette(path, indices, colours):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette([channel for colour in colours for channel in colour])
    image.save(path)


def mask_of(root, config=CONFIG):
    write(root / "images" / "P1.png", image_of(LABELS))
    (study,) = read_image_pairs(root, config)
    assert isinstance(study, Study), study.reason
    return study.mask[0]


def reason_of(root, config=CONFIG):
    write(root / "images" / "P1.png", image_of(LABELS))
    (study,) = read_image_pairs(root, config)
    assert isinstance(study, RejectedStudy)
    assert "\n" not in study.reason
    assert len(study.reason) < LONGEST_LINE
    return study.reason


def test_a_mask_whose_palette_was_renumbered_is_the_mask_it_looks_like(case):
    plain, optimised = sorted(
        read_image_pairs(case("06") / "d", CONFIG), key=lambda study: study.case_id != "plain_000"
    )
    stored = np.array(Image.open(case("06") / "d" / "masks" / "optimised_000.png"))
    assert sorted(np.unique(stored)) == [0, 1, 2, 3]  # the entries' numbers
    assert sorted(np.unique(plain.mask)) == [0, 2, 3, 4]
    np.testing.assert_array_equal(optimised.mask, plain.mask)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_palette_of_greys_keeps_its_grey_values(tmp_path, suffix):
    drawn = np.where(LABELS == 1, 2, LABELS)
    write_palette(tmp_path / "masks" / f"P1{suffix}", np.searchsorted([0, 2, 3], drawn), [(v, v, v) for v in (0, 2, 3)])
    np.testing.assert_array_equal(mask_of(tmp_path), drawn)


def test_grey_values_of_a_palette_are_the_tissues_the_configuration_names(tmp_path):
    write_palette(tmp_path / "masks" / "P1.png", LABELS, [(v, v, v) for v in (0, 60, 120, 180)])
    names = {60: "cavity", 120: "normal_myocardium", 180: "infarct"}
    np.testing.assert_array_equal(mask_of(tmp_path, CONFIG.model_copy(update={"label_values": names})), LABELS)
    assert "label values [60, 120, 180] are not in label set" in reason_of(tmp_path)


def test_colours_of_the_label_set_decide_whatever_their_entries_numbers(tmp_path):
    order = [3, 0, 2, 1]  # the label of each entry
    write_palette(tmp_path / "masks" / "P1.png", np.argsort(order)[LABELS], [EMIDEC_LABELS.colours[v] for v in order])
    np.testing.assert_array_equal(mask_of(tmp_path), LABELS)


def test_a_mask_in_the_colours_of_the_label_set_needs_no_palette(tmp_path):
    write(tmp_path / "masks" / "P1.png", np.array(EMIDEC_LABELS.colours, np.uint8)[LABELS])
    np.testing.assert_array_equal(mask_of(tmp_path), LABELS)


def test_other_colours_are_refused_with_those_there_are(tmp_path):
    write_palette(tmp_path / "masks" / "P1.png", LABELS, [(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)])
    reason = reason_of(tmp_path)
    assert "pixels are coloured; (0, 0, 255), (0, 255, 0), (255, 0, 0) are no colours of label set 'emidec'" in reason
    assert "save a mask as grey values or with a palette of its colours (background (0, 0, 0), cavity (214" in reason


def test_many_wrong_colours_are_a_line_of_bounded_length(tmp_path):
    rng = np.random.default_rng(0)
    write(tmp_path / "masks" / "P1.png", rng.integers(0, 256, (*LABELS.shape, 3)).astype(np.uint8))
    assert "more are no colours of label set 'emidec'" in reason_of(tmp_path)


def test_colours_of_cine_masks_are_their_own():
    pixels = np.array(CINE_LABELS.colours, np.uint8)[np.array([[[0, 1, 2]]])]
    np.testing.assert_array_equal(labels_by_colour(pixels, CINE_LABELS, "a.png"), [[[0, 1, 2]]])
    with pytest.raises(InputError, match=r"1 pixels are coloured; \(245, 215, 66\) are no colours of label set 'cine'"):
        labels_by_colour(np.array([[[[245, 215, 66]]]], np.uint8), CINE_LABELS, "a.png")


def test_an_image_is_grey_if_its_palette_is(tmp_path):
    write_palette(tmp_path / "a.png", LABELS, [(v, v, v) for v in (9, 40, 80, 120)])
    np.testing.assert_array_equal(read_grey(tmp_path / "a.png")[0], np.array([9, 40, 80, 120])[LABELS])
    write_palette(tmp_path / "b.png", LABELS, EMIDEC_LABELS.colours)
    assert read_pixels(tmp_path / "b.png").shape == (1, *LABELS.shape, 3)
    with pytest.raises(InputError, match="pixels are coloured; save an image as grey values"):
        read_grey(tmp_path / "b.png")


def test_smeared_masks_and_images_given_as_masks_are_lines_of_bounded_length(case):
    found = list(read_image_pairs(case("08") / "d", CONFIG))
    assert all(isinstance(study, RejectedStudy) for study in found)
    assert all(len(study.reason) < LONGEST_LINE and "\n" not in study.reason for study in found)
    reasons = {study.case_id: study.reason for study in found}
    for name in ("a_000", "b_000", "c_000"):
        assert (
            " more] are not in label set 'emidec' (0 to 4), as in an image, or in a mask saved as JPEG" in reasons[name]
        )


def test_pictures_of_other_kinds_have_their_line(case):
    found = [study.reason for study in read_image_pairs(case("08") / "d", CONFIG)]
    for name in ("images/e_000.jpg", "images/f_000.bmp", "masks/f_000.bmp"):
        assert any(f"{name}: is not read; save it as PNG or TIFF in images or masks" in reason for reason in found)
    assert any("masks/e_000.png: its image is missing" in reason for reason in found)


def test_a_value_more_or_less_is_no_image(tmp_path):
    labels = LABELS.copy()
    labels[0, :3] = (7, 8, 9)
    write(tmp_path / "masks" / "P1.png", labels)
    assert "label values [7, 8, 9] are not in label set 'emidec' (0 to 4); correct the mask" in reason_of(tmp_path)
