import numpy as np
import pytest

from common.errors import InputError
from common.seeds import random_generator
from gan.generation.hole import own_hole
from gan.quality.copies import (
    appearance,
    appearance_in_holes,
    borrowed_holes,
    nearest,
    search_copies,
    search_copies_in_holes,
    standardised,
    unit_vectors,
)

CASES = np.repeat([f"P{number:02d}" for number in range(20)], 3)


@pytest.fixture
def training():
    return unit_vectors(random_generator(0, "training vectors").normal(size=(60, 24)))


def test_the_nearest_is_found_and_held_against_the_next_patient():
    training = unit_vectors(np.array([[1.0, 0], [1, 0.1], [0.6, 0.8], [0, 1]]))
    found = nearest(unit_vectors(np.array([[1.0, 0]])), training, np.array(["A", "A", "B", "C"]))
    assert found.place[0] == 0
    assert found.distance[0] == pytest.approx(0, abs=1e-6)
    found = nearest(unit_vectors(np.array([[0.8, 0.6]])), training, np.array(["A", "A", "B", "C"]))
    assert found.place[0] == 2
    assert found.distance[0] == pytest.approx(0.04, abs=1e-6)
    assert found.ratio[0] == pytest.approx(0.04 / (1 - (0.8 + 0.06) / np.hypot(1, 0.1)), rel=1e-4)


def test_a_patients_own_ventricles_are_left_out(training):
    found = nearest(training, training, CASES, own=CASES)
    assert (CASES[found.place] != CASES).all()
    assert (found.distance > 0).all()


def test_chunks_do_not_change_the_result(training, monkeypatch):
    whole = nearest(training, training, CASES, own=CASES)
    monkeypatch.setattr("gan.quality.copies._CHUNK", 7)
    parts = nearest(training, training, CASES, own=CASES)
    assert np.array_equal(whole.place, parts.place)
    assert parts.distance == pytest.approx(whole.distance, abs=1e-6)
    assert parts.ratio == pytest.approx(whole.ratio, rel=1e-4)


def test_a_copied_training_set_is_all_copies(training):
    search = search_copies(training, training, CASES)
    assert search.near().all()
    assert search.copied().all()


def test_of_independent_ventricles_one_in_a_hundred_is_near():
    both = unit_vectors(random_generator(1, "fresh vectors").normal(size=(4000, 12)))
    search = search_copies(both[:2000], both[2000:], np.repeat(np.arange(400).astype(str), 5))
    assert search.near().mean() == pytest.approx(0.01, abs=0.007)
    assert search.copied().mean() < 0.01


def test_what_is_near_to_everyone_is_typical_and_no_copy():
    rng = random_generator(0, "typical vectors")
    training = unit_vectors(rng.normal(size=(60, 24)) + 2)
    search = search_copies(unit_vectors(np.full((10, 24), 2.0)), training, CASES)
    assert search.near().all()
    assert not search.copied().any()


def test_two_patients_cannot_tell_a_copy(training):
    with pytest.raises(InputError, match="copies: 2 training patients; at least 3"):
        nearest(training, training, np.where(CASES < "P10", "A", "B"))


def test_appearance_sees_no_brightness_contrast_shift_or_surroundings(make_slices):
    images, masks = make_slices(3)
    other = np.where(masks > 0, 0.6 * images + 0.2, 0)
    moved = [np.roll(part, (3, -2), axis=(1, 2)) for part in (other, masks)]
    found = appearance(*moved)
    assert found == pytest.approx(appearance(images, masks), abs=1e-4)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1)


def test_appearance_of_one_mask_with_other_texture_differs(make_slices):
    images, masks = make_slices(2)
    grain = np.random.default_rng(0).normal(0, 0.1, images.shape)
    ours, theirs = appearance(images, masks), appearance(images + grain, masks)
    assert ((ours * theirs).sum(axis=1) < 0.7).all()


