import math

import numpy as np
import pytest

from segmentation.scoring.overlap import (
    Counts,
    challenge_volumes,
    ejection_fraction,
    has_closed_ring,
    shares,
    transmurality,
    volumes_ml,
)

SPACING_MM = (8.0, 1.0, 1.0)
MYOCARDIUM = Counts(tp=80, fp=20, fn=20)


def heart(size=96, inner=20.0, outer=30.0, slices=2, pixel_mm=(1.0, 1.0)):
    """Cavity, wall, distance from the centre in mm and angle in degrees, each (S, H, W)."""
    rows, columns = np.indices((size, size)) - (size - 1) / 2
    rows, columns = rows * pixel_mm[0], columns * pixel_mm[1]
    radius, angle = np.hypot(rows, columns), np.degrees(np.arctan2(rows, columns)) % 360
    cavity, wall = radius < inner, (radius >= inner) & (radius < outer)
    return [np.repeat(part[None], slices, axis=0) for part in (cavity, wall, radius, angle)]


def test_volumes_by_hand():
    assert volumes_ml(Counts(tp=10, fp=5, fn=2), 20.0) == pytest.approx(
        {"volume": 0.3, "reference_volume": 0.24, "volume_difference_ml": 0.06}
    )
    found = challenge_volumes(Counts(tp=10, fp=5, fn=2), MYOCARDIUM, 20.0)
    assert found == pytest.approx({"volume_difference": 60.0, "volume_difference_ratio": 3 / 100})


def test_volumes_of_empty_classes_are_zero_and_have_no_ratio_without_myocardium():
    nothing = Counts(0, 0, 0)
    assert set(volumes_ml(nothing, 20.0).values()) == {0.0}
    assert challenge_volumes(nothing, nothing, 20.0) == {"volume_difference": 0.0}


def test_shares_by_hand():
    found = shares(Counts(tp=10, fp=15, fn=0), MYOCARDIUM)
    assert list(found.values()) == pytest.approx([25.0, 10.0, 15.0])


@pytest.mark.parametrize(
    ("lesion", "myocardium", "expected"),
    [
        (Counts(0, 0, 20), Counts(0, 0, 100), [0.0, 20.0, 20.0]),  # empty prediction
        (Counts(0, 20, 0), Counts(0, 100, 0), [20.0, 0.0, 20.0]),  # empty reference
        (Counts(0, 0, 0), Counts(0, 0, 0), [0.0, 0.0, 0.0]),
    ],
)
def test_without_myocardium_the_share_is_zero(lesion, myocardium, expected):
    assert list(shares(lesion, myocardium).values()) == pytest.approx(expected)


def test_ejection_fraction():
    assert ejection_fraction(150.0, 60.0) == pytest.approx(60.0)
    assert ejection_fraction(150.0, 150.0) == 0.0
    assert math.isnan(ejection_fraction(0.0, 0.0))


@pytest.mark.parametrize("pixel_mm", [(1.0, 1.0), (0.8, 0.8), (0.7, 1.1)])
@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_a_subendocardial_quadrant_reaches_as_far_as_it_was_drawn(share, pixel_mm):
    cavity, wall, radius, angle = heart(size=110, pixel_mm=pixel_mm)
    lesion = wall & (angle < 90) & (radius < 20 + share * 10)
    found = transmurality(cavity, wall, lesion, (8.0, *pixel_mm))
    assert found.mean == pytest.approx(100 * share, abs=4)
    assert found.mean <= found.maximum <= 100


def test_it_counts_only_sectors_with_lesion_and_the_deepest_is_the_maximum():
    cavity, wall, radius, angle = heart()
    shallow = wall & (angle < 60) & (radius < 23)
    deep = wall & (angle >= 180) & (angle < 240)
    found = transmurality(cavity, wall, shallow | deep, SPACING_MM)
    assert found.maximum == pytest.approx(100.0)
    assert found.mean == pytest.approx((30 + 100) / 2, abs=6)  # sectors at the edges hold part of it


def test_a_lesion_in_the_outer_wall_counts_like_one_in_the_inner():
    cavity, wall, radius, angle = heart()
    outer = wall & (angle < 90) & (radius >= 25)
    assert transmurality(cavity, wall, outer, SPACING_MM).mean == pytest.approx(50, abs=4)


def test_turning_and_mirroring_change_little():
    cavity, wall, radius, angle = heart()
    lesion = wall & (angle < 70) & (radius < 26)
    found = transmurality(cavity, wall, lesion, SPACING_MM).mean
    for turned in (lambda mask: np.rot90(mask, axes=(1, 2)), lambda mask: mask[:, ::-1]):
        again = transmurality(*map(turned, (cavity, wall, lesion)), SPACING_MM).mean
        assert again == pytest.approx(found, abs=2)


def test_slices_without_a_closed_ring_are_left_out():
    cavity, wall, radius, angle = heart()
    lesion = wall & (angle < 90) & (radius < 25)
    lesion[1] = wall[1] & (angle[1] < 90)
    wall[1] &= angle[1] < 300  # the second slice is a horseshoe
    assert not has_closed_ring(cavity[1], wall[1])
    assert transmurality(cavity, wall, lesion, SPACING_MM).mean == pytest.approx(50, abs=4)


def test_empty_cases_of_transmurality():
    cavity, wall, _, angle = heart()
    nothing, lesion = np.zeros_like(wall), wall & (angle < 90)
    assert transmurality(cavity, wall, nothing, SPACING_MM) == (0.0, 0.0)
    assert transmurality(nothing, nothing, nothing, SPACING_MM) == (0.0, 0.0)
    assert np.isnan(transmurality(nothing, wall, lesion, SPACING_MM)).all()  # lesion, but no ring around a cavity


def test_a_ring_that_touches_only_at_a_corner_is_closed():
    wall = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], bool)
    assert has_closed_ring(np.pad(np.array([[True]]), 1), wall)
