"""Draws that the judge does not find, or that are copies, are drawn again with the next numbers."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from common.errors import InputError
from gan.generation.hole import own_hole
from gan.generation.refusal import (
    COPY,
    NOT_FOUND,
    Draws,
    Filter,
    draw_until_accepted,
    found_lesions_limit,
    judged_by,
    lesion_dice,
)
from gan.generation.slices import generate_slices
from gan.generation.transplant import transplant_until_accepted, write_transplants
from gan.training.config import TransplantConfig
from imaging.labels import EMIDEC_LABELS
from imaging.slices.balance import BalanceConfig, slice_categories
from imaging.slices.store import SliceStore
from tests.gan.generation.test_generate import make_model  # noqa: F401
from tests.gan.generation.test_transplant import real  # noqa: F401
from tests.gan.quality_material import drawn_well, patients, segment_by_shade


def numbered(numbers):
    """Draws of which each tells its number."""
    images = np.zeros((len(numbers), 4, 4), np.float16)
    rows = pd.DataFrame({"case_id": "A", "replica": np.asarray(numbers, np.int32)})
    return Draws(images, np.zeros(images.shape, np.uint8), None, rows)


def refusing(*numbers, most=3):
    """Return a filter that refuses draws by their numbers, and what it was asked."""
    asked = []

    def refuse(draws):
        asked.append(draws.rows["replica"].tolist())
        return np.array([NOT_FOUND if n in numbers else "" for n in asked[-1]], dtype=object)

    return Filter(refuse, most, {"quantile": 0.1}), asked


def test_refused_draws_are_drawn_again_with_the_next_numbers():
    chosen, asked = refusing(1, 3, 4)
    accepted, refused = draw_until_accepted(numbered(range(4)), lambda numbers, _: numbered(numbers), chosen)
    assert accepted.rows["replica"].tolist() == [0, 6, 2, 5]
    assert accepted.rows["replica"].dtype == np.int32
    assert asked == [[0, 1, 2, 3], [4, 5], [6]]
    assert refused == {NOT_FOUND: 3}
    assert chosen.told(4, refused) == {"quantile": 0.1, "draws": 7, "refused": {NOT_FOUND: 3}}


def test_where_none_is_refused_nothing_is_drawn_again():
    first = numbered(range(3))
    accepted, refused = draw_until_accepted(first, None, refusing()[0])
    assert accepted is first
    assert not refused


def test_a_filter_that_refuses_too_much_ends_in_one_line():
    chosen, _ = refusing(*range(100))
    words = (
        r"synthetic_slices: of 12 draws for 4 slices 12 were refused \(lesion not found: 12\) and 4 slices are "
        r"missing; "
        r"lower synthesis.refuse_quantile, .* or set synthesis.refuse=false$"
    )
    with pytest.raises(InputError, match=words):
        draw_until_accepted(numbered(range(4)), lambda numbers, _: numbered(numbers), chosen)


def test_the_judges_dice_is_that_of_the_whole_lesion():
    masks = np.zeros((3, 2, 4), np.uint8)
    masks[0, 0], masks[1, 0] = [3, 3, 4, 4], [3, 3, 0, 0]
    found = np.zeros_like(masks)
    found[0, 0], found[2, 0] = [4, 3, 0, 0], [3, 3, 3, 3]
    np.testing.assert_allclose(lesion_dice(masks, masks, lambda _: found), [2 * 2 / 6, 0, np.nan])


def test_a_lesion_is_found_at_a_quantile_of_the_judges_dice_on_real_slices():
    training = patients(10, seed=1)
    dice = lesion_dice(training.images, training.masks, segment_by_shade)
    assert found_lesions_limit(training, segment_by_shade, 0.3) == np.quantile(dice, 0.3)
    with pytest.raises(InputError, match="none of 30 training slices bears a lesion"):
        found_lesions_limit(replace(training, masks=np.minimum(training.masks, 2)), segment_by_shade, 0.3)


def drawn(slices, images, holes=None):
    return Draws(images.astype(np.float16), slices.masks, holes, pd.DataFrame({"case_id": slices.case_ids}))


def test_a_lesion_that_was_not_drawn_is_refused_and_a_faithful_one_is_not():
    training, other = patients(30, seed=1), patients(8, seed=2)
    images = drawn_well(other.masks, 4)
    images[5][other.masks[5] >= 3] = 0.15  # wall where a lesion should be
    reasons = judged_by(segment_by_shade, training, 0.01, 3, True, 0).refuse(drawn(other, images))
    assert reasons[5] == NOT_FOUND
    assert Counter(reasons)[""] >= 22


@pytest.mark.parametrize("holed", [False, True])
def test_a_copy_is_refused_but_where_copies_are_wanted(holed):
    training = patients(30, seed=1)
    holes = own_hole(training.masks, "lesion", 2) if holed else None
    others = np.roll(np.arange(90), 3)
    fresh = np.random.default_rng(0).normal(0, 0.03, training.images.shape) + drawn_well(training.masks, 3)
    images = np.where(np.arange(90)[:, None, None] < 20, training.images, fresh)
    copied = Draws(
        images.astype(np.float16), training.masks, holes, pd.DataFrame({"case_id": training.case_ids[others]})
    )  # hearts that another patient's pixels were put into
    for copies in (True, False):
        chosen = judged_by(lambda _: training.masks, training, 0.1, 3, copies, 0)
        reasons = chosen.refuse(copied)
        assert (reasons[:20] == (COPY if copies else "")).all()
        assert (reasons[20:] == COPY).mean() < 0.05


@pytest.fixture
def generated(make_model, make_store, compute, tmp_path):  # noqa: F811
    folder, masks = make_model(), make_store(5, seed=8, origin="synthetic")

    def generate(chosen, name="slices"):
        path = tmp_path / f"{name}.h5"
        generate_slices(folder, masks, path, 8, compute, 3, "test", chosen=chosen)
        return SliceStore.open(path)

    return generate


def test_pix2pix_draws_again_from_masks_that_bear_the_same(generated):
    plain, filtered = generated(None), generated(refusing(2, 8)[0], "filtered")
    assert filtered.rows["replica"].tolist() == [0, 1, 9, 3, 4, 5, 6, 7]
    kept = np.array([0, 1, 3, 4, 5, 6, 7])
    np.testing.assert_array_equal(filtered.images(kept), plain.images(kept))
    assert not np.array_equal(filtered.images([2]), plain.images([2]))
    kinds = [slice_categories(store.masks(), EMIDEC_LABELS) for store in (plain, filtered)]
    np.testing.assert_array_equal(kinds[0], kinds[1])
    assert filtered.attributes.parameters["refusal"] == {"quantile": 0.1, "draws": 10, "refused": {NOT_FOUND: 2}}
    assert "refusal" not in plain.attributes.parameters
    assert generated(refusing(2, 8)[0], "again").digest == filtered.digest


def test_a_filter_that_refuses_nothing_changes_no_slice(generated):
    plain, filtered = generated(None), generated(refusing()[0], "filtered")
    np.testing.assert_array_equal(filtered.images(), plain.images())
    assert filtered.rows.equals(plain.rows)


def test_transplants_are_made_again_in_their_category(real, tmp_path):  # noqa: F811
    train, config = np.arange(5), TransplantConfig()
    write_transplants(tmp_path / "masks.h5", real, train, 20, config, BalanceConfig(), 3, "1")
    made = SliceStore.open(tmp_path / "masks.h5")
    bearing = np.flatnonzero((made.masks() >= 3).any(axis=(1, 2)))[:3].tolist()
    for name in ("slices.h5", "again.h5"):
        transplant_until_accepted(made, real, train, config, tmp_path / name, 3, "2", refusing(*bearing)[0])
    store, again = SliceStore.open(tmp_path / "slices.h5"), SliceStore.open(tmp_path / "again.h5")
    assert store.digest == again.digest
    assert store.rows["replica"].iloc[bearing].tolist() == [20, 21, 22]
    kinds = [slice_categories(one.masks(), EMIDEC_LABELS) for one in (made, store)]
    np.testing.assert_array_equal(kinds[0], kinds[1])
    others = np.setdiff1d(np.arange(20), bearing)
    np.testing.assert_array_equal(store.images(others), made.images(others))
    assert store.attributes.parameters["refusal"]["refused"] == {NOT_FOUND: 3}


def test_transplants_of_other_real_slices_are_not_made_again(real, tmp_path):  # noqa: F811
    write_transplants(tmp_path / "masks.h5", real, np.arange(5), 4, TransplantConfig(), BalanceConfig(), 3, "1")
    made = SliceStore.open(tmp_path / "masks.h5")
    with pytest.raises(InputError, match=r"was made of other slices than .*; rematerialise lesion_masks"):
        transplant_until_accepted(
            made, made, np.arange(4), TransplantConfig(), tmp_path / "s.h5", 3, "2", refusing()[0]
        )
