import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from imaging.augmentation.recipe import AugmentConfig, augment_slice, build_recipe
from tests.imaging.small_stores import images, ring

SIZE = 96
MASK = ring("no_reflow", SIZE)
IMAGE = np.clip(MASK / 5 + 0.1 * images(1, size=SIZE)[0], 0, 1).astype(np.float32)
NOTHING = AugmentConfig(
    flip_probability=0,
    geometry_probability=0,
    elastic_probability=0,
    shading_probability=0,
    contrast_probability=0,
    gamma_probability=0,
    blur_probability=0,
    ghost_probability=0,
    noise_probability=0,
)
FULL = build_recipe(AugmentConfig())
GEOMETRY = build_recipe(
    NOTHING.model_copy(update={"flip_probability": 0.5, "geometry_probability": 1, "elastic_probability": 1})
)
SEEDS = st.integers(0, 2**63 - 1)


def only(**changes):
    return build_recipe(NOTHING.model_copy(update=changes))


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


@given(seed=SEEDS)
@settings(max_examples=40, deadline=None)
def test_a_variant_is_a_valid_slice_and_repeats(seed):
    image, mask = augment_slice(FULL, IMAGE, MASK, seed)
    assert (image.dtype, mask.dtype) == (np.float32, np.uint8)
    assert image.shape == mask.shape == IMAGE.shape
    assert np.isfinite(image).all()
    assert 0 <= image.min() <= image.max() <= 1
    assert set(np.unique(mask)) <= set(np.unique(MASK))
    again = augment_slice(FULL, IMAGE, MASK, seed)
    np.testing.assert_array_equal(image, again[0])
    np.testing.assert_array_equal(mask, again[1])
    other = augment_slice(FULL, IMAGE, MASK, seed ^ 1)
    assert not np.array_equal(image, other[0])


@given(
    seed=SEEDS,
    row=st.integers(32, 64),
    column=st.integers(32, 64),
    height=st.integers(8, 20),
    width=st.integers(8, 20),
)
@settings(max_examples=40, deadline=None)
def test_image_and_mask_move_together(seed, row, column, height, width):
    """An image of a tissue's own outline must stay its outline, wherever flips, turns and bends take it."""
    rows, columns = np.indices((SIZE, SIZE))
    mask = (((rows - row) / height) ** 2 + ((columns - column) / width) ** 2 < 1).astype(np.uint8) * 3
    image, moved = augment_slice(GEOMETRY, (mask > 0).astype(np.float32), mask, seed)
    assert dice(image > 0.5, moved == 3) > 0.96
    assert set(np.unique(moved)) == {0, 3}


def test_order_of_batches_and_recipes_does_not_matter():
    first = augment_slice(FULL, IMAGE, MASK, 1)
    fresh = build_recipe(AugmentConfig())
    augment_slice(fresh, IMAGE, MASK, 2)
    np.testing.assert_array_equal(first[0], augment_slice(fresh, IMAGE, MASK, 1)[0])


def test_global_random_numbers_are_neither_read_nor_moved():
    state, legacy = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    one = augment_slice(FULL, IMAGE, MASK, 5)[0]
    assert random.getstate() == state
    np.testing.assert_array_equal(np.random.get_state()[1], legacy)  # noqa: NPY002
    random.random()
    np.testing.assert_array_equal(one, augment_slice(FULL, IMAGE, MASK, 5)[0])


def test_without_any_step_nothing_changes():
    image, mask = augment_slice(build_recipe(NOTHING), IMAGE, MASK, 0)
    np.testing.assert_array_equal(image, IMAGE)
    np.testing.assert_array_equal(mask, MASK)


def test_flips_are_exact():
    image, mask = augment_slice(only(flip_probability=1), IMAGE, MASK, 0)
    np.testing.assert_array_equal(image, IMAGE[::-1, ::-1])
    np.testing.assert_array_equal(mask, MASK[::-1, ::-1])


def test_the_two_flips_are_independent():
    recipe = only(flip_probability=0.5)
    kinds = {"none": IMAGE, "rows": IMAGE[::-1], "columns": IMAGE[:, ::-1], "both": IMAGE[::-1, ::-1]}
    seen = dict.fromkeys(kinds, 0)
    for seed in range(200):
        image, _ = augment_slice(recipe, IMAGE, MASK, seed)
        seen[next(name for name, kind in kinds.items() if np.array_equal(image, kind))] += 1
    assert min(seen.values()) > 25


def test_shifts_stay_within_their_limit_and_reach_it():
    recipe = only(geometry_probability=1, rotation_deg=0, scale=(1, 1), shift_px=6)
    point = np.zeros((SIZE, SIZE), np.uint8)
    point[40:43, 50:53] = 1
    places = [np.argwhere(augment_slice(recipe, point, point, seed)[1]).mean(axis=0) for seed in range(60)]
    moves = np.array(places) - (41, 51)
    assert np.abs(moves).max() == pytest.approx(6, abs=0.6)


def test_the_bend_has_the_stated_size_in_pixels():
    recipe = only(elastic_probability=1, elastic_px=1.5, elastic_smoothness_px=8)
    ramp = np.tile(np.linspace(0, 1, SIZE, dtype=np.float32), (SIZE, 1))
    empty = np.zeros((SIZE, SIZE), np.uint8)
    inner = slice(16, -16)
    moves = [(augment_slice(recipe, ramp, empty, seed)[0] - ramp)[inner, inner] * (SIZE - 1) for seed in range(40)]
    assert np.std(moves) == pytest.approx(1.5, rel=0.15)


@pytest.mark.parametrize("step", ["shading", "contrast", "gamma", "blur", "ghost", "noise"])
def test_grey_level_steps_leave_the_mask_alone(step):
    image, mask = augment_slice(only(**{f"{step}_probability": 1}), IMAGE, MASK, 3)
    np.testing.assert_array_equal(mask, MASK)
    assert not np.array_equal(image, IMAGE)


def test_an_empty_mask_stays_empty():
    _, mask = augment_slice(GEOMETRY, IMAGE, np.zeros_like(MASK), 0)
    assert not mask.any()


def test_small_lesions_keep_their_area():
    small = np.where(MASK > 0, 2, 0).astype(np.uint8)
    small[47:50, 47:50] = 4
    recipe = only(geometry_probability=1, scale=(1, 1), elastic_probability=0)
    areas = [(augment_slice(recipe, IMAGE, small, seed)[1] == 4).sum() for seed in range(60)]
    assert np.mean(areas) == pytest.approx(9, rel=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise_probability": 1.5}, "noise_probability"),
        ({"scale": (1.2, 0.8)}, "scale runs from 1.2 down to 0.8"),
        ({"scale": (0, 1)}, "scale"),
        ({"shear_deg": 3}, "shear_deg"),
    ],
)
def test_senseless_settings_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        AugmentConfig(**change)


def test_building_a_recipe_neither_warns_nor_asks_the_network():
    code = """
import socket, os, sys
sys.modules["torch"] = None  # not needed, and slow to import
os.environ.pop("NO_ALBUMENTATIONS_UPDATE", None)
def refuse(*args, **kwargs):
    raise AssertionError("the network was asked")
socket.getaddrinfo = socket.socket.connect = refuse
from imaging.augmentation.recipe import AugmentConfig, build_recipe
build_recipe(AugmentConfig())
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
