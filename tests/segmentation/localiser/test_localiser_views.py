import numpy as np
import pytest
import torch

from common.errors import InputError
from imaging.studies.preparation import Box, reference_box
from segmentation.localiser.box_prediction import (
    box_to_shares,
    extreme_points,
    field_of_view_mm,
    letterbox,
    letterbox_labels,
    shares_to_box,
)
from segmentation.localiser.config import LocaliserConfig
from segmentation.localiser.training import Views, draw_views, view_boxes, view_images, view_maps
from tests.segmentation.localiser_studies import SMALL, study


@pytest.mark.parametrize("shape", [(3, 80, 96), (3, 96, 80), (1, 81, 97), (2, 40, 200)])
def test_box_survives_the_way_into_the_field_and_back(shape):
    box = Box(10.0, 15.0, 35.0, 70.0)
    fov_mm = max(shape) + max(shape) % 2
    back = shares_to_box(box_to_shares(box, shape, fov_mm).numpy(), shape, fov_mm)
    assert back == pytest.approx(box, abs=1e-4)


def test_box_is_clipped_to_a_smaller_field():
    shares = box_to_shares(Box(0.0, 0.0, 100.0, 100.0), (1, 100, 100), 50)
    assert shares.tolist() == [0, 0, 1, 1]
    assert shares_to_box(shares.numpy(), (1, 100, 100), 50) == Box(25.0, 25.0, 75.0, 75.0)


def test_letterboxed_pixels_lie_where_the_box_says():
    mask = np.zeros((1, 60, 90), np.float32)
    mask[0, 20:40, 50:80] = 1.0
    picture = letterbox(mask, 96, 96)[0, 0].numpy()
    rows, columns = np.nonzero(picture > 0.5)
    shares = box_to_shares(Box(20, 50, 40, 80), mask.shape, 96).numpy() * 96
    assert shares == pytest.approx([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def test_flat_image_is_refused():
    with pytest.raises(InputError, match="flat"):
        letterbox(np.ones((2, 8, 8), np.float32), 8, 8)


def test_rim_outside_the_field_does_not_set_the_window():
    image = np.zeros((1, 60, 60), np.float32)
    image[0, 20:40, 20:40] = np.linspace(1, 2, 400).reshape(20, 20)
    bright_rim = np.where(image == 0, 1000.0, image).astype(np.float32)
    assert letterbox(bright_rim, 20, 20).mean() == pytest.approx(0.5, abs=0.02)


def test_field_of_view_holds_every_ventricle_with_its_margin():
    shapes, boxes = [(9, 300, 400), (9, 320, 320)], [Box(100, 150, 180, 230), Box(130, 180, 200, 260)]
    # The second box reaches 100 mm to the right of its image's centre at column 160.
    assert field_of_view_mm(shapes, boxes, margin_mm=50) == 300
    assert field_of_view_mm(shapes, boxes, margin_mm=500) == 400
    assert field_of_view_mm([(1, 81, 97)], [Box(0, 0, 81, 97)], margin_mm=0) == 98


def test_footprint_is_where_any_slice_has_labels():
    mask = study(4).mask
    labels = letterbox_labels(mask, 96, 96)
    assert labels.shape == (3, 1, 96, 96)
    together = letterbox_labels((mask > 0).any(axis=0, keepdims=True).astype(np.uint8), 96, 96)[0]
    torch.testing.assert_close(labels.amax(dim=0), together)
    assert labels.sum() == np.count_nonzero(mask)


def unchanged(size: int) -> Views:
    return Views(
        turn=torch.eye(2)[None],
        shift=torch.zeros(1, 2),
        gamma=torch.ones(1, 1, 1, 1),
        noise=torch.zeros(1, 1, size, size),
        shading=torch.ones(1, 1, 4, 4),
        window=torch.tensor([0.0, 1.0])[None, :, None, None],
    )


def test_view_that_changes_nothing_shows_the_image():
    image = torch.rand(1, 1, 16, 16)
    torch.testing.assert_close(view_images(unchanged(16), image), image)
    torch.testing.assert_close(view_maps(unchanged(16), image), image)


def test_extreme_points_span_the_reference_box():
    mask = study(3).mask
    expected = box_to_shares(reference_box(mask), mask.shape, 96)
    torch.testing.assert_close(view_boxes(unchanged(96), extreme_points(mask, 96)[None])[0], expected)


def test_image_box_and_map_move_together():
    config = LocaliserConfig(
        input_px=96, shift=0.1, noise=0.0, gamma=1.0, shading=1.0, window=0.0, rotation_degrees=40, flips=True
    )
    mask, count = study(5).mask, 24
    views = draw_views(config, count, seed=1)
    labels = letterbox_labels(mask, 96, 96)[:1].expand(count, -1, -1, -1)
    seen = view_images(views, labels)
    torch.testing.assert_close(view_maps(views, labels.repeat(1, 2, 1, 1)), seen.repeat(1, 2, 1, 1))
    boxes = view_boxes(views, extreme_points(mask[:1], 96).expand(count, -1, -1)) * 96
    inside = 0
    for image, box in zip(seen, boxes, strict=True):
        rows, columns = torch.nonzero(image[0] > 0.5, as_tuple=True)
        found = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        if found.min() > 0 and found.max() < 96:
            inside += 1
            assert (found - box).abs().max() < 2.0
    assert inside > count / 2


def test_views_vary_contrast_within_their_limits():
    config = LocaliserConfig(input_px=16, shading=1.5, window=0.2)
    views = draw_views(config, 64, seed=2)
    assert views.shading.min() >= 1 / 1.5 - 1e-6
    assert views.shading.max() <= 1.5 + 1e-6
    low, high = views.window[:, 0], views.window[:, 1]
    assert low.abs().max() <= 0.2 + 1e-6
    assert (high - 1).abs().max() <= 0.2 + 1e-6


def test_views_repeat_with_their_seed():
    first, again, other = (draw_views(SMALL, 4, seed) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.turn, other.turn)
