import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from imaging.slices.balance import CATEGORIES, slice_categories
from imaging.slices.mixing import write_training_set
from imaging.slices.store import SliceStore
from tests.imaging import small_stores as slices

KEY = ["case_id", "slice_index", "origin", "replica"]
AUGMENTED = ["no_infarct"] * 50 + ["infarct"] * 4 + ["no_reflow"] * 46
SYNTHETIC = ["no_infarct"] * 20 + ["infarct"] * 20 + ["no_reflow"] * 20


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    return [
        slices.write(
            folder / f"{origin}.h5",
            [slices.ring(content) for content in contents],
            origin=origin,
            seed=len(contents),
            donor_ids="P7;P8" if origin == "synthetic" else "",
        )
        for origin, contents in (("augmented", AUGMENTED), ("synthetic", SYNTHETIC))
    ]


def mix(path, parts, counts, seed=0):
    write_training_set(path, list(zip(parts, counts, strict=True)), seed, "1")
    return SliceStore.open(path)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, parts):
    return mix(tmp_path_factory.mktemp("mixed") / "slices.h5", parts, (50, 30))


def contents(store, of=slice(None)):
    categories = slice_categories(store.masks(of), store.label_set)
    return [int((categories == name).sum()) for name in CATEGORIES]


def test_each_part_gives_what_was_asked_in_its_own_balance(mixed):
    assert len(mixed) == 80
    assert contents(mixed, (mixed.rows["origin"] == "augmented").to_numpy()) == [25, 2, 23]
    assert contents(mixed, (mixed.rows["origin"] == "synthetic").to_numpy()) == [10, 10, 10]


def test_rows_travel_with_their_images(mixed, parts):
    for store in parts:
        where = mixed.rows.reset_index().merge(store.rows.reset_index(), on=KEY, suffixes=("", "_source"))
        assert len(where) in (50, 30)
        np.testing.assert_array_equal(mixed.images(where["index"]), store.images(where["index_source"]))
        np.testing.assert_array_equal(mixed.masks(where["index"]), store.masks(where["index_source"]))
        assert (where["donor_ids"] == where["donor_ids_source"]).all()


def test_the_order_is_shuffled(mixed):
    synthetic = (mixed.rows["origin"] == "synthetic").to_numpy()
    assert 20 < np.flatnonzero(synthetic).mean() < 60
    assert not mixed.rows["slice_index"].is_monotonic_increasing


def test_parents_are_named_with_their_digests(mixed, parts):
    assert mixed.attributes.parent_digests == {"augmented": parts[0].digest, "synthetic": parts[1].digest}
    assert mixed.attributes.parameters["rows"] == {"augmented": 50, "synthetic": 30}


def test_the_same_seed_writes_the_same_bytes(tmp_path, mixed, parts):
    again = mix(tmp_path / "again.h5", parts, (50, 30))
    assert again.path.read_bytes() == mixed.path.read_bytes()
    assert mix(tmp_path / "other.h5", parts, (50, 30), seed=1).digest != mixed.digest


def test_asking_for_everything_gives_everything_once(tmp_path, parts):
    whole = mix(tmp_path / "whole.h5", parts[:1], (100,))
    pd.testing.assert_frame_equal(
        whole.rows.sort_values("slice_index", ignore_index=True), parts[0].rows.sort_values("slice_index")
    )


@given(counts=st.tuples(st.integers(0, 100), st.integers(0, 60)).filter(any))
@settings(max_examples=20, deadline=None)
def test_any_counts_are_met_without_repeats(tmp_path_factory, parts, counts):
    store = mix(tmp_path_factory.mktemp("any") / "slices.h5", parts, counts)
    origins = store.rows["origin"].value_counts()
    assert (origins.get("augmented", 0), origins.get("synthetic", 0)) == counts
    assert not store.rows.duplicated(KEY).any()


def test_more_than_there_is_is_refused(tmp_path, parts):
    with pytest.raises(InputError, match=r"61 slices asked for, but .*synthetic\.h5 has 60"):
        mix(tmp_path / "slices.h5", parts, (50, 61))


@pytest.mark.parametrize("counts", [(0, 0), (-1, 5)])
def test_senseless_counts_are_refused(tmp_path, parts, counts):
    with pytest.raises(InputError, match="asked for"):
        mix(tmp_path / "slices.h5", parts, counts)


@pytest.mark.parametrize("name", ["label_set", "source_digest", "spacing_mm"])
def test_parts_of_different_kind_are_refused(tmp_path, parts, name):
    other = dataclasses.replace(slices.ATTRIBUTES, **{name: "cine" if name == "label_set" else 2})
    stranger = slices.write(tmp_path / "other.h5", [slices.ring("no_infarct")], attributes=other, origin="synthetic")
    with pytest.raises(InputError, match=f"the parts differ in {name}"):
        mix(tmp_path / "slices.h5", [parts[0], stranger], (5, 1))


def test_the_same_slices_twice_are_refused(tmp_path, parts):
    with pytest.raises(InputError, match="is there twice"):
        mix(tmp_path / "slices.h5", [parts[0], parts[0]], (100, 100))
    assert list(tmp_path.iterdir()) == []
