"""Every training's step, prediction and quality features on a GPU on paper: see `tests.claimed_gpu`.

Nothing is left on the host, no step waits for the GPU, and the kernels of a step have a ceiling. A planted mistake of
each kind is found.
"""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from engine.settings import load_settings
from gan.networks import features
from gan.training import loop as gan_loop
from gan.training import steps as gan_steps
from gan.training.batches import ResidentSlices
from gan.training.config import PRESETS
from imaging.labels import EMIDEC_LABELS
from runtime.report import STEPS_BETWEEN_LOSS_CHECKS
from segmentation.localiser import training as localiser_training
from segmentation.localiser.config import LocaliserConfig
from segmentation.localiser.training import LocaliserData
from segmentation.networks.table import build_network
from segmentation.prediction.segmenter import Segmenter
from segmentation.training import loop as segmenter_loop
from segmentation.training.losses import signed_distances
from tests.claimed_gpu import claimed_compute, claimed_gpu
from tests.segmentation.toy_slices import toy_validation, write_toy_store

PAPER = load_settings("paper")
SMALL = {
    "attention_res_unet": {"widths": (4, 8, 8, 8, 8), "bottleneck": 8},  # as deep as published, sooner drawn
    "halsr_net": {"widths": (4, 8, 8, 8), "bottleneck": 8, "module_width": 4},
}
# Operators that start a kernel in a step after the first, which makes the optimiser's state besides; without Fabric's
# own, the networks' depth decides. A loss or an augmentation that is written in small steps shows here.
CEILINGS = {"attention_res_unet": 860, "halsr_net": 1700, "pix2pix": 1540, "footprint": 420, "regression": 440}


@pytest.fixture
def gpu(monkeypatch):
    with claimed_gpu(monkeypatch) as gpu:
        yield gpu


@pytest.fixture
def compute(gpu, monkeypatch):
    return claimed_compute(monkeypatch)


@pytest.fixture
def segmenter(tmp_path, compute):
    def make(network, **changes):
        config = PAPER.network(network)
        config = config.model_copy(update={"network": config.network.model_copy(update=SMALL[network]), **changes})
        store = write_toy_store(tmp_path / "training.h5", size=128)
        run = segmenter_loop._Training(store, toy_validation(size=128), config, compute, tmp_path, 0)
        run.network.train()
        return run

    return make


@pytest.fixture
def pix2pix(tmp_path, compute):
    def make(config):
        store = write_toy_store(tmp_path / "training.h5", size=128)
        weights = tmp_path / "vgg16.safetensors"
        if config.perceptual_weight:
            save_file({f"features.{name}": value for name, value in features._build().state_dict().items()}, weights)
        players = gan_steps.Players(ResidentSlices.load(store, config, compute, 0), compute, 0, weights)
        painted = gan_loop.PaintedSlices.choose(toy_validation(size=128), config)
        return gan_loop._Training(players, painted, tmp_path)

    return make


