"""Every training's step, prediction and quality features on a GPU on paper: see `tests.claimed_gpu`."""

import pytest
import torch

from engine.settings import load_settings
from segmentation.training.loop import _Training
from tests.claimed_gpu import claimed_compute, claimed_gpu
from tests.segmentation.toy_slices import toy_validation, write_toy_store


@pytest.mark.parametrize("network", ["attention_res_unet", "halsr_net"])
def test_a_segmenter(network, tmp_path, monkeypatch):
    config = load_settings("paper").network(network).model_copy(update={"validate_every": 3})
    store = write_toy_store(tmp_path / "t.h5", size=128)
    with claimed_gpu(monkeypatch) as gpu:
        compute = claimed_compute(monkeypatch)
        run = _Training(store, toy_validation(size=128), config, compute, tmp_path, 0)
        run.network.train()
        run.train_step()
        gpu.start()
        run.train_step()
    print(network, gpu.reads, gpu.waits, len(gpu.kernels))
    from collections import Counter
    print(Counter(gpu.kernels).most_common(12))


import gan.training.batches as gb
from gan.training.config import PRESETS
from gan.training.steps import Players

@pytest.mark.parametrize("preset", [*PRESETS])
def test_pix2pix(preset, tmp_path, monkeypatch):
    store = write_toy_store(tmp_path / "t.h5", size=128)
    w = None
    if PRESETS[preset].perceptual_weight:
        from gan.networks.features import _build
        from safetensors.torch import save_file
        w = tmp_path / "vgg.safetensors"
        save_file({f"features.{n}": v for n, v in _build().state_dict().items()}, w)
    with claimed_gpu(monkeypatch) as gpu:
        compute = claimed_compute(monkeypatch)
        slices = gb.ResidentSlices.load(store, PRESETS[preset], compute, 0)
        players = Players(slices, compute, 0, w)
        players.take_step(1)
        gpu.start()
        losses = players.take_step(2)
    print(preset, len(losses), gpu.reads, gpu.waits, len(gpu.kernels))
    from collections import Counter
    print(Counter(gpu.kernels).most_common(12))

from segmentation.localiser.training import _start, _training_step
from segmentation.localiser.config import LocaliserConfig
from segmentation.localiser.batches import LocaliserData
@pytest.mark.parametrize("head", ["footprint", "regression", "soft_argmax"])
def test_localiser(head, tmp_path, monkeypatch):
    config = LocaliserConfig(head=head, fov_mm=200)
    r = torch.rand
    with claimed_gpu(monkeypatch) as gpu:
        compute = claimed_compute(monkeypatch)
        data = LocaliserData(r(8,1,128,128), r(8,1,128,128), torch.arange(8)//4, r(2,1,128,128), r(2,8,2), r(2,4)).to(compute.device)
        state = _start(config, data, compute, 0)
        _training_step(state, data, config, compute, 0, 0)
        gpu.start()
        _training_step(state, data, config, compute, 0, 1)
    print(head, gpu.reads, gpu.waits, len(gpu.kernels))