def test_a_painted_mask_has_no_appearance_and_is_near_to_nothing(make_slices):
    _, masks = make_slices(2)
    painted = appearance(masks / 4, masks)
    assert not painted.any()
    assert not appearance(np.zeros((1, 16, 16)), np.zeros((1, 16, 16), np.uint8)).any()


def test_features_that_hardly_vary_do_not_decide():
    like = np.random.default_rng(0).normal(size=(50, 4))
    like[:, 3] = 0
    odd = like.mean(axis=0) + np.array([3, 0, 0, 0.01])
    assert abs(standardised(odd[None], like)[0, 0]) > 0.9


@pytest.fixture
def ventricles():
    """Unrolled walls (60, 1280), and as many holes of 300 places."""
    rng = random_generator(0, "ventricles")
    looks = unit_vectors(rng.normal(size=(60, 1280)))
    starts = rng.integers(980, size=60)
    within = (np.arange(1280) >= starts[:, None]) & (np.arange(1280) < starts[:, None] + 300)
    return looks, within


def test_a_hole_filled_with_another_patients_pixels_is_a_copy(ventricles):
    looks, within = ventricles
    filled = unit_vectors(np.where(within, 3 * looks + 0.4, 0))
    others, own = np.roll(CASES, 3), CASES
    copied = search_copies_in_holes((filled, within), others, looks, CASES, seed=0)
    assert copied.copied().all()
    assert np.array_equal(copied.synthetic.place, np.arange(60))
    assert copied.synthetic.distance == pytest.approx(0, abs=0.01)
    left_out = search_copies_in_holes((filled, within), own, looks, CASES, seed=0)
    assert (CASES[left_out.synthetic.place] != CASES).all()
    assert not left_out.copied().any()


def test_fresh_pixels_in_a_hole_are_no_copy(ventricles):
    looks, within = ventricles
    fresh = unit_vectors(np.where(within, random_generator(1, "fresh").normal(size=within.shape), 0))
    assert search_copies_in_holes((fresh, within), CASES, looks, CASES, seed=0).copied().mean() < 0.05


def test_likeness_within_a_place_is_the_correlation_that_lies_there_for_sure(ventricles):
    looks, within = ventricles
    mixed = unit_vectors(looks[:1] + looks[7:8])
    found = nearest(mixed, looks, CASES, own=CASES[:1], within=within[:1])
    correlation = np.corrcoef(np.concatenate([mixed, looks[7:8]])[:, within[0]])[0, 1]
    assert found.place[0] == 7
    surely = np.tanh(np.arctanh(correlation) - 2 / np.sqrt(300 / 10 - 3))
    assert found.distance[0] == pytest.approx(1 - surely, abs=1e-5)


def test_a_large_hole_tells_a_copy_by_a_likeness_that_a_small_one_may_have_by_chance(ventricles):
    looks, _ = ventricles
    mixed = unit_vectors(looks[:1] + 0.5 * looks[7:8])
    large, small = (nearest(mixed, looks, CASES, CASES[:1], np.arange(1280)[None] < size) for size in (1280, 100))
    assert large.distance[0] < 0.8 < small.distance[0]


def test_a_hole_of_few_pixels_shows_no_pattern(ventricles):
    looks, _ = ventricles
    few = np.arange(1280)[None] < 20
    assert nearest(looks[:1], looks, CASES, within=few).distance[0] == 1


def test_chance_is_compared_in_the_same_holes(ventricles):
    _, within = ventricles
    like = borrowed_holes(within, 200, seed=0)
    assert {row.tobytes() for row in like} <= {row.tobytes() for row in within}


def test_the_appearance_in_a_hole_sees_nothing_outside_it(make_slices):
    images, masks = make_slices(3)
    holes = own_hole(masks, "lesion", 1)
    other = np.where(holes > 0, images, 0.5 * images[::-1])
    (ours, within), (theirs, _) = (appearance_in_holes(part, masks, holes) for part in (images, other))
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert not ours[~within].any()
    assert np.linalg.norm(ours, axis=1) == pytest.approx(1)