@pytest.fixture
def localiser(compute):
    def make(head):
        config = LocaliserConfig(head=head, fov_mm=200)
        maps, labels, footprints = torch.rand(8, 1, 128, 128), torch.rand(8, 1, 128, 128), torch.rand(2, 1, 128, 128)
        points, boxes = torch.rand(2, 8, 2), torch.rand(2, 4)
        data = LocaliserData(maps, labels, torch.arange(8) // 4, footprints, points, boxes).to(compute.device)
        return config, data, localiser_training._start(config, data, compute, 0)

    return make


@pytest.mark.parametrize("network", SMALL)
def test_no_step_of_a_segmenter_waits(network, gpu, segmenter):
    run = segmenter(network)
    run.train_step()
    gpu.start()
    run.train_step()
    assert (gpu.reads, gpu.waits) == ([], [])
    assert len(gpu.kernels) <= CEILINGS[network]


def test_neither_do_muon_the_boundary_loss_and_windows(gpu, segmenter):
    run = segmenter("halsr_net", optimiser="muon", loss="generalised_dice_boundary", crop_px=96, synthetic_weight=0.5)
    gpu.start()
    run.train_step()
    assert (gpu.reads, gpu.waits) == ([], [])


def test_a_round_of_a_segmenter_waits_for_its_losses_and_its_weights_alone(gpu, segmenter):
    run = segmenter("attention_res_unet", validate_every=3)
    gpu.start()
    run.train_round()
    asked = [("isfinite(recent)" in read, "isfinite(tensor)" in read, "means = " in read) for read in gpu.reads]
    assert asked == [(True, False, False), (False, True, False), (False, False, True)]
    run.validate()


def test_the_distance_maps_of_a_batch_are_few_kernels(gpu):
    mask = torch.zeros(32, 128, 128, dtype=torch.long, device="cuda:0")
    gpu.start()
    assert signed_distances(mask, 5).shape == (32, 5, 128, 128)
    assert gpu.reads == []
    assert len(gpu.kernels) <= 100  # some 1,500 where each offset is taken by itself


@pytest.mark.parametrize("preset", {config.model_dump_json(): name for name, config in PRESETS.items()}.values())
def test_no_step_of_a_preset_of_pix2pix_waits(preset, gpu, pix2pix):
    run = pix2pix(PRESETS[preset])
    gpu.start()
    run.take_step(1)
    assert (gpu.reads, gpu.waits) == ([], [])


def test_pix2pix_looks_at_all_its_losses_at_once(gpu, pix2pix):
    run = pix2pix(PRESETS["improved_context"])
    run.take_step(1)
    gpu.start()
    run.take_step(2)
    assert len(gpu.kernels) <= CEILINGS["pix2pix"]
    run.take_step(STEPS_BETWEEN_LOSS_CHECKS)
    assert len(gpu.reads) == 1
    run.validate()


@pytest.mark.parametrize("head", ["footprint", "regression", "soft_argmax"])
def test_the_localiser_waits_where_losses_are_looked_at(head, gpu, localiser, compute):
    config, data, state = localiser(head)
    localiser_training._training_step(state, data, config, compute, 0, 0)
    gpu.start()
    losses = [localiser_training._training_step(state, data, config, compute, 0, 1)]
    localiser_training._check_losses(state, losses, compute, ends_round=False)
    assert (gpu.reads, gpu.waits) == ([], [])
    assert len(gpu.kernels) <= CEILINGS.get(head, CEILINGS["regression"])
    localiser_training._check_losses(state, losses, compute, ends_round=True)
    assert len(gpu.reads) == 1
    localiser_training.validation_iou(state.network, data, compute)


@pytest.mark.parametrize("network", SMALL)
def test_a_prediction_is_read_once_a_batch(network, gpu, compute):
    config = PAPER.network(network).network.model_copy(update=SMALL[network])
    made = build_network(config, 5).to(compute.device).to(memory_format=compute.memory_format).eval()
    images = np.zeros((40, 128, 128), np.float32)  # two batches
    gpu.start()
    assert Segmenter([made], EMIDEC_LABELS, compute).probabilities(images[:2]).shape == (2, 5, 128, 128)
    plain = Segmenter([made], EMIDEC_LABELS, compute, flips=False)
    assert plain.labels(images).shape == images.shape
    assert len(plain.features(images)) == 40
    assert len(gpu.reads) == 1 + 2 + 2


def test_quality_features_are_read_once_a_batch(gpu, compute, tmp_path):
    save_file({f"features.{n}": v for n, v in features._build().state_dict().items()}, tmp_path / "vgg16.safetensors")
    found = features.vgg16_features(tmp_path / "vgg16.safetensors", compute)
    gpu.start()
    assert found(np.zeros((40, 64, 64), np.float32)).shape == (40, 512)
    assert len(gpu.reads) == 2


# PyTorch refuses these where deterministic kernels are asked for: `torch.use_deterministic_algorithms`.
REFUSED = (
    "aten.nll_loss2d_forward.default",
    "aten._adaptive_avg_pool2d_backward.default",
    "aten.adaptive_max_pool2d_backward.default",
    "aten.reflection_pad2d_backward.default",
    "aten.upsample_bilinear2d_backward.default",
    "aten.upsample_bicubic2d_backward.default",
    "aten.grid_sampler_2d_backward.default",
    "aten.put_.default",
    "aten.histc.default",
    "aten.kthvalue.default",
)


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("network", SMALL)
def test_every_kernel_of_a_segmenter_can_be_deterministic(network, gpu, segmenter, deterministic):
    run = segmenter(network)
    gpu.start()
    run.train_step()
    assert sorted(set(gpu.kernels) & set(REFUSED)) == []
    assert gpu.reads == []


@pytest.mark.parametrize("preset", ["improved_context", "improved_no_context"])
def test_every_kernel_of_pix2pix_can_be_deterministic(preset, gpu, pix2pix, deterministic):
    run = pix2pix(PRESETS[preset])
    gpu.start()
    run.take_step(1)
    assert sorted(set(gpu.kernels) & set(REFUSED)) == []


@pytest.mark.parametrize("head", ["footprint", "regression", "soft_argmax"])
def test_every_kernel_of_the_localiser_can_be_deterministic(head, gpu, localiser, compute, deterministic):
    config, data, state = localiser(head)
    gpu.start()
    localiser_training._training_step(state, data, config, compute, 0, 0)
    assert sorted(set(gpu.kernels) & set(REFUSED)) == []


def test_the_usual_loss_has_a_kernel_that_is_refused(gpu, segmenter):
    run = segmenter("halsr_net", loss="cross_entropy_dice")
    gpu.start()
    run.train_step()
    assert {"aten.nll_loss2d_forward.default", "aten.adaptive_max_pool2d_backward.default"} <= set(gpu.kernels)


# Planted mistakes


def test_a_tensor_left_on_the_host_is_found(gpu, segmenter):
    run = segmenter("attention_res_unet", class_weights="source")
    run.class_weights = run.class_weights.cpu()
    with pytest.raises(AssertionError, match=r"a tensor \(5,\) was left on the host"):
        run.train_step()


def test_a_value_read_back_and_a_copy_that_waits_are_found(gpu, segmenter, monkeypatch):
    run = segmenter("attention_res_unet")
    descend = segmenter_loop.segmentation_loss

    def curious(*given):
        loss, parts = descend(*given)
        torch.tensor([float(loss.detach())], device="cuda:0")
        return loss, parts

    monkeypatch.setattr(segmenter_loop, "segmentation_loss", curious)
    gpu.start()
    run.train_step()
    assert [read.partition(" ")[0] for read in gpu.reads] == ["aten._local_scalar_dense.default"]
    assert "float(loss.detach())" in gpu.reads[0]
    assert len(gpu.waits) == 1


def test_a_look_at_which_elements_are_meant_is_a_read(gpu):
    values = torch.zeros(4, device="cuda:0")
    gpu.start()
    assert values[values > 0].shape == (4,)
    torch.linalg.solve(torch.zeros(2, 3, 3, device="cuda:0"), torch.zeros(2, 3, 1, device="cuda:0"))
    assert len(gpu.reads) == 2
