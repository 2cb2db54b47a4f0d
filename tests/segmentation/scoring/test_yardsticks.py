import numpy as np
import pandas as pd
import pytest

from common.errors import InputError
from imaging.labels import Tissue
from imaging.slices.part import LabelledSlices
from segmentation.scoring.yardsticks import all_background, mean_mask, other_patient


def training_masks(count: int = 40, size: int = 32) -> np.ndarray:
    """Rings whose infarct lies at another angle in each."""
    row, column = np.mgrid[:size, :size] - size / 2 + 0.5
    radius, angle = np.hypot(row, column), np.arctan2(row, column)
    masks = np.zeros((count, size, size), np.uint8)
    masks[:, radius < 10] = Tissue.NORMAL_MYOCARDIUM
    rng = np.random.default_rng(0)
    for mask in masks[::2]:
        lesion = np.abs(np.angle(np.exp(1j * (angle - rng.normal(0, 0.8))))) < 0.5
        mask[lesion & (mask == Tissue.NORMAL_MYOCARDIUM)] = Tissue.INFARCT
    masks[:, radius < 6] = Tissue.CAVITY
    return masks


def test_mean_mask_gives_every_tissue_its_mean_area():
    masks = training_masks()
    mean = mean_mask(masks, 5)
    for tissue in (Tissue.CAVITY, Tissue.NORMAL_MYOCARDIUM, Tissue.INFARCT):
        assert (mean == tissue).sum() == pytest.approx((masks == tissue).sum() / len(masks), abs=1)
    assert not (mean == Tissue.NO_REFLOW).any()  # not in training, so nowhere


def test_mean_mask_puts_a_tissue_where_it_is_most_frequent():
    mean = mean_mask(training_masks(), 5)
    _, columns = np.nonzero(mean == Tissue.INFARCT)
    assert columns.min() > 16  # lesions are drawn around angle 0: the right of the ring


def test_mean_mask_of_one_mask_is_that_mask():
    mask = training_masks()[:1]
    np.testing.assert_array_equal(mean_mask(mask, 5), mask[0])


def test_mean_mask_needs_masks():
    with pytest.raises(InputError, match="at least one"):
        mean_mask(np.zeros((0, 8, 8), np.uint8), 5)


def rows_of(*stacks: tuple[str, int]) -> pd.DataFrame:
    return pd.DataFrame(
        [(case, "", index) for case, slices in stacks for index in range(slices)],
        columns=["case_id", "frame", "slice_index"],
    )


def test_other_patient_follows_the_slice_position():
    masks = np.arange(4, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
    for slices, expected in [(4, [0, 1, 2, 3]), (2, [1, 3]), (8, [0, 0, 1, 1, 2, 2, 3, 3]), (1, [2])]:
        copied = other_patient(LabelledSlices(rows_of(("P1", 4)), masks), "P2", "", slices, seed=0)
        assert copied[:, 0, 0].tolist() == expected


def test_other_patient_is_never_the_patient_and_the_draw_repeats():
    masks = np.repeat(np.arange(3, dtype=np.uint8), 2)[:, None, None] * np.ones((1, 2, 2), np.uint8)
    training = LabelledSlices(rows_of(("P0", 2), ("P1", 2), ("P2", 2)), masks)
    copies = [other_patient(training, "P1", "", 2, seed) for seed in range(20)]
    assert {int(copy[0, 0, 0]) for copy in copies} == {0, 2}
    np.testing.assert_array_equal(copies[0], other_patient(training, "P1", "", 2, 0))


def test_there_is_no_other_patient_where_none_has_the_frame():
    masks = np.zeros((2, 2, 2), np.uint8)
    assert other_patient(LabelledSlices(rows_of(("P1", 2)), masks), "P1", "", 2, 0) is None
    assert other_patient(LabelledSlices(rows_of(("P0", 2)), masks), "P1", "frame 7", 2, 0) is None


def test_all_background_is_empty():
    assert all_background(3, 8).shape == (3, 8, 8)
    assert not all_background(3, 8).any()
