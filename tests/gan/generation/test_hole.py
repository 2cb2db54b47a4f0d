import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common.errors import InputError
from gan.generation.hole import soften_paint, ventricle_hole

MASKS = arrays(np.uint8, (2, 12, 15), elements=st.integers(0, 4))


def test_one_pixel_becomes_a_disc_of_the_margin():
    mask = np.zeros((1, 9, 9), np.uint8)
    mask[0, 4, 4] = 2
    rows, columns = np.indices((9, 9))
    expected = np.hypot(rows - 4, columns - 4) <= 3
    np.testing.assert_array_equal(ventricle_hole(mask, 3)[0], expected)


def test_what_the_ring_encloses_is_filled():
    mask = np.zeros((1, 7, 7), np.uint8)
    mask[0, 1:6, 1:6] = 2
    mask[0, 2:5, 2:5] = 0
    hole = ventricle_hole(mask, 0)[0]
    assert hole.sum() == 25
    assert hole.dtype == np.uint8


def test_a_ring_that_touches_the_border_is_filled_and_the_outside_is_not():
    mask = np.zeros((1, 6, 6), np.uint8)
    mask[0, 0:4, 0:4] = 3
    mask[0, 1:3, 1:3] = 0
    assert ventricle_hole(mask, 0)[0].sum() == 16


def test_an_empty_mask_has_no_hole():
    assert not ventricle_hole(np.zeros((3, 8, 8), np.uint8), 4).any()


@given(MASKS, st.integers(0, 4))
def test_the_hole_holds_the_ventricle_and_grows_with_the_margin(masks, margin):
    hole, wider = ventricle_hole(masks, margin), ventricle_hole(masks, margin + 1)
    assert (hole[masks > 0] == 1).all()
    assert (wider >= hole).all()
    np.testing.assert_array_equal(hole[0], ventricle_hole(masks[:1], margin)[0])  # a batch equals its singles


def test_each_mask_may_have_a_margin_of_its_own():
    mask = np.zeros((2, 16, 16), np.uint8)
    mask[:, 8, 8] = 1
    holes = ventricle_hole(mask, np.array([1, 3]))
    np.testing.assert_array_equal(holes[0], ventricle_hole(mask[:1], 1)[0])
    np.testing.assert_array_equal(holes[1], ventricle_hole(mask[1:], 3)[0])


@given(MASKS)
def test_without_a_margin_a_filled_hole_stays_as_it_is(masks):
    hole = ventricle_hole(masks, 0)
    np.testing.assert_array_equal(ventricle_hole(hole, 0), hole)


@pytest.mark.parametrize(("shape", "margin"), [((8, 8), 2), ((1, 8, 8), -1), ((1, 8, 8), 255)])
def test_bad_input_is_named(shape, margin):
    with pytest.raises(InputError, match=r"cannot widen masks of shape .* give masks \(N, H, W\)"):
        ventricle_hole(np.zeros(shape, np.uint8), margin)


def painted_wall(grain=0.05, size=96):
    """A wall with grain, a dark painted hole without any in its middle, and air to the right."""
    rng = np.random.default_rng(0)
    mask = np.full((1, size, size), 2, np.uint8)
    mask[:, :, 80:] = 0
    hole = np.zeros_like(mask)
    hole[:, 30:60, 30:60] = 1
    image = (0.5 + grain * rng.standard_normal(mask.shape)).astype(np.float32)
    image[hole > 0] = 0.2
    return image, mask, hole


def test_paint_is_softened_and_grained_inside_the_hole_alone():
    image, mask, hole = painted_wall()
    softened = soften_paint(image, mask, hole, [3], 0.8, 1.0)
    np.testing.assert_array_equal(softened[hole == 0], image[hole == 0])
    edge, middle = softened[0, 30, 40:50], softened[0, 38:52, 38:52]
    assert 0.25 < edge.mean() < 0.45  # half wall
    assert middle.mean() == pytest.approx(0.2, abs=0.01)
    assert 0.02 < middle.std() < 0.06  # the finest grain of a camera's is weaker
    assert soften_paint(image, mask, hole, [4], 0.8, 1.0)[0, 40, 40] != softened[0, 40, 40]
    np.testing.assert_array_equal(soften_paint(image, mask, hole, [3], 0.8, 1.0), softened)


def test_grain_is_as_strong_as_that_of_the_wall_around():
    weak, strong = (soften_paint(*painted_wall(grain), [3], 0.8, 1.0)[0, 38:52, 38:52].std() for grain in (0.02, 0.08))
    assert strong == pytest.approx(4 * weak, rel=0.1)


def test_without_a_wall_around_there_is_no_grain_to_lay_on():
    image, mask, hole = painted_wall()
    softened = soften_paint(image, np.where(mask == 2, 3, mask), hole, [3], 0.8, 1.0)
    np.testing.assert_allclose(softened[0, 38:52, 38:52], 0.2, atol=1e-3)
