import pytest
import torch
from safetensors.torch import save_file

from common.errors import InputError
from gan.networks.discriminator import TissueReader, reading_loss
from gan.networks.features import _build
from gan.training.batches import windows_around
from gan.training.config import Pix2PixConfig
from gan.training.losses import PerceptualLoss
from gan.training.steps import Objective


@pytest.fixture(scope="session")
def vgg16(tmp_path_factory):
    """A file of VGG16's shape with random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vgg16") / "vgg16.safetensors"
    save_file({f"features.{name}": tensor for name, tensor in _build().state_dict().items()}, path)
    return path


def image(seed, size=32):
    return torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_equal_images_are_not_apart_and_the_distance_grows(vgg16):
    loss, real, other = PerceptualLoss(vgg16), image(0), image(1)
    distances = [float(loss(real + share * (other - real), real)) for share in (0, 0.2, 0.6, 1)]
    assert distances[0] == 0
    assert distances == sorted(distances)


def test_blur_is_dearer_than_an_equal_error_of_brightness(vgg16):
    real = image(0)
    blurred = torch.nn.functional.avg_pool2d(real, 3, stride=1, padding=1)
    brighter = real + (blurred - real).square().mean().sqrt()
    loss = PerceptualLoss(vgg16)
    assert loss(blurred, real) > 1.2 * loss(brighter, real)


def test_the_gradient_reaches_the_drawing_and_not_the_features(vgg16):
    loss, drawn = PerceptualLoss(vgg16), image(0).requires_grad_(True)
    loss(drawn, image(1)).backward()
    assert drawn.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in loss.parameters())


def test_missing_weights_are_named_before_training(compute):
    config = Pix2PixConfig(perceptual_weight=5.0)
    with pytest.raises(InputError, match=r"perceptual_weight=5 needs VGG16's weights and none are given; name"):
        Objective.build(config, torch.ones(5), compute, None)


def test_windows_are_centred_on_the_hole_and_stay_inside():
    holes = torch.zeros(3, 1, 32, 32)
    holes[0, :, 10:14, 20:24] = 1
    holes[1, :, :4, 28:] = 1
    windows = windows_around(holes, 16)
    assert (windows.tops.tolist(), windows.lefts.tolist()) == ([4, 0, 8], [14, 16, 8])  # the third has no hole
    assert windows.cut(holes).sum() == holes.sum()
    assert windows_around(holes, 64).cut(holes).shape == holes.shape


def test_reading_the_right_tissue_costs_less():
    masks = torch.zeros(1, 8, 8, dtype=torch.long)
    masks[:, 2:5, 2:5] = 3
    right = 4.0 * torch.nn.functional.one_hot(masks, 5).permute(0, 3, 1, 2)
    weights = torch.tensor([1.0, 2, 3, 5, 8])
    assert reading_loss(right, masks, weights) < reading_loss(right.roll(1, dims=1), masks, weights)
    assert TissueReader(5)(torch.zeros(2, 1, 16, 16)).shape == (2, 5, 16, 16)
