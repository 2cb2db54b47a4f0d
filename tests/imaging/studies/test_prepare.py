import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common.errors import InputError
from imaging.sources.emidec import read_emidec
from imaging.studies.preparation import (
    Box,
    apply_window,
    crop_region,
    intensity_window,
    paste_region,
    reference_box,
    resample_image,
    resample_mask,
    restore_mask,
)
from tests.real_data import real_data


def dice(first, second):
    return 2 * np.count_nonzero(first & second) / (np.count_nonzero(first) + np.count_nonzero(second))


def disc(size, centre, radius):
    rows, columns = np.indices(size)
    return (np.hypot(rows + 0.5 - centre[0], columns + 0.5 - centre[1]) < radius).astype(np.uint8)[None]


volumes = arrays(np.uint8, st.tuples(*[st.integers(1, 3), st.integers(1, 12), st.integers(1, 12)]))
coordinate = st.floats(-30, 30, allow_nan=False)
centres = st.tuples(coordinate, coordinate)


@given(volumes, centres, st.integers(1, 16))
def test_what_is_cropped_is_pasted_back_where_it_was(volume, centre, size):
    region = crop_region(volume, centre, size)
    assert region.shape == (volume.shape[0], size, size)
    covered = paste_region(np.ones_like(region), volume.shape, centre).astype(bool)
    pasted = paste_region(region, volume.shape, centre)
    np.testing.assert_array_equal(pasted, np.where(covered, volume, 0))
    np.testing.assert_array_equal(crop_region(pasted, centre, size), region)


@given(volumes, centres)
def test_a_region_that_covers_the_volume_loses_nothing(volume, centre):
    region = crop_region(volume, centre, size=100)
    np.testing.assert_array_equal(paste_region(region, volume.shape, centre), volume)


def test_a_region_is_centred_on_pixel_edges():
    volume = np.arange(36).reshape(1, 6, 6)
    np.testing.assert_array_equal(crop_region(volume, Box(2, 2, 4, 4).centre, 2), volume[:, 2:4, 2:4])
    np.testing.assert_array_equal(crop_region(volume, Box(1, 2, 4, 5).centre, 3), volume[:, 1:4, 2:5])
    assert crop_region(volume, (0.0, 0.0), 2).tolist() == [[[0, 0], [0, 0]]]


def test_the_reference_box_is_around_all_labels_of_all_slices():
    mask = np.zeros((2, 10, 12), np.uint8)
    mask[0, 3, 4] = 2
    mask[1, 7, 9] = 4
    box = reference_box(mask)
    assert box == Box(3, 4, 8, 10)
    assert (box.centre, box.height, box.width) == ((5.5, 7.0), 5.0, 6.0)
    with pytest.raises(InputError, match="empty mask has no reference box"):
        reference_box(np.zeros((2, 4, 4), np.uint8))


def test_a_study_on_the_1_mm_grid_is_left_as_it_is():
    rng = np.random.default_rng(0)
    image, mask = rng.normal(size=(2, 9, 8)).astype(np.float32), rng.integers(0, 5, (2, 9, 8), np.uint8)
    spacing_mm = (10.0, 1.0, 1.0)
    np.testing.assert_array_equal(resample_image(image, spacing_mm), image)
    np.testing.assert_array_equal(resample_mask(mask, spacing_mm, 5), mask)
    np.testing.assert_array_equal(restore_mask(mask, mask.shape, 5), mask)


@pytest.mark.parametrize("spacing_mm", [(8.0, 1.40625, 1.40625), (8.0, 0.73, 0.73), (8.0, 2.0, 1.5)])
def test_resampling_shifts_nothing(spacing_mm):
    """A ramp in millimetres stays the same ramp: its value at a pixel's centre is that centre's position."""
    rows, columns = 40, 50
    ramp = (np.arange(rows)[:, None] + 0.5) * spacing_mm[1] + 0 * np.arange(columns)
    ramp = np.stack([ramp, (np.arange(columns) + 0.5) * spacing_mm[2] + 0 * np.arange(rows)[:, None]])
    resampled = resample_image(ramp, spacing_mm)
    assert resampled.shape[1:] == (round(rows * spacing_mm[1]), round(columns * spacing_mm[2]))
    middle_row, middle_column = resampled.shape[1] // 2, resampled.shape[2] // 2
    pixel_mm = np.array([rows, columns]) * spacing_mm[1:] / resampled.shape[1:]
    expected = (np.array([middle_row, middle_column]) + 0.5) * pixel_mm
    np.testing.assert_allclose(resampled[:, middle_row, middle_column], expected, atol=1e-3)


