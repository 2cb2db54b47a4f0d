import numpy as np
import pytest
import torch

from common.errors import InputError
from gan.generation.hole import ventricle_hole
from gan.generation.shades import (
    ShadeBook,
    describe_surroundings,
    own_shades,
    paint_shades,
    read_shades,
    tissue_shades,
    write_shades,
)
from gan.training.config import Pix2PixConfig

LABELS = 5


@pytest.fixture
def book(make_slices):
    images, masks = make_slices(12)
    images[6:] *= 0.5  # half of the patients are darker all over
    return images, masks, ShadeBook.of(images, masks, ventricle_hole(masks, 2), LABELS)


def test_shades_are_means_of_tissues_and_missing_where_there_is_none(make_slices):
    images, masks = make_slices(2)
    masks[1][masks[1] == 4] = 3
    shades = tissue_shades(images, masks, LABELS)
    assert shades[0, 1] == pytest.approx(images[0][masks[0] == 1].mean(), abs=1e-6)
    assert np.isnan(shades[1, 4])
    assert np.isfinite(shades[1, :4]).all()


def test_training_and_drawing_speak_of_the_same_shades(make_slices):
    images, masks = make_slices(3)
    on_device = own_shades(torch.from_numpy(images)[:, None] * 2 - 1, torch.from_numpy(masks), LABELS)
    np.testing.assert_allclose(on_device.numpy(), tissue_shades(images, masks, LABELS), atol=1e-5)


def test_a_mask_borrows_from_slices_of_like_surroundings(book):
    images, masks, shades = book
    holes = ventricle_hole(masks, 2)
    chosen = shades.choose(images, masks, holes, range(12), neighbours=3)
    assert chosen[:6, 3].min() > chosen[6:, 3].max()


def test_the_ventricle_that_is_drawn_into_is_never_looked_at(book):
    images, masks, shades = book
    holes = ventricle_hole(masks, 2)
    emptied = np.where(holes > 0, 0, images)
    args = (masks, holes, range(12), 4)
    np.testing.assert_array_equal(shades.choose(images, *args), shades.choose(emptied, *args))


def test_shades_come_together_from_one_slice_that_shows_the_tissues(book):
    images, masks, _ = book
    bare = masks.copy()
    bare[:8][bare[:8] == 4] = 3  # four slices show no-reflow
    few = ShadeBook.of(images, bare, ventricle_hole(bare, 2), LABELS)
    chosen = few.choose(images, masks, ventricle_hole(masks, 2), range(12), neighbours=2)
    for row in chosen:
        assert any(np.array_equal(row, lender) for lender in few.shades[8:])


def test_another_seed_gives_another_style_and_the_same_seed_the_same(book):
    images, masks, shades = book
    place = (images[:1], masks[:1], ventricle_hole(masks[:1], 2))
    styles = {tuple(shades.choose(*place, [seed], 6)[0]) for seed in range(20)}
    assert len(styles) > 2
    np.testing.assert_array_equal(shades.choose(*place, [3], 6), shades.choose(*place, [3], 6))


def test_tissues_that_no_slice_shows_are_middle_grey(make_slices):
    images, masks = make_slices(3)
    plain = np.minimum(masks, 2)
    book = ShadeBook.of(images, plain, ventricle_hole(plain, 2), LABELS)
    assert (book.choose(images, masks, ventricle_hole(masks, 2), [0, 1, 2], 2)[:, 3:] == 0.5).all()


def test_paint_lays_each_tissues_shade_on_its_pixels():
    masks = torch.tensor([[[0, 1], [2, 4]]], dtype=torch.uint8)
    painted = paint_shades(masks, torch.tensor([[0.9, 0.0, 0.5, 0.1, 1.0]]))
    assert torch.equal(painted, torch.tensor([[[[0.0, -1.0], [0.0, 1.0]]]]))


def test_surroundings_leave_out_the_hole_and_what_is_far():
    image, hole = np.zeros((1, 128, 128), np.float32), np.zeros((1, 128, 128), np.uint8)
    hole[:, 60:68, 60:68] = 1
    image[:, 60:68, 60:68] = 1
    image[:, :30] = 1
    assert (describe_surroundings(image, hole) == 0).all()
    image[:, 45:55] = 1
    assert describe_surroundings(image, hole)[0, -1] == 1


def test_a_book_survives_its_file_and_a_broken_one_is_named(book, tmp_path):
    write_shades(tmp_path, book[2])
    np.testing.assert_array_equal(read_shades(tmp_path).shades, book[2].shades)
    (tmp_path / "shades.safetensors").write_bytes(b"<html>")
    with pytest.raises(InputError, match=r"shades.safetensors: cannot be read .* rematerialise pix2pix"):
        read_shades(tmp_path)


def test_slices_without_a_ventricle_and_shades_without_context_are_refused():
    empty = np.zeros((2, 8, 8), np.uint8)
    with pytest.raises(InputError, match="none of 2 training slices shows a ventricle"):
        ShadeBook.of(empty.astype(np.float32), empty, empty, LABELS)
    with pytest.raises(ValueError, match="shades needs context"):
        Pix2PixConfig(shades=True, context=False)
