from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from gan.training.config import Pix2PixConfig
from gan.training.loop import PaintedSlices, validation_figures
from tests.part_slices import part_slices


@pytest.fixture
def real(make_slices):
    _, masks = make_slices(6)
    shades = np.array([0.5, 0.6, 0.2, 0.85, 0.3], dtype=np.float32)[masks]
    grain = np.random.default_rng(0).normal(0, 0.06, shades.shape)
    return PaintedSlices.choose(part_slices(shades + grain, masks), Pix2PixConfig(hole_margin_px=2)), shades


def selection(slices, drawn):
    synthesiser = SimpleNamespace(draw=lambda *_: drawn.astype(np.float32), config=Pix2PixConfig())
    return validation_figures(synthesiser, slices, 0)["selection"]


def test_other_grain_of_the_same_strength_is_preferred_to_none_and_to_blur(real):
    slices, shades = real
    grainy = shades + np.random.default_rng(1).normal(0, 0.06, shades.shape)
    assert selection(slices, grainy) > selection(slices, shades) > selection(slices, ndimage.gaussian_filter(shades, 1))


def test_exaggerated_grain_and_wrong_shades_are_charged(real):
    slices, shades = real
    grainy = shades + np.random.default_rng(1).normal(0, 0.06, shades.shape)
    wild = shades + np.random.default_rng(1).normal(0, 0.3, shades.shape)
    wrong = grainy.copy()
    wrong[slices.slices.masks == 3] = 0.2  # infarct as dark as healthy muscle
    assert selection(slices, grainy) > selection(slices, wild)
    assert selection(slices, grainy) > selection(slices, wrong)


def test_a_generator_is_told_the_slices_own_shades(make_slices):
    images, masks = make_slices(3)
    masks[0][masks[0] == 4] = 3
    chosen = PaintedSlices.choose(part_slices(images, masks), Pix2PixConfig())
    assert chosen.shades.shape == (3, 5)
    assert chosen.shades[0, 4] == 0.5
    assert chosen.shades[1, 4] == pytest.approx(images[1][masks[1] == 4].mean(), abs=1e-6)
