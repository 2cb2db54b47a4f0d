"""Pictures show the labels they are given, where they are."""

import io

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from imaging.labels import CINE_LABELS, EMIDEC_LABELS, Tissue
from imaging.overlay import contact_sheet, outlines, overlay, png_bytes


def _square(value: int, side: int = 16) -> np.ndarray:
    mask = np.zeros((side, side), np.uint8)
    mask[4:12, 4:12] = value
    return mask


def test_without_labels_the_picture_is_the_grey_image():
    image = np.linspace(0, 1, 256).reshape(16, 16)
    picture = overlay(image, np.zeros((16, 16), np.uint8), EMIDEC_LABELS)
    assert picture.dtype == np.uint8
    assert np.array_equal(picture, np.repeat(np.rint(image * 255).astype(np.uint8)[..., None], 3, axis=-1))


def test_values_outside_zero_to_one_are_clipped():
    picture = overlay(np.array([[-3.0, 7.0]]), np.zeros((1, 2), np.uint8), EMIDEC_LABELS)
    assert picture[0].tolist() == [[0, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize("tissue", [t for t in Tissue if t != Tissue.BACKGROUND])
def test_the_outline_has_the_tissues_colour_and_the_inside_shows_the_image_through(tissue):
    colour = np.array(EMIDEC_LABELS.colours[tissue])
    dark, bright = (overlay(np.full((16, 16), grey), _square(tissue), EMIDEC_LABELS) for grey in (0.0, 1.0))
    assert dark[4, 4].tolist() == bright[4, 4].tolist() == colour.tolist()
    assert (bright[8, 8] > dark[8, 8]).all()
    assert dark[8, 8].tolist() == pytest.approx((0.35 * colour).tolist(), abs=1)
    assert dark[0, 0].tolist() == [0, 0, 0]


def test_a_sheet_has_room_for_every_slice_title_and_the_legend():
    images, masks = np.zeros((5, 64, 64)), np.stack([_square(Tissue.INFARCT, 64)] * 5)
    bare = contact_sheet(images, np.zeros_like(masks), EMIDEC_LABELS, columns=5)
    two_rows = contact_sheet(images, np.zeros_like(masks), EMIDEC_LABELS, columns=3)
    labelled = contact_sheet(images, masks, EMIDEC_LABELS, columns=5)
    titled = contact_sheet(images, masks, EMIDEC_LABELS, columns=5, titles=list("abcde"))
    assert two_rows.height == 2 * bare.height
    assert bare.height < labelled.height < titled.height


def test_slices_fill_the_sheet_row_by_row():
    images = np.arange(1, 5).reshape(4, 1, 1) / 4 * np.ones((4, 8, 8))
    sheet = np.asarray(contact_sheet(images, np.zeros((4, 8, 8), np.uint8), EMIDEC_LABELS, columns=2))
    height, width = sheet.shape[0] // 2, sheet.shape[1] // 2
    found = [int(sheet[4 + row * height, 4 + column * width, 0]) for row in (0, 1) for column in (0, 1)]
    assert found == [64, 128, 191, 255]


@pytest.mark.parametrize("labels", [EMIDEC_LABELS, CINE_LABELS])
def test_the_legend_shows_every_tissue_even_under_a_narrow_sheet(labels):
    sheet = np.asarray(contact_sheet(np.zeros((1, 16, 16)), _square(1)[None], labels, columns=1))
    legend = sheet[16:].reshape(-1, 3).tolist()
    assert all(list(labels.colours[value]) in legend for value, _ in labels.foreground)


def test_png_bytes_are_the_picture_and_repeat():
    sheet = contact_sheet(np.zeros((1, 16, 16)), _square(2)[None], EMIDEC_LABELS, columns=1)
    assert png_bytes(sheet) == png_bytes(sheet)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png_bytes(sheet)))), np.asarray(sheet))


@pytest.mark.parametrize(
    ("images", "columns", "titles", "message"),
    [
        (np.zeros((2, 8, 8)), 1, None, r"one shape \(N, H, W\).*\(2, 8, 8\).*\(1, 8, 8\)"),
        (np.zeros((1, 8, 8)), 1, ["a", "b"], "2 titles for 1 slices"),
        (np.zeros((1, 8, 8)), 0, None, "0 columns; give at least 1"),
    ],
)
def test_what_does_not_belong_together_is_refused(images, columns, titles, message):
    with pytest.raises(InputError, match=message):
        contact_sheet(images, np.zeros((1, 8, 8), np.uint8), EMIDEC_LABELS, columns, titles)


def test_outlines_run_a_quarter_of_a_pixel_inside_their_mask_and_hold_its_holes():
    mask = np.zeros((9, 9), bool)
    mask[2:7, 1:8] = True
    (line,) = outlines(mask)
    columns, rows = np.array(line).T
    assert line[0] == line[-1]
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (1.25, 7.75, 2.25, 6.75)
    mask[4, 4] = False
    assert len(outlines(mask)) == 2
    (edge,) = outlines(np.ones((3, 3), bool))
    assert np.array(edge).max() == 2.75
    assert outlines(np.zeros((3, 3), bool)) == []
