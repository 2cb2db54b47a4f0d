import pytest
import torch

from gan.generation.synthesiser import discriminator_channels
from gan.networks.discriminator import Discriminator
from gan.training.config import PRESETS
from imaging.labels import EMIDEC_LABELS


def logits_of(config, size=128):
    channels = discriminator_channels(config, EMIDEC_LABELS)
    with torch.device("meta"):
        discriminator = Discriminator(channels, config)
        return discriminator(torch.empty(2, channels - 1, size, size), torch.empty(2, 1, size, size))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_judges_patches_and_the_published_ones_30_by_30(name):
    logits = logits_of(PRESETS[name])
    side = 14 if len(PRESETS[name].discriminator_widths) == 4 else 30
    assert logits[0].shape == (2, 1, side, side)
    assert len(logits) == 1 + bool(PRESETS[name].fine_discriminator_widths)


@pytest.mark.parametrize(("widths", "reach_px"), [((4, 4, 4), 34), ((4, 4), 16)])
def test_a_logit_sees_its_patch_only(widths, reach_px):
    config = PRESETS["published"].model_copy(update={"discriminator_widths": widths, "spectral_norm": True})
    torch.manual_seed(0)
    discriminator = Discriminator(2, config).eval()
    given, image = torch.zeros(1, 1, 128, 128), torch.zeros(1, 1, 128, 128)
    image.requires_grad_(True)
    middle = discriminator(given, image)[0]
    middle[0, 0, middle.shape[2] // 2, middle.shape[3] // 2].backward()
    seen = image.grad[0, 0].abs().sum(dim=1) > 0
    assert int(seen.sum()) == reach_px


def test_the_fine_scale_has_a_map_of_its_own(tiny_config):
    logits = logits_of(tiny_config.model_copy(update={"fine_discriminator_widths": (8, 8)}), size=32)
    assert len(logits) == 2


def test_without_the_mask_only_the_image_is_judged():
    assert discriminator_channels(PRESETS["trial_6"], EMIDEC_LABELS) == 1
    assert discriminator_channels(PRESETS["trial_10"], EMIDEC_LABELS) == 2


@torch.no_grad()
def test_spectral_norm_bounds_every_layer_by_one(tiny_config):
    torch.manual_seed(0)
    discriminator = Discriminator(3, tiny_config).train()
    given, image = torch.randn(2, 2, 32, 32), torch.randn(2, 1, 32, 32)
    for _ in range(100):  # each call in training mode refines the estimate of the slope
        discriminator(given, image)
    weights = [layer.weight for layer in discriminator.scales[0] if hasattr(layer, "weight")]
    slopes = [float(torch.linalg.matrix_norm(weight.flatten(1), ord=2)) for weight in weights]
    assert len(slopes) == 3
    assert slopes == pytest.approx([1.0] * 3, abs=0.02)
