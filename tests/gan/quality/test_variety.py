import numpy as np
import pytest

from gan.quality.variety import common_ventricle, different_patients, feature_distance, measure_variety
from tests.part_slices import part_slices

CASES = np.repeat([f"P{number:02d}" for number in range(8)], 2)


def root_mean_square(first, second):
    return np.sqrt(np.square(first - second).mean(axis=(1, 2)))


@pytest.fixture
def slices(make_slices):
    images, masks = make_slices(16)
    return part_slices(images, masks, CASES)


def variety_of(slices, drawn, draw=None):
    return measure_variety(
        slices.painted_as(drawn), slices, slices, draw or (lambda rows, _: drawn[rows]), root_mean_square, seed=0
    )


def test_real_slices_are_as_various_as_real_slices(slices):
    variety = variety_of(slices, slices.images)
    assert variety.ratio(variety.synthetic).value == pytest.approx(1, abs=0.25)
    assert variety.synthetic.std > 0


def test_a_constant_generator_has_no_variety_though_its_masks_differ(slices):
    variety = variety_of(slices, np.full_like(slices.images, 0.4))
    assert variety.ratio(variety.synthetic).value == pytest.approx(0, abs=1e-6)
    assert variety.ratio(variety.same_mask).value == 0


def test_variety_from_the_noise_is_seen_on_one_mask(slices):
    def noisy(rows, seeds):
        return np.stack([slices.images[row] + np.random.default_rng(seed).normal(0, 0.1) for row, seed in
                         zip(rows, seeds, strict=True)])  # fmt: skip

    deaf, listening = variety_of(slices, slices.images), variety_of(slices, slices.images, noisy)
    assert deaf.same_mask.value == 0
    assert listening.same_mask.value > 0.02
    assert listening.redrawn.shape == (8, 4, 32, 32)


def test_the_same_seed_gives_the_same_figures(slices):
    first, second = variety_of(slices, slices.images), variety_of(slices, slices.images)
    assert first.synthetic == second.synthetic
    assert np.array_equal(first.redrawn, second.redrawn)


def test_pairs_are_of_different_patients():
    first, second = different_patients(CASES, 100, 0, "test")
    assert (CASES[first] != CASES[second]).all()
    assert len(different_patients(np.repeat("A", 3), 5, 0, "test")[0]) == 5


def test_a_pair_is_black_where_either_has_no_ventricle(slices):
    first, second = common_ventricle(slices.at(np.arange(4)), slices.at(np.arange(4, 8)))
    assert first.shape == (4, 64, 64)
    assert np.array_equal(first == 0, second == 0)


def test_nothing_is_relative_to_patients_that_do_not_differ(slices):
    same = slices.at(np.zeros(16, int))
    variety = variety_of(part_slices(same.images, same.masks, CASES), same.images)
    assert variety.ratio(variety.synthetic).value == 0


def test_features_measure_distances_of_pairs():
    distance = feature_distance(lambda images: images.mean(axis=2))
    assert distance(np.zeros((1, 2, 2)), np.ones((1, 2, 2))) == pytest.approx(np.sqrt(2))