@pytest.mark.parametrize("spacing", [1.40625, 0.73, 2.0])
def test_mirrored_masks_resample_to_mirrored_masks_but_for_ties(spacing):
    mask = 2 * disc((60, 64), (28.3, 33.1), 15.2) - disc((60, 64), (28.3, 33.1), 9.7)
    spacing_mm = (10.0, spacing, spacing)
    resampled = resample_mask(mask, spacing_mm, 5)
    mirrored = resample_mask(mask[:, ::-1, ::-1], spacing_mm, 5)[:, ::-1, ::-1]
    assert np.mean(resampled != mirrored) < 0.002


discs = st.builds(disc, st.just((64, 60)), st.tuples(st.floats(24, 40), st.floats(24, 40)), st.floats(10, 18))


@settings(deadline=None, max_examples=25)
@given(discs, st.floats(1.0, 2.2))
def test_a_mask_survives_the_way_to_a_finer_grid_and_back(mask, spacing):
    restored = restore_mask(resample_mask(mask, (10.0, spacing, spacing), 5), mask.shape, 5)
    assert dice(restored, mask) > 0.99


@pytest.mark.parametrize("spacing", [0.5, 0.6, 0.73, 0.75, 1.2, 1.40625])
def test_on_average_a_mask_neither_moves_nor_grows_nor_shrinks(spacing):
    """Single discs differ by what the grid can hold, below all where centres fall midway, as at 0.5 mm."""
    shifts, areas = [], []
    rng = np.random.default_rng(0)
    for _ in range(40):
        mask = disc((64, 60), rng.uniform(24, 40, 2), rng.uniform(10, 18))
        on_1_mm = resample_mask(mask, (10.0, spacing, spacing), 5)
        restored = restore_mask(on_1_mm, mask.shape, 5)
        shifts.append(_centroid(restored) - _centroid(mask))
        areas.append(on_1_mm.mean() / mask.mean())
        assert dice(restored, mask) > 0.92
    np.testing.assert_allclose(np.mean(shifts, axis=0), 0, atol=0.06)
    assert np.mean(areas) == pytest.approx(1, abs=0.007)


def _centroid(mask):
    return np.array(np.nonzero(mask[0])).mean(axis=1)


def test_labels_between_two_others_do_not_appear():
    mask = np.zeros((1, 30, 30), np.uint8)
    mask[:, 10:20, 10:20] = 4
    assert set(np.unique(resample_mask(mask, (10.0, 1.4, 1.4), 5))) == {0, 4}


def test_ties_do_not_all_go_to_the_lowest_label():
    stripes = np.tile(np.repeat(np.array([0, 3], np.uint8), 1), 32)[None, None].repeat(64, axis=1)
    halved = resample_mask(stripes, (10.0, 0.5, 0.5), 5)  # each 1 mm pixel lies over one of either
    assert set(np.unique(halved)) <= {0, 3}
    assert np.mean(halved == 3) > 0


def test_slices_do_not_mix():
    mask = np.zeros((3, 20, 20), np.uint8)
    mask[1, 5:15, 5:15] = 3
    on_1_mm = resample_mask(mask, (10.0, 1.5, 1.5), 5)
    assert not on_1_mm[[0, 2]].any()
    alone = resample_mask(mask[1:2], (10.0, 1.5, 1.5), 5)
    np.testing.assert_array_equal(on_1_mm[1:2], alone)


def test_restoring_to_another_number_of_slices_is_refused():
    with pytest.raises(InputError, match="2 slices cannot be restored to a study of 3 slices"):
        restore_mask(np.zeros((2, 4, 4), np.uint8), (3, 4, 4), 5)


def test_a_window_maps_its_percentiles_to_0_and_1():
    regions = np.arange(101, dtype=np.float32).reshape(1, 1, 101)
    assert intensity_window(regions, (2, 98)) == (2.0, 98.0)
    windowed = apply_window(regions, (2.0, 98.0))
    assert windowed.dtype == np.float32
    assert (windowed.min(), windowed.max()) == (0.0, 1.0)
    assert windowed[0, 0, 50] == pytest.approx(0.5)


def test_a_region_without_contrast_is_refused():
    with pytest.raises(InputError, match="no contrast"):
        intensity_window(np.full((1, 4, 4), 5.0))
    with pytest.raises(InputError, match="outside the image"):
        intensity_window(np.zeros((1, 0, 4)))


def test_every_tissue_of_a_published_patient_survives_the_way_to_1_mm_and_back():
    (study,) = read_emidec(real_data("emidec_native"))
    restored = restore_mask(resample_mask(study.mask, study.spacing_mm, 5), study.mask.shape, 5)
    sizes = {value: int((study.mask == value).sum()) for value in range(1, 5)}
    compared = {v: dice(restored == v, study.mask == v) for v, size in sizes.items() if size > 100}
    assert compared
    assert min(compared.values()) >= 0.97, compared
