import numpy as np
import pytest
import torch

from gan.generation.synthesiser import (
    build_condition,
    continue_inwards,
    encode_labels,
    noise_planes,
    soft_share,
    to_gan_range,
    to_slice_range,
)
from gan.training.config import PRESETS
from imaging.labels import EMIDEC_LABELS


@pytest.fixture
def square_hole() -> torch.Tensor:
    hole = torch.zeros(1, 1, 16, 16)
    hole[..., 4:12, 4:12] = 1
    return hole


@pytest.fixture
def condition(tiny_config, square_hole):
    images = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    masks = torch.zeros(1, 16, 16, dtype=torch.uint8)
    masks[:, 6:10, 6:10] = 4
    return build_condition(tiny_config, EMIDEC_LABELS, masks, images, square_hole, torch.zeros(1, 1, 16, 16)), images


def test_one_hot_labels_have_one_channel_a_tissue(tiny_config):
    masks = torch.tensor([[[0, 4], [2, 1]]], dtype=torch.uint8)
    encoded = encode_labels(tiny_config, EMIDEC_LABELS, masks)
    assert encoded.shape == (1, 5, 2, 2)
    assert torch.equal(encoded.argmax(dim=1), masks.long())
    assert torch.equal(encoded.sum(dim=1), torch.ones(1, 2, 2))


def test_published_labels_are_one_channel_of_values():
    masks = torch.tensor([[[0, 4], [2, 1]]], dtype=torch.uint8)
    encoded = encode_labels(PRESETS["published"], EMIDEC_LABELS, masks)
    assert torch.equal(encoded, masks.unsqueeze(1).float())


def test_nothing_of_the_ventricle_reaches_the_generator(condition, square_hole):
    given, images = condition
    assert given.context is not None
    assert (given.context[square_hole > 0] == 0).all()
    assert torch.equal(given.context[square_hole == 0], images[square_hole == 0])


def test_outside_the_hole_the_slice_stays_and_its_middle_is_the_drawing(condition, square_hole):
    given, images = condition
    drawn = torch.full_like(images, 0.3)
    placed = given.place(drawn, seam_px=2)
    assert torch.equal(placed[square_hole == 0], images[square_hole == 0])
    assert torch.equal(placed[..., 6:10, 6:10], drawn[..., 6:10, 6:10])


def test_without_context_the_drawing_is_the_image():
    config = PRESETS["published"]
    empty = torch.zeros(1, 1, 4, 4)
    masks = torch.zeros(1, 4, 4, dtype=torch.uint8)
    given = build_condition(config, EMIDEC_LABELS, masks, empty, empty, torch.zeros(1, 0, 4, 4))
    drawn = torch.rand(1, 1, 4, 4)
    assert given.for_generator().shape == (1, 1, 4, 4)
    assert torch.equal(given.place(drawn, seam_px=2), drawn)


def test_the_seam_rises_from_the_rim_inwards(square_hole):
    share = soft_share(square_hole, seam_px=2)[0, 0, 8, 3:8]
    assert share.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])


def test_a_flat_context_continues_flat(square_hole):
    context = 0.4 * (1 - square_hole)
    filled = continue_inwards(context, square_hole, seam_px=2)
    assert filled[0, 0, 8, :6].tolist() == pytest.approx([0.4] * 6)
    assert filled[0, 0, 8, 8] == 0  # beyond the seam nothing is known


def test_an_equal_drawing_leaves_no_visible_seam(square_hole):
    context = 0.4 * (1 - square_hole)
    given = build_condition(
        PRESETS["context"],
        EMIDEC_LABELS,
        torch.zeros(1, 16, 16, dtype=torch.uint8),
        context,
        square_hole,
        torch.zeros(1, 1, 16, 16),
    )
    placed = given.place(torch.full_like(context, 0.4), seam_px=2)
    assert torch.allclose(placed, torch.full_like(placed, 0.4))


def test_ranges_convert_and_come_back():
    images = torch.from_numpy(np.linspace(0, 1, 11, dtype=np.float32))
    assert to_gan_range(images).min() == -1
    assert to_gan_range(images).max() == 1
    assert torch.allclose(to_slice_range(to_gan_range(images)), images, atol=1e-7)
    assert to_slice_range(torch.tensor([-1.5, 1.5])).tolist() == [0, 1]


def test_noise_on_the_background_leaves_the_ventricle_and_the_discriminator_alone():
    config = PRESETS["trial_5"]
    masks = torch.tensor([[[0, 4], [2, 0]]], dtype=torch.uint8)
    empty = torch.zeros(1, 1, 2, 2)
    noise = torch.ones(1, noise_planes(config), 2, 2)
    given = build_condition(config, EMIDEC_LABELS, masks, empty, empty, noise)
    expected = torch.tensor([[config.background_noise, 4], [2, config.background_noise]])
    assert torch.equal(given.for_generator()[0, 0], expected)
    assert torch.equal(given.for_discriminator()[0, 0], masks[0].float())


def test_a_discriminator_without_the_mask_is_given_nothing_but_the_hole(tiny_config, square_hole):
    masks = torch.zeros(1, 16, 16, dtype=torch.uint8)
    for context, channels in ((False, 0), (True, 1)):
        config = tiny_config.model_copy(update={"discriminator_sees_mask": False, "context": context})
        given = build_condition(config, EMIDEC_LABELS, masks, square_hole, square_hole, torch.zeros(1, 1, 16, 16))
        assert given.for_discriminator().shape == (1, channels, 16, 16)
