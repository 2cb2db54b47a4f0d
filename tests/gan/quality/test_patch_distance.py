import numpy as np
import pytest
from scipy import ndimage

from gan.quality.realism import patch_distance


def grain(seed, strength=0.1):
    return np.random.default_rng(seed).normal(0.5, strength, (8, 48, 48)).astype(np.float32)


EVERYWHERE = np.ones((8, 48, 48), bool)


def test_a_set_is_at_no_distance_from_itself():
    assert patch_distance(grain(0), grain(0), EVERYWHERE, 0) == 0


def test_other_grain_of_the_same_strength_is_near_and_other_strengths_are_far():
    near = patch_distance(grain(1), grain(0), EVERYWHERE, 0)
    assert near < 0.1
    assert patch_distance(grain(1, 0.2), grain(0), EVERYWHERE, 0) > 5 * near
    assert patch_distance(grain(1, 0.05), grain(0), EVERYWHERE, 0) > 3 * near


def test_the_more_blurred_the_farther():
    distances = [
        patch_distance(ndimage.gaussian_filter(grain(1), (0, sigma, sigma)), grain(0), EVERYWHERE, 0)
        for sigma in (0.3, 0.6, 1.2)
    ]
    assert distances == sorted(distances)


def test_only_the_region_counts_and_an_empty_one_is_no_distance():
    region = EVERYWHERE.copy()
    region[:, :24] = False
    changed = grain(0)
    changed[:, :4] = 0  # no patch of the region reaches there, at any resolution
    assert patch_distance(changed, grain(0), region, 0) == pytest.approx(0, abs=1e-3)
    assert patch_distance(changed, grain(0), ~EVERYWHERE, 0) == 0
