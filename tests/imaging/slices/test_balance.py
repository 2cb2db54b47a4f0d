import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from common.errors import InputError
from imaging.labels import CINE_LABELS, EMIDEC_LABELS
from imaging.slices.balance import (
    CATEGORIES,
    BalanceConfig,
    apportion,
    category_shares,
    draw_balanced,
    rows_by_category,
    slice_categories,
)
from tests.imaging.small_stores import ring

PUBLISHED = BalanceConfig()


def draw(categories, count, balance=PUBLISHED, seed=0):
    return draw_balanced(rows_by_category(np.array(categories)), count, balance, np.random.default_rng(seed))


def test_categories_follow_the_rarest_tissue():
    masks = np.stack([np.zeros((32, 32), np.uint8), *map(ring, CATEGORIES)])
    assert slice_categories(masks, EMIDEC_LABELS).tolist() == ["no_infarct", *CATEGORIES]


def test_no_reflow_without_infarct_around_it_counts_as_no_reflow():
    assert slice_categories(np.full((1, 2, 2), 4), EMIDEC_LABELS).tolist() == ["no_reflow"]


def test_cine_slices_have_no_infarct():
    masks = np.array([[[0, 1], [2, 2]]], dtype=np.uint8)
    assert slice_categories(masks, CINE_LABELS).tolist() == ["no_infarct"]
    assert category_shares(PUBLISHED, {"no_infarct"}) == {"no_infarct": 1.0}


def test_published_shares_are_met_exactly():
    categories = np.array(["no_infarct"] * 30 + ["infarct"] * 15 + ["no_reflow"] * 5)
    drawn = categories[draw(categories, 1000)]
    assert {name: int((drawn == name).sum()) for name in CATEGORIES} == {
        "no_infarct": 500,
        "infarct": 40,
        "no_reflow": 460,
    }


@pytest.mark.parametrize(
    ("available", "shares"),
    [
        ({"no_infarct", "infarct"}, {"no_infarct": 0.5, "infarct": 0.5}),
        ({"no_infarct", "no_reflow"}, {"no_infarct": 0.5, "no_reflow": 0.5}),
        ({"infarct", "no_reflow"}, {"infarct": 0.08, "no_reflow": 0.92}),
        ({"infarct"}, {"infarct": 1.0}),
    ],
)
def test_a_missing_category_leaves_its_share_to_its_like(available, shares):
    assert category_shares(PUBLISHED, available) == pytest.approx(shares)


def test_shares_of_zero_still_draw_what_there_is():
    none = BalanceConfig(infarct_share=0, no_reflow_share=0)
    assert category_shares(none, {"infarct", "no_reflow"}) == {"infarct": 0.5, "no_reflow": 0.5}
    assert category_shares(none, set(CATEGORIES))["no_infarct"] == 1.0


def test_more_no_reflow_than_infarct_is_refused():
    with pytest.raises(ValidationError, match=r"no_reflow_share 0\.6 is above infarct_share 0\.5"):
        BalanceConfig(no_reflow_share=0.6)


@given(
    categories=st.lists(st.sampled_from(CATEGORIES), min_size=1, max_size=40),
    count=st.integers(0, 200),
    seed=st.integers(0, 1000),
)
def test_every_slice_of_a_category_is_drawn_equally_often(categories, count, seed):
    drawn = draw(categories, count, seed=seed)
    assert len(drawn) == count
    times = np.bincount(drawn, minlength=len(categories))
    for name in set(categories):
        of_category = times[np.array(categories) == name]
        assert of_category.max() - of_category.min() <= 1
    np.testing.assert_array_equal(drawn, draw(categories, count, seed=seed))


@given(count=st.integers(0, 10_000), weights=st.lists(st.floats(0.01, 1), min_size=1, max_size=5))
def test_apportioned_counts_sum_up_and_are_within_one(count, weights):
    shares = {str(place): weight / sum(weights) for place, weight in enumerate(weights)}
    counts = apportion(count, shares)
    assert sum(counts.values()) == count
    assert all(abs(counts[name] - share * count) < 1 + 1e-6 for name, share in shares.items())


@pytest.mark.parametrize(("categories", "count"), [([], 3), (["infarct"], -1)])
def test_nothing_to_draw_from_is_refused(categories, count):
    with pytest.raises(InputError, match="cannot draw"):
        draw(categories, count)
