"""`scarforge export` from a workspace to files, with untrained networks."""

import json

import numpy as np
import pytest

from common.errors import InputError
from imaging.slices.regions import RegionConfig
from pipeline.commands.export import export
from runtime.model_card import ModelCard
from runtime.model_folder import write_model_folder
from segmentation.networks.table import build_network
from segmentation.prediction.export import EXPORT_FORMATS
from segmentation.training.config import TrainConfig
from tests.pipeline import toy_models
from tests.pipeline.sealed import seal

MODEL = "emidec/tiny/attention_res_unet/real_only"
CONFIG = TrainConfig.model_validate({"network": {"widths": (4,), "bottleneck": 4}})


def write_member(home, fold, seed, **card):
    folder = home / "emidec" / "tiny" / "attention_res_unet_real_only" / f"fold_{fold}" / f"seed_{seed}"
    weights = build_network(CONFIG.network, 5).state_dict()
    card = {"label_set": "emidec", "input_size": [16, 16], "spacing_mm": 1.0, "intended_use": "Research."} | card
    write_model_folder(folder, weights, CONFIG, ModelCard(**card))
    return seal(folder, "attention_res_unet_real_only")


def test_every_network_of_a_model_becomes_a_file_beside_its_description(tmp_path):
    write_member(tmp_path, 0, 0, region=RegionConfig(size_px=16).model_dump(mode="json"))
    write_member(tmp_path, 1, 0)
    paths = export(tmp_path, MODEL, "torch_export", tmp_path / "out")
    assert [path.name for path in paths] == ["fold_0_seed_0.pt2", "fold_1_seed_0.pt2"]
    probabilities = EXPORT_FORMATS["torch_export"].open(paths[1])(np.zeros((3, 1, 16, 16), np.float32))
    assert probabilities.shape == (3, 5, 16, 16)
    told = json.loads((tmp_path / "out" / "export.json").read_text())
    assert told["input"] == {"name": "images", "type": "float32", "shape": ["slices", 1, 16, 16]}
    assert told["output"]["classes"] == ["background", "cavity", "normal_myocardium", "infarct", "no_reflow"]
    assert "percentiles 2 to 98" in told["preparation"]
    assert 0 <= told["files"]["fold_1_seed_0.pt2"]["largest_difference_from_pytorch"] < 1e-5
    assert told["intended_use"] == "Research."


def test_one_fold_can_be_chosen_and_older_models_state_less(tmp_path):
    for fold in range(2):
        write_member(tmp_path, fold, 0)
    (only,) = export(tmp_path, MODEL, "torch_export", tmp_path / "out", fold=1)
    assert only.name == "fold_1_seed_0.pt2"
    assert "intensities in [0, 1]" in json.loads((tmp_path / "out" / "export.json").read_text())["preparation"]


def test_formats_and_models_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(InputError, match="--format 'tflite' does not exist; choose onnx or torch_export"):
        export(tmp_path, MODEL, "tflite", tmp_path / "out")
    with pytest.raises(InputError, match="is not in the workspace"):
        export(tmp_path, MODEL, "onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_card_that_lacks_what_is_read_is_refused_by_name(tmp_path):
    folder = toy_models.write_member(tmp_path, 0, 0)
    with pytest.raises(InputError, match=rf"{folder}/model_card\.json: lacks 'input_size'"):
        export(tmp_path, MODEL, "torch_export", tmp_path / "out")
    assert not (tmp_path / "out" / "export.json").exists()
