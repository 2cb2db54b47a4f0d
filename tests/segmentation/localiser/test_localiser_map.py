import numpy as np
import pytest
import torch

from segmentation.localiser.networks import box_of_map, study_map


def blob(top: int, left: int, bottom: int, right: int, value: float = 0.9, size: int = 40) -> np.ndarray:
    result = np.zeros((size, size))
    result[top:bottom, left:right] = value
    return result


def test_edges_lie_where_the_map_crosses_the_threshold():
    ramp = np.clip((np.arange(40) + 0.5 - 10.25) / 4 + 0.5, 0, 1)  # 0.5 at 10.25 pixels from the left
    both = np.minimum(ramp, np.clip((30.75 - np.arange(40) - 0.5) / 4 + 0.5, 0, 1))
    box = box_of_map(np.minimum.outer(both, both), 0.5) * 40
    assert box == pytest.approx([10.25, 10.25, 30.75, 30.75])


def test_box_is_drawn_around_the_heaviest_part_only():
    ventricle, speck = blob(10, 12, 25, 30), blob(2, 33, 6, 39, value=1.0)
    assert box_of_map(ventricle + speck, 0.5) == pytest.approx(box_of_map(ventricle, 0.5))


def test_part_at_the_border_ends_there():
    assert box_of_map(blob(0, 20, 12, 40), 0.5) == pytest.approx(np.array([20, 0, 40, 12]) / 40, abs=0.5 / 40)


def test_faint_map_is_cut_lower():
    strong, faint = (box_of_map(blob(10, 12, 25, 30, value), 0.5) for value in (1.0, 0.3))
    assert faint == pytest.approx(strong, abs=0.5 / 40)


def test_map_that_shows_nothing_has_no_box():
    assert box_of_map(np.zeros((8, 8)), 0.5) is None
    assert box_of_map(np.full((8, 8), 0.01), 0.5) is None


def test_map_that_is_full_has_the_whole_field():
    assert box_of_map(np.ones((8, 8)), 0.5) == pytest.approx([0, 0, 1, 1])


def test_one_slice_cannot_lift_what_no_other_slice_sees():
    ventricle = torch.from_numpy(blob(10, 12, 25, 30)).expand(8, 2, 40, 40).clone()
    before = box_of_map(study_map(ventricle).numpy(), 0.5)
    ventricle[3] = torch.from_numpy(blob(10, 12, 40, 40, value=1.0))
    after = box_of_map(study_map(ventricle).numpy(), 0.5)
    assert after == pytest.approx(before, abs=1 / 40)


def test_widest_slice_says_how_far_the_ventricle_reaches():
    narrow, wide = (torch.from_numpy(blob(12 - grow, 12 - grow, 24 + grow, 24 + grow, 1.0)) for grow in (0, 4))
    unsure = (narrow + wide) / 2 * 0.8  # every slice suspects that others are wider
    slices = torch.stack([torch.stack([own, unsure]) for own in (narrow, wide, narrow)])
    box = box_of_map(study_map(slices).numpy(), 0.5) * 40
    assert box == pytest.approx([8, 8, 28, 28], abs=0.5)
