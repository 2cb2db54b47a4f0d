import numpy as np
import pytest

from gan.generation.hole import own_hole
from gan.quality.two_sample import area_under_curve, cut_windows, pair_up, turn_window, two_sample_test
from imaging.labels import Tissue
from tests.part_slices import part_slices

SHADES = np.array([0.5, 0.6, 0.2, 0.8, 0.3])


def hearts(count, seed, grain=0.03, size=1.0):
    """Rings of 128 pixels with a lesion each at its own place, two slices a patient."""
    masks = []
    y, x = np.mgrid[:128, :128]
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        radius, angle = np.hypot(y - rng.uniform(60, 68), x - rng.uniform(60, 68)), rng.uniform(-3, 3)
        mask = np.where(radius < 16, 1, np.where(radius < 26, 2, 0)).astype(np.uint8)
        away = np.abs((np.arctan2(y - 64, x - 64) - angle + np.pi) % (2 * np.pi) - np.pi)
        mask[(mask == 2) & (away < size)] = 3
        masks.append(mask)
    masks = np.stack(masks)
    rng = np.random.default_rng([seed, count])
    gains = rng.uniform(0.7, 1.1, size=(count, 1, 1))
    images = (SHADES[masks] * gains + rng.normal(0, grain, masks.shape)).astype(np.float32)
    cases = np.repeat([f"{seed}-{number}" for number in range(count // 2)], 2)
    return part_slices(images, masks, cases, np.tile([0, 1], count // 2))


def again(slices, seed, grain=0.03):
    """The same hearts from the same distribution, with other grain."""
    rng = np.random.default_rng(seed)
    levels = np.stack(
        [
            [im[m == t].mean() if (m == t).any() else 0 for t in range(5)]
            for im, m in zip(slices.images, slices.masks, strict=True)
        ]
    )
    flat = np.stack([level[mask] for level, mask in zip(levels, slices.masks, strict=True)])
    return slices.painted_as((flat + rng.normal(0, grain, flat.shape)).astype(np.float32))


def woven(slices, holes):
    y, x = np.mgrid[:128, :128]
    weave = 0.05 * np.sin(2 * np.pi * x / 8) * np.sin(2 * np.pi * y / 8)
    return slices.painted_as(np.where(holes > 0, slices.images + weave, slices.images).astype(np.float32))


@pytest.fixture(scope="module")
def material():
    """Training hearts, synthetic ones with larger lesions, and validation hearts."""
    return hearts(60, 1), hearts(60, 2, size=1.6), hearts(24, 3)


@pytest.mark.parametrize("paint", ["lesion"])
def test_what_is_drawn_as_the_real_is_is_not_told_apart_however_large_its_lesions(material, paint):
    training, synthetic, validation = material
    holes = own_hole(synthetic.masks, "lesion", 2) if paint == "lesion" else None
    (row,) = two_sample_test(synthetic, holes, training, again(validation, 5), validation, 0)
    assert (row.measure, row.region) == ("auc", "hole" if paint == "lesion" else "ventricle")
    assert row.images == 24
    assert row.figure.value == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("paint", ["ventricle", "lesion"])
def test_a_woven_pattern_of_eight_pixels_is_seen(material, paint):
    training, synthetic, validation = material
    holes, own = (own_hole(part.masks, paint, 2) for part in (synthetic, validation))
    given = holes if paint == "lesion" else None
    (row,) = two_sample_test(woven(synthetic, holes), given, training, woven(again(validation, 5), own), validation, 0)
    assert row.figure.value > 0.9
    assert row.figure.low > 0.75


def test_the_same_seed_gives_the_same_figure(material):
    training, synthetic, validation = material
    rows = [two_sample_test(synthetic, None, training, again(validation, 5), validation, seed, 6) for seed in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2]


def test_a_pair_shows_one_tissue_in_each_pixel_and_nothing_outside_the_hole(material):
    training, synthetic, _ = material
    holes = own_hole(synthetic.masks, "lesion", 2)
    drawn = cut_windows(synthetic, holes)
    pairs = pair_up(drawn, cut_windows(training, np.ones_like(training.masks)), 0)
    assert len(pairs) == 60
    np.testing.assert_array_equal(pairs.synthetic[:, 2:], pairs.real[:, 2:])
    for channels in (pairs.synthetic, pairs.real):
        seen = channels[:, 2:].sum(axis=1) > 0
        assert not channels[:, :2].swapaxes(0, 1)[:, ~seen].any()
        assert not seen[drawn.holes == 0].any()
    assert pairs.synthetic[:, 2 + Tissue.INFARCT].any(axis=(1, 2)).all()


def test_windows_know_no_brightness_and_keep_their_pixels(material):
    training, _, _ = material
    whole = np.ones_like(training.masks)
    ours = cut_windows(training, whole)
    theirs = cut_windows(training.painted_as(0.5 * training.images + 0.1), whole)
    np.testing.assert_allclose(ours.images[:, 8:56, 8:56], theirs.images[:, 8:56, 8:56], atol=1e-4)
    assert ours.images.shape == (60, 64, 64)
    turned = {turn_window(ours.images[0], turn).tobytes() for turn in range(8)}
    assert len(turned) == 8
    assert {np.sort(turn_window(ours.images[0], turn), axis=None).tobytes() for turn in range(8)} == {
        np.sort(ours.images[0], axis=None).tobytes()
    }


def test_the_area_counts_how_often_the_synthetic_one_is_the_more_suspect():
    assert area_under_curve(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1
    assert area_under_curve(np.array([0.0, 40.0]), np.array([39.0, 1.0])) == 0.5


def test_too_few_slices_are_not_judged(material):
    training, synthetic, validation = material
    few = validation.at(np.arange(4))
    assert two_sample_test(synthetic, None, training, few, few, 0) == []
    none = synthetic.at(np.arange(0))
    assert two_sample_test(none, none.masks, training, validation, validation, 0) == []
