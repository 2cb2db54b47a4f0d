import numpy as np
import pytest

from imaging.labels import EMIDEC_LABELS
from imaging.slices.balance import BalanceConfig
from runtime.compute import choose_compute
from segmentation.training.batches import (
    ResidentBatches,
    RowSampler,
    StreamedBatches,
    count_pixels,
    open_batches,
    read_categories,
)
from tests.segmentation.toy_slices import write_toy_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_toy_store(tmp_path_factory.mktemp("store") / "slices.h5", count=12)


@pytest.fixture(scope="module")
def compute():
    return choose_compute("cpu", "fp32")


def test_without_balance_every_row_comes_once_an_epoch(store):
    sampler = RowSampler(store, 5, None, seed=1)
    rows = np.concatenate([sampler.rows(step) for step in range(12)])  # 60 rows: five epochs of 12
    for epoch in rows.reshape(5, 12):
        assert sorted(epoch.tolist()) == list(range(12))
    assert not np.array_equal(rows[:12], rows[12:24])


def test_balanced_batches_hold_the_configured_shares(store):
    sampler = RowSampler(store, 20, BalanceConfig(infarct_share=0.5, no_reflow_share=0.4), seed=1)
    categories = read_categories(store)[sampler.rows(3)]
    counts = {name: int((categories == name).sum()) for name in ("no_infarct", "infarct", "no_reflow")}
    assert counts == {"no_infarct": 10, "infarct": 2, "no_reflow": 8}


@pytest.mark.parametrize("balance", [None, BalanceConfig()])
def test_rows_depend_on_seed_and_step_alone(store, balance):
    one, two = (RowSampler(store, 8, balance, seed=1) for _ in range(2))
    one.rows(0)
    assert np.array_equal(one.rows(7), two.rows(7))
    assert not np.array_equal(one.rows(7), one.rows(8))
    assert not np.array_equal(one.rows(7), RowSampler(store, 8, balance, seed=2).rows(7))


def test_resident_and_streamed_batches_are_the_same(store, compute):
    sampler = RowSampler(store, 5, None, seed=1)
    resident, streamed = (kind(store, sampler, compute) for kind in (ResidentBatches, StreamedBatches))
    for step in (0, 1, 2, 7, 3):
        for mine, theirs in zip(resident.batch(step), streamed.batch(step), strict=True):
            assert mine.equal(theirs)


def test_a_batch_is_the_rows_of_the_store(store, compute):
    sampler = RowSampler(store, 5, None, seed=1)
    images, masks = ResidentBatches(store, sampler, compute).batch(4)
    rows = sampler.rows(4)
    assert images.shape == (5, 1, 32, 32)
    np.testing.assert_array_equal(images[:, 0].numpy(), store.images(rows).astype(np.float32))
    np.testing.assert_array_equal(masks.numpy(), store.masks(rows))


def test_size_chooses_between_resident_and_streamed(store, compute):
    sampler = RowSampler(store, 5, None, seed=1)
    assert isinstance(open_batches(store, sampler, compute, 1), ResidentBatches)
    assert isinstance(open_batches(store, sampler, compute, 0), StreamedBatches)


def test_pixels_are_counted_by_label(store):
    expected = [int((store.masks() == value).sum()) for value in range(EMIDEC_LABELS.num_classes)]
    assert count_pixels(store).tolist() == expected
