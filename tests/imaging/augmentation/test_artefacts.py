import numpy as np
import pytest

from imaging.augmentation.recipe import coil_shading, motion_ghost, rician_noise
from tests.imaging.small_stores import images

IMAGE = images(1)[0].astype(np.float32)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("seed", range(5))
def test_the_coil_field_is_smooth_and_as_strong_as_asked(seed):
    field = np.log(coil_shading(np.ones((64, 64), np.float32), 0.3, rng(seed)))
    assert np.abs(field).max() == pytest.approx(0.3, abs=1e-5)
    assert np.abs(np.diff(field, axis=0)).max() < 0.06
    assert field.std() > 0.02


def test_no_strength_changes_nothing():
    np.testing.assert_array_equal(coil_shading(IMAGE, 0.0, rng()), IMAGE)
    np.testing.assert_array_equal(motion_ghost(IMAGE, 0.0, 5, 0), IMAGE)
    np.testing.assert_allclose(rician_noise(IMAGE, 0.0, rng()), IMAGE)


@pytest.mark.parametrize("axis", [0, 1])
def test_ghosts_of_a_point_stand_to_either_side(axis):
    point = np.zeros((32, 32), np.float32)
    point[16, 16] = 1
    ghosted = motion_ghost(point, 0.1, 6, axis)
    line = ghosted[:, 16] if axis == 0 else ghosted[16]
    assert line[[10, 16, 22]] == pytest.approx([0.1, 0.8, 0.1])
    assert ghosted.sum() == pytest.approx(1)
    assert np.count_nonzero(ghosted) == 3


def test_noise_has_rice_moments():
    sigma = 0.05
    dark = rician_noise(np.zeros((256, 256), np.float32), sigma, rng())
    assert dark.mean() == pytest.approx(sigma * np.sqrt(np.pi / 2), rel=0.02)  # Rayleigh
    bright = rician_noise(np.full((256, 256), 0.8, np.float32), sigma, rng())
    assert (bright**2).mean() == pytest.approx(0.8**2 + 2 * sigma**2, rel=0.005)
    assert bright.std() == pytest.approx(sigma, rel=0.02)
