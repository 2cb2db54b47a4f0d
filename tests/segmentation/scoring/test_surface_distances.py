import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from segmentation.scoring.surface_distances import surface_distances

SPACING_MM = (10.0, 1.5, 2.0)
HAUSDORFF, PERCENTILE, AVERAGE = "hausdorff", "hausdorff_95", "average_surface_distance"


def box(shape, *sides: slice) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[sides] = True
    return mask


def surface(mask: np.ndarray) -> np.ndarray:
    """Voxels with an empty neighbour across one of their faces, by comparing shifted copies."""
    padded = np.pad(mask, 1)
    inner = np.ones_like(mask)
    for axis in range(mask.ndim):
        for step in (-1, 1):
            inner &= np.roll(padded, step, axis)[(slice(1, -1),) * mask.ndim]
    return mask & ~inner


def brute_force(reference, prediction, spacing_mm):
    """Every pair of surface voxels."""
    one, other = (np.argwhere(surface(mask)) * spacing_mm for mask in (reference, prediction))
    pairs = np.linalg.norm(one[:, None] - other[None], axis=-1)
    there, back = pairs.min(axis=1), pairs.min(axis=0)
    return {
        HAUSDORFF: max(there.max(), back.max()),
        PERCENTILE: max(np.percentile(there, 95), np.percentile(back, 95)),
        AVERAGE: (there.sum() + back.sum()) / (len(there) + len(back)),
    }


def random_masks(seed: int):
    """Two blobs, one or both of them ragged, sometimes at the edge of the array."""
    rng = np.random.default_rng(seed)
    masks = []
    for _ in range(2):
        start = rng.integers(0, [2, 5, 5])
        stop = start + rng.integers(1, [3, 7, 7])
        mask = box((4, 12, 11), *(slice(a, b) for a, b in zip(start, stop, strict=True)))
        mask[tuple(stop.clip(max=[3, 11, 10]))] = True
        masks.append(mask & (rng.random(mask.shape) < 0.9))
    return masks


def test_shifted_boxes_are_apart_by_the_shift_in_mm():
    one = box((3, 20, 20), slice(1, 2), slice(4, 9), slice(4, 9))
    for axis, spacing in enumerate(SPACING_MM):
        found = surface_distances(one, np.roll(one, 1, axis), SPACING_MM)
        assert found[HAUSDORFF] == pytest.approx(spacing)
    assert surface_distances(one, np.roll(one, 3, 2), SPACING_MM)[HAUSDORFF] == pytest.approx(6.0)


def test_hand_drawn_pixels():
    reference, prediction = np.zeros((1, 6, 6), bool), np.zeros((1, 6, 6), bool)
    reference[0, 2, 2] = True
    prediction[0, 2, 2] = prediction[0, 2, 4] = True
    found = surface_distances(reference, prediction, (10.0, 1.0, 1.0))
    # from the reference 0; from the prediction 0 and 2
    assert found == {HAUSDORFF: 2.0, PERCENTILE: pytest.approx(1.9), AVERAGE: pytest.approx(2 / 3)}


def test_a_filled_hole_is_as_far_as_the_wall_is_thick():
    disc = box((1, 15, 15), slice(0, 1), slice(2, 13), slice(2, 13))
    ring = disc & ~box((1, 15, 15), slice(0, 1), slice(5, 10), slice(5, 10))
    assert surface_distances(disc[0], ring[0], (1.0, 1.0))[HAUSDORFF] == pytest.approx(3.0 - 1.0)


def test_identical_masks_are_nothing_apart():
    one = box((3, 9, 9), slice(0, 2), slice(2, 6), slice(1, 9))
    assert set(surface_distances(one, one, SPACING_MM).values()) == {0.0}


def test_two_empty_masks_are_nothing_apart():
    nothing = np.zeros((2, 5, 5), bool)
    assert set(surface_distances(nothing, nothing, SPACING_MM).values()) == {0.0}


@pytest.mark.parametrize("empty", ["reference", "prediction"])
def test_from_an_empty_mask_to_another_there_is_no_distance(empty):
    masks = {name: box((2, 5, 5), slice(0, 1), slice(1, 3)) for name in ("reference", "prediction")}
    masks[empty][:] = False
    found = surface_distances(**masks, spacing_mm=SPACING_MM)
    assert len(found) == 3
    assert np.isnan(list(found.values())).all()


@settings(max_examples=40)
@given(st.integers(0, 10_000))
def test_every_pair_of_surface_voxels_gives_the_same(seed):
    one, other = random_masks(seed)
    if one.any() and other.any():
        found = surface_distances(one, other, SPACING_MM)
        assert found == pytest.approx(brute_force(one, other, SPACING_MM), abs=1e-9)
        assert found == pytest.approx(surface_distances(other, one, SPACING_MM), abs=1e-9)
        assert found[HAUSDORFF] >= found[PERCENTILE]


@pytest.mark.parametrize("seed", range(5))
def test_simpleitk_finds_the_same_hausdorff_distance_between_the_surfaces(seed):
    masks = random_masks(seed)
    images = [sitk.GetImageFromArray(surface(mask).astype(np.uint8)) for mask in masks]
    for image in images:
        image.SetSpacing(SPACING_MM[::-1])
    judge = sitk.HausdorffDistanceImageFilter()
    judge.Execute(*images)
    assert surface_distances(*masks, SPACING_MM)[HAUSDORFF] == pytest.approx(judge.GetHausdorffDistance(), rel=1e-6)


def test_empty_space_around_the_masks_changes_nothing():
    one, other = random_masks(3)
    padded = [np.pad(mask, 4) for mask in (one, other)]
    assert surface_distances(*padded, SPACING_MM) == surface_distances(one, other, SPACING_MM)
