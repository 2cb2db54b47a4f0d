import json

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import InputError
from imaging.labels import EMIDEC_LABELS
from runtime.compute import choose_compute
from runtime.model_card import ModelCard
from runtime.model_folder import write_model_folder
from segmentation.networks.blocks import SegmentationOutput
from segmentation.networks.table import build_network
from segmentation.prediction.segmenter import Segmenter, load_ensemble, load_exportable, load_segmenter
from segmentation.training.config import NetworkConfig, TrainConfig
from tests.segmentation.toy_slices import draw_slices

CONFIG = TrainConfig.model_validate({"network": {"widths": (4, 8, 8, 8, 8), "bottleneck": 8}})
SIZES = {
    "attention_res_unet": {"widths": (4, 8, 8, 8, 8), "bottleneck": 8},
    "halsr_net": {"name": "halsr_net", "widths": (4, 8, 8, 8), "bottleneck": 8, "module_width": 4},
}
IMAGES = draw_slices(5, 32)[0]


class OneConvolution(nn.Module):
    """The smallest stand-in for a network: not symmetrical under flips."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 5, 3, padding=1)
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            parameter.data.normal_(generator=generator)

    def forward(self, x):
        return SegmentationOutput(self.convolution(x), None)

    def encode(self, x):
        return self.convolution(x).mean(dim=(2, 3))


@pytest.fixture(scope="module")
def compute():
    return choose_compute("cpu", "fp32")


def write_model(folder, seed, label_set="emidec"):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_network(CONFIG.network, 5)
    write_model_folder(folder, network.state_dict(), CONFIG, ModelCard(label_set=label_set))
    return folder


def test_probabilities_sum_to_one_and_labels_are_their_maximum(compute):
    segmenter = Segmenter([OneConvolution(0)], EMIDEC_LABELS, compute)
    probabilities = segmenter.probabilities(IMAGES)
    assert probabilities.shape == (5, 5, 32, 32)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    labels = segmenter.labels(IMAGES)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, probabilities.argmax(axis=1))


def test_flips_make_the_prediction_symmetrical(compute):
    with_flips = Segmenter([OneConvolution(0)], EMIDEC_LABELS, compute, flips=True)
    without = Segmenter([OneConvolution(0)], EMIDEC_LABELS, compute, flips=False)
    for axis in (1, 2):
        mirrored = np.flip(IMAGES, axis)
        back = np.flip(with_flips.probabilities(mirrored), axis + 1)
        np.testing.assert_allclose(back, with_flips.probabilities(IMAGES), atol=1e-6)
    back = np.flip(without.probabilities(np.flip(IMAGES, 1)), 2)
    assert not np.allclose(back, without.probabilities(IMAGES), atol=1e-3)


def test_an_ensemble_is_the_mean_of_its_members(compute):
    one, two = OneConvolution(0), OneConvolution(1)
    both = Segmenter([one, two], EMIDEC_LABELS, compute).probabilities(IMAGES)
    singles = [Segmenter([network], EMIDEC_LABELS, compute).probabilities(IMAGES) for network in (one, two)]
    np.testing.assert_allclose(both, np.mean(singles, axis=0), atol=1e-6)


def test_a_batch_equals_its_singles_and_may_be_empty(tmp_path, compute):
    segmenter = load_segmenter(write_model(tmp_path / "m", 0), compute)
    many = np.concatenate([IMAGES] * 8)  # more than one batch
    whole = segmenter.probabilities(many)
    single = segmenter.probabilities(many[37:38])
    np.testing.assert_allclose(whole[37:38], single, atol=1e-5)
    assert segmenter.probabilities(IMAGES[:0]).shape == (0, 5, 32, 32)
    assert segmenter.labels(IMAGES[:0]).shape == (0, 32, 32)


def test_features_are_one_row_a_slice(tmp_path, compute):
    features = load_segmenter(write_model(tmp_path / "m", 0), compute).features(IMAGES)
    assert features.shape == (5, 8)
    assert features.dtype == np.float32


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("name", ["attention_res_unet", "halsr_net"])
def test_one_pass_gives_the_bits_of_two(name, flips, precision):
    passes = []
    network = build_network(NetworkConfig.model_validate(SIZES[name]), 5).eval()
    network.bottleneck.register_forward_hook(lambda *_: passes.append(1))
    many = np.concatenate([IMAGES] * 8)  # more than one batch
    segmenter = Segmenter([network], EMIDEC_LABELS, choose_compute("cpu", precision), flips)
    probabilities, features = segmenter.probabilities_and_features(many)
    taken = len(passes)
    np.testing.assert_array_equal(probabilities, segmenter.probabilities(many))
    assert len(passes) == 2 * taken
    np.testing.assert_array_equal(features, segmenter.features(many))


def test_features_of_several_networks_are_not_mixed(compute):
    both = Segmenter([OneConvolution(0), OneConvolution(1)], EMIDEC_LABELS, compute)
    with pytest.raises(InputError, match="features are one network's, 2 were given"):
        both.probabilities_and_features(IMAGES)


def test_bf16_is_close_to_fp32(tmp_path, compute):
    folder = write_model(tmp_path / "m", 0)
    rough = load_segmenter(folder, choose_compute("cpu", "bf16")).probabilities(IMAGES)
    np.testing.assert_allclose(rough, load_segmenter(folder, compute).probabilities(IMAGES), atol=0.05)


def test_loaded_ensembles_average_their_folders(tmp_path, compute):
    folders = [write_model(tmp_path / str(seed), seed) for seed in range(2)]
    both = load_ensemble(folders, compute).probabilities(IMAGES)
    singles = [load_segmenter(folder, compute).probabilities(IMAGES) for folder in folders]
    np.testing.assert_allclose(both, np.mean(singles, axis=0), atol=1e-5)


def test_models_of_different_label_sets_are_not_averaged(tmp_path, compute):
    folders = [write_model(tmp_path / name, 0, name) for name in ("emidec", "cine")]
    with pytest.raises(InputError, match="different label sets"):
        load_ensemble(folders, compute)
    with pytest.raises(InputError, match="at least one model"):
        load_ensemble([], compute)


def test_damaged_model_folders_say_what_to_do(tmp_path, compute):
    with pytest.raises(InputError, match="rematerialise the model asset"):
        load_segmenter(tmp_path / "nothing", compute)
    folder = write_model(tmp_path / "m", 0)
    (folder / "weights.safetensors").write_bytes((folder / "weights.safetensors").read_bytes()[:200])
    with pytest.raises(InputError, match=r"weights.safetensors.*rematerialise"):
        load_segmenter(folder, compute)
    folder = write_model(tmp_path / "n", 0)
    config = json.loads((folder / "config.json").read_text())
    config["network"]["bottleneck"] = 16
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"weights do not fit its config.json"):
        load_segmenter(folder, compute)
    with pytest.raises(InputError, match="label set 'faces' is not one of"):
        load_segmenter(write_model(tmp_path / "o", 0, "faces"), compute)


def test_images_of_another_rank_are_refused(compute):
    segmenter = Segmenter([OneConvolution(0)], EMIDEC_LABELS, compute)
    with pytest.raises(InputError, match=r"pass \(slices, rows, columns\)"):
        segmenter.labels(IMAGES[0])


def test_the_exportable_module_gives_the_segmenter_s_probabilities(tmp_path, compute):
    folder = write_model(tmp_path / "m", 0)
    module = load_exportable(folder)
    images = torch.from_numpy(IMAGES).unsqueeze(1)
    exported = torch.export.export(module, (images,), dynamic_shapes=({0: torch.export.Dim("slices")},))
    expected = load_segmenter(folder, compute, flips=False).probabilities(IMAGES)
    np.testing.assert_allclose(exported.module()(images[:3]).detach().numpy(), expected[:3], atol=1e-5)


def test_stage_statistics_see_grain_that_leaves_every_mean_alone(compute):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(CONFIG.network).eval()
    segmenter = Segmenter([network], EMIDEC_LABELS, compute)
    smooth = np.full((1, 32, 32), 0.5, np.float32)
    grain = smooth + 0.2 * (np.indices((32, 32)).sum(axis=0) % 2 - 0.5)[None].astype(np.float32)
    first, second = segmenter.stage_statistics(smooth), segmenter.stage_statistics(grain)
    assert first.shape == (1, 2 * sum(CONFIG.network.widths))
    spread = slice(4, 8)  # of the first stage
    assert second[0, spread].sum() > first[0, spread].sum()


def test_stage_statistics_of_another_network_are_refused(compute):
    with pytest.raises(InputError, match="stage statistics are those of AttentionResUNet, not of OneConvolution"):
        Segmenter([OneConvolution(0)], EMIDEC_LABELS, compute).stage_statistics(IMAGES)
