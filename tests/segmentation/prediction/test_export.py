from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import InputError
from runtime.compute import choose_compute
from runtime.model_card import ModelCard
from runtime.model_folder import write_model_folder
from segmentation.networks.table import build_network
from segmentation.prediction import export
from segmentation.prediction.export import EXPORT_FORMATS, OPSET, export_model, largest_difference
from segmentation.prediction.segmenter import load_segmenter
from segmentation.training.config import TrainConfig
from tests.segmentation.toy_slices import draw_slices

NETWORKS = {
    "attention_res_unet": {"widths": (4, 8), "bottleneck": 8},
    "halsr_net": {
        "name": "halsr_net",
        "widths": (4, 8),
        "bottleneck": 8,
        "module_width": 4,
        "dropout": (0.1, 0.1, 0.5),
    },
}
IMAGES = draw_slices(3, 32)[0]


def write_model(folder, network="attention_res_unet"):
    config = TrainConfig.model_validate({"network": NETWORKS[network]})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = build_network(config.network, 5).state_dict()
    write_model_folder(folder, weights, config, ModelCard(label_set="emidec", input_size=[32, 32]))
    return folder


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("format_", EXPORT_FORMATS)
def test_a_file_gives_the_segmenter_s_probabilities_for_any_number_of_slices(tmp_path, network, format_):
    folder = write_model(tmp_path / "model", network)
    done = export_model(folder, tmp_path / f"file{EXPORT_FORMATS[format_].suffix}", format_)
    assert done.difference < 1e-5
    assert done.opset == (OPSET if format_ == "onnx" else None)
    run = EXPORT_FORMATS[format_].open(done.path)
    expected = load_segmenter(folder, choose_compute("cpu", "fp32"), flips=False).probabilities(IMAGES)
    for count in (1, 3):
        np.testing.assert_allclose(run(IMAGES[:count, None]), expected[:count], atol=1e-5)


def test_the_opset_stated_is_the_file_s_and_only_slices_are_free(tmp_path):
    import onnx

    done = export_model(write_model(tmp_path / "model"), tmp_path / "file.onnx", "onnx")
    model = onnx.load(done.path)
    onnx.checker.check_model(model, full_check=True)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", OPSET)]
    (images,) = model.graph.input
    assert images.name == "images"
    sides = [side.dim_param or side.dim_value for side in images.type.tensor_type.shape.dim]
    assert sides == ["slices", 1, 32, 32]


def test_a_file_that_differs_from_pytorch_is_refused_and_not_left_behind(tmp_path, monkeypatch):
    def twisted(module, example, path):
        export.write_torch_export(nn.Sequential(module, nn.Hardtanh(0.0, 0.2)), example, path)

    table = {"torch_export": replace(EXPORT_FORMATS["torch_export"], write=twisted)}
    monkeypatch.setattr(export, "EXPORT_FORMATS", table)
    with pytest.raises(InputError, match=r"file.pt2: its probabilities differ from PyTorch's by up to .* nothing was"):
        export_model(write_model(tmp_path / "model"), tmp_path / "file.pt2", "torch_export")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_difference_that_is_no_number_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "largest_difference", lambda *_: float("nan"))
    with pytest.raises(InputError, match="by up to nan"):
        export_model(write_model(tmp_path / "model"), tmp_path / "file.pt2", "torch_export")


def test_the_difference_is_that_of_the_worst_pixel():
    class Constant(nn.Module):
        def forward(self, images):
            return torch.zeros_like(images)

    def one_pixel_off(images):
        wrong = np.zeros_like(images)
        wrong[-1, 0, 0, 0] = 0.25
        return wrong

    assert largest_difference(Constant(), one_pixel_off, (4, 4)) == 0.25


def test_onnx_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(InputError, match=r"ONNX needs onnxscript; install it with `pip install 'scarforge\[export\]'`"):
        export_model(write_model(tmp_path / "model"), tmp_path / "file.onnx", "onnx")
