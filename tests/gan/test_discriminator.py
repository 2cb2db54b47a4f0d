import pytest
import torch

from gan.conditioning import discriminator_channels
from gan.config import PRESETS
from gan.discriminator import Discriminator
from imaging.labels import EMIDEC_LABELS


@pytest.mark.parametrize("name", PRESETS)
def test_logits_of_a_128_region_are_30_by_30(name):
    config = PRESETS[name]
    channels = discriminator_channels(config, EMIDEC_LABELS)
    with torch.device("meta"):
        discriminator = Discriminator(channels, config)
        logits = discriminator(torch.empty(2, channels - 1, 128, 128), torch.empty(2, 1, 128, 128))
    assert logits.shape == (2, 1, 30, 30)


def test_a_logit_sees_its_patch_only():
    config = PRESETS["published"].model_copy(update={"discriminator_widths": (4, 4, 4), "spectral_norm": True})
    torch.manual_seed(0)
    discriminator = Discriminator(2, config).eval()
    given, image = torch.zeros(1, 1, 128, 128), torch.zeros(1, 1, 128, 128)
    touched = image.clone()
    touched[..., :8, :8] = 1
    changed = (discriminator(given, touched) - discriminator(given, image)).abs() > 1e-7
    assert changed[..., :4, :4].any()
    assert not changed[..., 10:, :].any()


@torch.no_grad()
def test_spectral_norm_bounds_every_layer_by_one(tiny_config):
    torch.manual_seed(0)
    discriminator = Discriminator(3, tiny_config).train()
    given, image = torch.randn(2, 2, 32, 32), torch.randn(2, 1, 32, 32)
    for _ in range(100):  # each call in training mode refines the estimate of the slope
        discriminator(given, image)
    weights = [layer.weight for layer in discriminator.layers if hasattr(layer, "weight")]
    slopes = [float(torch.linalg.matrix_norm(weight.flatten(1), ord=2)) for weight in weights]
    assert len(slopes) == 3
    assert slopes == pytest.approx([1.0] * 3, abs=0.02)
