import numpy as np
import pytest

from common.seeds import random_generator
from gan.simulator.anatomy import RAYS, read_anatomy
from gan.simulator.lesion_model import TERRITORIES, angle_between, draw_centre, measure_lesion, territory_of
from gan.simulator.ring_model import RingModel, describe_ring, warp_anatomy
from tests.gan.simulator_slices import add_lesion, draw_masks, ring


def test_a_round_ring_has_its_closed_forms():
    anatomy = read_anatomy(ring(inner=12, wall=8), spacing_mm=1.0)
    assert anatomy.diameter_mm == pytest.approx(40, abs=0.5)
    assert anatomy.wall_mm == pytest.approx(8, abs=0.3)
    assert anatomy.wall_to_cavity == pytest.approx(8 / 12, abs=0.05)
    assert anatomy.axis_ratio == pytest.approx(1, abs=0.02)
    assert anatomy.closed
    assert anatomy.bears_lesions
    inner, outer = anatomy.radii
    assert inner.shape == (RAYS,)
    np.testing.assert_allclose(inner, 12, atol=1.1)
    np.testing.assert_allclose(outer, 20, atol=1.1)


def test_millimetres_follow_the_spacing():
    mask = ring()
    one, two = read_anatomy(mask, 1.0), read_anatomy(mask, 2.0)
    assert two.diameter_mm == pytest.approx(2 * one.diameter_mm)
    assert two.wall_to_cavity == pytest.approx(one.wall_to_cavity)


def test_depth_grows_from_endocardium_to_epicardium():
    anatomy = read_anatomy(ring(inner=12, wall=10))
    row = round(anatomy.centre[0])
    wall = np.flatnonzero(anatomy.myocardium[row])
    right = wall[wall > anatomy.centre[1]]
    depth = anatomy.depth[row, right]
    assert (np.diff(depth) > 0).all()
    assert depth[0] < 0.1
    assert depth[-1] > 0.9
    assert np.isnan(anatomy.depth[~anatomy.myocardium]).all()


def test_lesions_are_healed_and_pasting_gives_the_slice_back():
    mask = add_lesion(ring((20, 40)), 0.5, 1.0, no_reflow=True)
    anatomy = read_anatomy(mask)
    np.testing.assert_array_equal(anatomy.paste(anatomy.labels), np.minimum(mask, 2))


def test_slices_without_a_wall_around_a_cavity_bear_no_lesion():
    assert read_anatomy(np.zeros((16, 16), np.uint8)) is None
    disc = np.minimum(ring(), 1) * np.uint8(2)  # an apex: myocardium alone
    cavity = np.minimum(ring(), 1)  # a cavity alone
    half = ring((0, 32))  # cut by the border of the slice
    for mask in (disc, cavity, half):
        anatomy = read_anatomy(mask)
        assert not anatomy.bears_lesions
        assert not anatomy.closed
        assert np.isfinite(anatomy.depth[anatomy.myocardium]).all()


def test_a_half_ring_lesion_has_its_closed_forms():
    mask = ring(inner=12, wall=10)
    anatomy = read_anatomy(mask)
    labels = anatomy.labels.copy()
    labels[anatomy.myocardium & (np.abs(angle_between(anatomy.angle, 1.0)) <= np.pi / 2)] = 3
    lesion = measure_lesion(anatomy, labels)
    assert lesion.infarct_share == pytest.approx(0.5, abs=0.03)
    assert lesion.extent == pytest.approx(0.5, abs=0.06)
    assert lesion.transmurality == pytest.approx(1, abs=0.1)
    assert lesion.angle == pytest.approx(1.0, abs=0.05)
    assert lesion.no_reflow_share == 0


def test_a_subendocardial_ring_is_not_transmural():
    anatomy = read_anatomy(ring(inner=12, wall=10))
    labels = np.where(np.nan_to_num(anatomy.depth, nan=1) < 0.5, 3, anatomy.labels)
    lesion = measure_lesion(anatomy, labels)
    assert lesion.extent == 1
    assert lesion.transmurality == pytest.approx(17 * 5 * 2 / (22**2 - 12**2), abs=0.12)


def test_no_lesion_measures_zero():
    anatomy = read_anatomy(ring())
    assert measure_lesion(anatomy, anatomy.labels).infarct_share == 0


def test_territories_cover_the_wall_without_overlap():
    names = [territory_of(np.radians(degree)) for degree in range(0, 360, 2)]
    counts = {name: names.count(name) for name in TERRITORIES}
    assert set(counts.values()) <= {59, 60, 61}
    assert territory_of(np.radians(270)) == "left_anterior_descending"  # the anterior wall is above


def test_a_narrow_lesion_stays_inside_its_territory():
    rng = random_generator(0, "test territory")
    for name, territory in TERRITORIES.items():
        for _ in range(50):
            centre = draw_centre(territory, 0.1, rng)
            assert territory_of(centre + np.radians(17.9)) == name
            assert territory_of(centre - np.radians(17.9)) == name


def test_rings_drawn_resemble_those_fitted():
    masks, _ = draw_masks()
    anatomies = [read_anatomy(mask) for mask in masks]
    model = RingModel.fit(anatomies)
    rng = random_generator(0, "test rings")
    drawn = [model.draw((32, 32), (64, 64), 1.0, rng) for _ in range(60)]
    drawn = [anatomy for anatomy in drawn if anatomy is not None]
    assert len(drawn) > 30
    for name in ("diameter_mm", "wall_mm", "axis_ratio"):
        real = np.array([getattr(anatomy, name) for anatomy in anatomies])
        made = np.array([getattr(anatomy, name) for anatomy in drawn])
        assert abs(np.median(made) - np.median(real)) < 1.5 * real.std() + 0.05
        assert made.std() < 2 * real.std() + 0.05
    assert all(anatomy.closed for anatomy in drawn)


def test_a_ring_is_described_by_its_size_and_wall():
    anatomy = read_anatomy(ring(inner=10, wall=10))
    terms = describe_ring(anatomy)
    assert terms[0] == pytest.approx(np.log(20), abs=0.05)
    assert terms[len(terms) // 2] == pytest.approx(0, abs=0.1)


def test_too_few_rings_give_no_model():
    assert RingModel.fit([read_anatomy(ring())] * 2) is None


def test_a_ring_that_does_not_fit_is_refused():
    model = RingModel.fit([read_anatomy(mask) for mask in draw_masks()[0]])
    assert model.draw((5, 5), (64, 64), 1.0, random_generator(0, "x")) is None


def test_warping_by_nothing_changes_nothing():
    anatomy = read_anatomy(ring())
    warped = warp_anatomy(anatomy, 0.0, random_generator(0, "x"))
    np.testing.assert_array_equal(warped.paste(warped.labels), ring())


def test_warping_keeps_the_ring_closed_and_moves_something():
    anatomy = read_anatomy(ring())
    for index in range(20):
        warped = warp_anatomy(anatomy, 0.05, random_generator(0, "warp test", index))
        assert warped.closed
        assert (warped.paste(warped.labels) != ring()).any()
