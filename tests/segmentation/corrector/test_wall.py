"""The unrolled wall: which cells lie where, and what is known of them."""

import numpy as np
import pytest

from imaging.labels import Tissue
from segmentation.corrector.wall import ANGLES, CHANNELS, DEPTHS, VALID, WallCells, logit, wall_channels
from tests.segmentation.corrector.hearts import SIDE, images, masks, probabilities


def test_depth_goes_from_the_cavity_outwards():
    labels = masks()
    radius = np.broadcast_to(np.hypot(*(np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2)), labels.shape)
    unrolled = WallCells.of(labels).unroll(radius)
    assert unrolled.shape == (5, DEPTHS, ANGLES)
    middle = 13 + 9 * (np.arange(DEPTHS) + 0.5) / DEPTHS  # of a wall from 13 to 22 px
    np.testing.assert_allclose(unrolled.mean(axis=(0, 2)), middle, atol=0.7)


def test_a_lesion_keeps_its_share_of_the_ring():
    infarct = WallCells.of(masks()).unroll((masks() == Tissue.INFARCT).astype(np.float32))
    assert infarct.mean() == pytest.approx(2 / (2 * np.pi), abs=0.01)  # 2 rad of the ring


def test_a_quarter_turn_of_the_slices_turns_the_cells():
    labels = masks(1, no_reflow=True)
    values = images(labels)
    turned = WallCells.of(np.rot90(labels, -1, (1, 2))).unroll(np.rot90(values, -1, (1, 2)))
    same = np.roll(WallCells.of(labels).unroll(values), ANGLES // 4, axis=-1)
    assert np.abs(turned - same).mean() < 0.01


def test_the_gap_of_an_open_ring_is_not_valid():
    labels = masks(1, infarct=False)
    labels[:, :, : SIDE // 2] = np.where(
        labels[:, :, : SIDE // 2] == Tissue.NORMAL_MYOCARDIUM, 0, labels[:, :, : SIDE // 2]
    )
    assert 0.4 < WallCells.of(labels).valid.mean() < 0.7


def test_a_slice_without_wall_has_no_cell():
    labels = masks(3)
    labels[1] = 0
    cells = WallCells.of(labels)
    assert cells.valid.all(axis=(1, 2)).tolist() == [True, False, True]
    assert not cells.valid[1].any()
    channels = wall_channels(cells, probabilities(labels), images(labels))
    assert np.isfinite(channels).all()
    assert not channels[:, 1].any()


def test_an_apex_without_cavity_is_unrolled_about_its_middle():
    labels = np.where(masks(1) == Tissue.CAVITY, Tissue.NORMAL_MYOCARDIUM, masks(1))
    assert WallCells.of(labels).valid.any()


@pytest.mark.parametrize("slices", [1, 2, 9])
def test_any_number_of_slices(slices):
    labels = masks(slices)
    channels = wall_channels(WallCells.of(labels), probabilities(labels), images(labels))
    assert (channels.shape, channels.dtype) == ((CHANNELS, slices, DEPTHS, ANGLES), np.float32)
    assert channels[VALID].all()


def test_intensity_is_told_against_the_remote_wall():
    labels = masks()
    channels = wall_channels(WallCells.of(labels), probabilities(labels), images(labels))
    infarct = WallCells.of(labels).unroll((labels == Tissue.INFARCT).astype(np.float32)) == 1
    assert abs(channels[2][~infarct & (channels[VALID] == 1)].mean()) < 0.3
    assert channels[2][infarct].mean() > 2  # eight deviations and more, a quarter of them
    assert channels[4][infarct].mean() == pytest.approx((0.9 - 0.2) / (0.8 - 0.2), abs=0.05)


def test_logits_are_bounded():
    np.testing.assert_allclose(logit(np.array([0.0, 0.5, 1.0])), [-7, 0, 7])
