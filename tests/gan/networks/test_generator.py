import copy

import pytest
import torch
from torch import nn

from common.errors import InputError
from gan.generation.synthesiser import discriminator_channels, generator_channels
from gan.networks.discriminator import Discriminator
from gan.networks.generator import Generator, normalisation, smooth_noise, together, upsampling
from gan.training.config import PRESETS, Pix2PixConfig
from imaging.labels import EMIDEC_LABELS


def test_published_generator_has_29_2_million_parameters():
    config = PRESETS["published"]
    channels = generator_channels(config, EMIDEC_LABELS)
    with torch.device("meta"):
        generator = Generator(channels, config)
    assert channels == 1
    parameters = sum(parameter.numel() for parameter in generator.parameters())
    assert round(parameters / 1e6, 1) == 29.2


@pytest.mark.parametrize("name", PRESETS)
def test_presets_draw_one_channel_within_minus_one_and_one(name):
    config = PRESETS[name]
    channels = generator_channels(config, EMIDEC_LABELS)
    with torch.device("meta"):
        drawn = Generator(channels, config)(torch.empty(2, channels, 128, 128))
    assert drawn.shape == (2, 1, 128, 128)


@pytest.mark.parametrize("kind", ["transposed", "resize"])
def test_output_is_within_range_and_reacts_to_the_labels(tiny_config, kind):
    torch.manual_seed(0)
    generator = Generator(5, tiny_config.model_copy(update={"upsampling": kind})).eval()
    labels = torch.zeros(1, 5, 32, 32)
    labels[:, 0] = 1
    other = labels.roll(1, dims=1)
    drawn = generator(labels)
    assert drawn.abs().max() <= 1
    assert not torch.allclose(drawn, generator(other))


def test_a_sigmoid_is_spread_over_the_same_range(tiny_config):
    torch.manual_seed(0)
    generator = Generator(5, tiny_config.model_copy(update={"output": "sigmoid"})).eval()
    condition = torch.randn(1, 5, 32, 32)
    steep = Generator(5, tiny_config).eval()
    steep.load_state_dict(generator.state_dict())
    sigmoid = torch.sigmoid(2 * torch.atanh(steep(condition)) / 2)  # of the same activations
    assert torch.allclose(generator(condition), 2 * sigmoid - 1, atol=1e-5)


def test_seven_stages_need_no_deviation_of_one_pixel():
    config = PRESETS["trial_1"].model_copy(update={"widths": (4,) * 7})
    drawn = Generator(1, config).train()(torch.randn(1, 1, 128, 128))
    assert torch.isfinite(drawn).all()


def test_decoder_noise_reaches_the_drawing_at_every_stage(tiny_config):
    torch.manual_seed(0)
    config = tiny_config.model_copy(update={"decoder_noise": True, "full_resolution_width": 0})
    generator = Generator(8, config).eval()
    condition = torch.randn(1, 8, 32, 32)
    drawn = generator(condition)
    for stage in range(len(generator.noise_strength)):
        silent = copy.deepcopy(generator)
        with torch.no_grad():
            silent.noise_strength[stage].zero_()
        assert not torch.allclose(drawn, silent(condition))


def test_labels_come_again_as_shares_of_each_pixel(tiny_config):
    generator = Generator(8, tiny_config.model_copy(update={"decoder_labels": True}))
    condition = torch.zeros(1, 8, 32, 32)
    condition[:, 3, :4, :6] = 1
    again = generator._labels_again(condition, torch.empty(1, 16, 8, 8))[0]
    assert again.shape == (1, 5, 8, 8)
    assert again[0, 3, 0].tolist() == [1, 0.5, 0, 0, 0, 0, 0, 0]


def test_upsampling_of_a_flat_map_shows_no_grid():
    torch.manual_seed(0)
    raised = upsampling(4, 3, "resize")(torch.ones(1, 4, 8, 8))
    inside = raised[..., 2:-2, 2:-2]  # borders see the padding
    assert raised.shape == (1, 3, 16, 16)
    assert torch.allclose(inside, inside[..., :1, :1].expand_as(inside), atol=1e-6)


def test_instance_normalisation_is_batch_normalisation_at_a_batch_of_one():
    values = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(normalisation(4, "instance")(values), nn.BatchNorm2d(4)(values), atol=1e-6)


def test_a_size_that_cannot_be_halved_is_refused(tiny_config):
    with pytest.raises(InputError, match="30 x 32 pixels cannot be halved 3 times; use a region"):
        Generator(5, tiny_config)(torch.zeros(1, 5, 30, 32))


def test_networks_take_what_the_condition_gives(tiny_config):
    assert generator_channels(tiny_config, EMIDEC_LABELS) == 5 + 2 + 1
    assert discriminator_channels(tiny_config, EMIDEC_LABELS) == 5 + 1 + 1
    Discriminator(7, tiny_config)(torch.zeros(1, 6, 32, 32), torch.zeros(1, 1, 32, 32))


def test_grain_is_another_for_other_noise_and_bounded(tiny_config):
    generator = Generator(6, tiny_config.model_copy(update={"grain_px": (0.0, 1.0)})).eval()
    labels = torch.randn(1, 6, 32, 32, generator=torch.Generator().manual_seed(0))
    other = labels.clone()
    other[:, -1] = torch.randn(32, 32, generator=torch.Generator().manual_seed(1))
    assert generator(labels).shape == (1, 1, 32, 32)
    assert generator(labels).abs().max() <= 1
    assert not torch.allclose(generator(labels), generator(other), atol=1e-3)
    parts = generator(labels, apart=True)
    assert torch.equal(together(parts), generator(labels))


@pytest.mark.parametrize("sigma", [0.0, 0.7, 1.5])
def test_smoothed_noise_keeps_its_deviation(sigma):
    noise = torch.randn(4, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    assert float(smooth_noise(noise, sigma).std()) == pytest.approx(1, abs=0.05)


def test_grain_without_noise_is_refused():
    with pytest.raises(ValueError, match="grain_px needs noise_channels"):
        Pix2PixConfig(grain_px=(1.0,), noise_channels=0)


def test_a_generator_with_grain_can_be_exported(tiny_config):
    generator = Generator(6, tiny_config.model_copy(update={"grain_px": (0.0, 1.0)})).eval()
    condition = torch.randn(2, 6, 32, 32, generator=torch.Generator().manual_seed(0))
    exported = torch.export.export(generator, (condition,)).module()
    assert torch.allclose(exported(condition), generator(condition), atol=1e-5)
