import torch
from torch.nn import functional as F

from segmentation.training.batch_augmentation import apply_changes, draw_changes, sampling_grid
from segmentation.training.config import DeviceAugmentConfig

STILL = DeviceAugmentConfig(
    rotation_degrees=0,
    scale=(1, 1),
    shift_px=0,
    elastic_px=0,
    flips=False,
    gamma=(1, 1),
    contrast=0,
    brightness=0,
    noise=0,
)


def batch(count: int = 6, size: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Images whose value says the label: 0, 0.25, 0.5, 0.75, 1."""
    masks = torch.randint(0, 5, (count, size // 4, size // 4), generator=torch.Generator().manual_seed(0))
    masks = masks.repeat_interleave(4, 1).repeat_interleave(4, 2)
    return masks.unsqueeze(1) / 4.0, masks


def changed(config, seed=3, crop=None):
    images, masks = batch()
    return apply_changes(images, masks, draw_changes(config, 6, 32, crop, seed), seed)


def test_ranges_of_nothing_change_nothing():
    images, masks = batch()
    for config in (None, STILL):
        new_images, new_masks = changed(config)
        torch.testing.assert_close(new_images, images, atol=1e-5, rtol=0)
        assert torch.equal(new_masks, masks)


def test_the_same_seed_gives_the_same_batch_and_another_seed_another():
    config = DeviceAugmentConfig()
    first, again, other = changed(config), changed(config), changed(config, seed=4)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_a_part_of_a_batch_turns_out_as_in_the_whole_batch():
    images, masks = batch()
    changes = draw_changes(DeviceAugmentConfig(), 6, 32, 24, 3)
    whole_images, whole_masks = apply_changes(images, masks, changes, 3)
    for rows in (slice(0, 2), slice(2, 6)):
        part_images, part_masks = apply_changes(images[rows], masks[rows], changes.part(rows), 3)
        torch.testing.assert_close(part_images, whole_images[rows], atol=1e-6, rtol=0)
        assert torch.equal(part_masks, whole_masks[rows])


def test_image_and_mask_move_together():
    config = DeviceAugmentConfig(gamma=(1, 1), contrast=0, brightness=0, noise=0)
    images, masks = changed(config)
    # Away from label borders the bilinear image is exactly the label's value.
    agree = (images[:, 0] - masks / 4.0).abs() < 0.13
    assert agree.float().mean() > 0.7
    wrong = (images[:, 0].flip(0) - masks / 4.0).abs() < 0.13
    assert wrong.float().mean() < 0.5


def test_flips_alone_permute_pixels():
    images, masks = batch()
    moved, labels = changed(STILL.model_copy(update={"flips": True}))
    for before, after, mask, label in zip(images, moved, masks, labels, strict=True):
        options = [before, before.flip(1), before.flip(2), before.flip(1, 2)]
        found = [torch.allclose(after, option, atol=1e-5) for option in options]
        assert any(found)
        flipped = [mask, mask.flip(0), mask.flip(1), mask.flip(0, 1)][found.index(True)]
        assert torch.equal(label, flipped)


def test_scale_enlarges_by_its_factor():
    images, masks = torch.zeros(1, 1, 32, 32), torch.zeros(1, 32, 32, dtype=torch.long)
    masks[:, 12:20, 12:20] = 1
    config = STILL.model_copy(update={"scale": (2.0, 2.0), "probability": 1.0})
    _, enlarged = apply_changes(images, masks, draw_changes(config, 1, 32, None, 0), 0)
    assert enlarged.sum() == 4 * masks.sum()


def test_places_are_the_turned_and_shifted_pixels_plus_the_enlarged_elastic_nodes():
    changes = draw_changes(DeviceAugmentConfig(probability=1.0), 3, 32, 24, 5)
    place = (torch.arange(24) - 11.5).double()
    rows, columns = torch.meshgrid(place, place, indexing="ij")
    turned = torch.einsum("nij,jrc->nirc", changes.matrix.double(), torch.stack([columns, rows]))
    bend = F.interpolate(changes.elastic_px.double(), size=(24, 24), mode="bicubic", align_corners=True)
    expected = (turned + changes.shift_px.double()[:, :, None, None] + bend) / 16  # 16 px from the middle to the edge
    grid = sampling_grid(changes, 32)
    torch.testing.assert_close(grid, expected.permute(0, 2, 3, 1).float(), atol=1e-5, rtol=0)


def test_crops_are_windows_of_the_slice():
    images, masks = batch()
    windows, labels = changed(None, crop=24)
    assert windows.shape == (6, 1, 24, 24)
    corners = set()
    for image, window in zip(masks, labels, strict=True):
        found = [
            (row, column)
            for row in range(9)
            for column in range(9)
            if torch.equal(image[row : row + 24, column : column + 24], window)
        ]
        assert found
        corners.add(found[0])
    assert len(corners) > 1
    del images


def test_labels_stay_labels_and_images_stay_in_range():
    images, masks = changed(DeviceAugmentConfig(brightness=0.5, noise=0.5))
    assert masks.dtype == torch.int64
    assert set(masks.unique().tolist()) <= {0, 1, 2, 3, 4}
    assert images.min() >= 0
    assert images.max() <= 1


def test_probability_zero_leaves_all_but_flips():
    config = DeviceAugmentConfig(probability=0.0, flips=False)
    torch.testing.assert_close(changed(config)[0], batch()[0], atol=1e-5, rtol=0)
