"""Workspaces with untrained networks that say they were trained, and a localiser that knows the place."""

import torch

from imaging.slices.regions import RegionConfig
from imaging.studies.preparation import Box
from runtime.model_card import ModelCard
from runtime.model_folder import write_model_folder
from segmentation.localiser.config import LocaliserConfig
from segmentation.networks.table import build_network
from segmentation.training.config import TrainConfig
from tests.pipeline.sealed import seal

CONFIG = TrainConfig.model_validate(
    {"network": {"widths": (4, 8, 8, 8, 8), "bottleneck": 8}, "flips_at_test_time": False}
)
REGION = RegionConfig(size_px=32)
CLASSES = {"emidec": 5, "cine": 3}


class CentralBox:
    def __init__(self, folder, compute):
        self.folder = folder

    def predict_image_box(self, image):
        rows, columns = image.shape[1:]
        return Box(rows / 2 - 10, columns / 2 - 10, rows / 2 + 10, columns / 2 + 10)


def nothing_odd(*_):
    return []


def write_member(
    home, fold, seed, region=REGION, source="emidec", training_set="real_only", label_set="emidec", **described
):
    with torch.random.fork_rng():
        torch.manual_seed(10 * fold + seed)
        network = build_network(CONFIG.network, CLASSES[label_set])
    root = home / source / "tiny"
    folder = root / f"attention_res_unet_{training_set}" / f"fold_{fold}" / f"seed_{seed}"
    card = {"label_set": label_set, "region": region.model_dump(mode="json") | {"fold": fold}, **described}
    write_model_folder(folder, network.state_dict(), CONFIG, ModelCard(**card))
    write_localiser(home, fold, source)
    return seal(folder, f"attention_res_unet_{training_set}")


def write_localiser(home, fold, source="emidec", profile="tiny"):
    folder = home / source / profile / "lv_localiser" / f"fold_{fold}"
    write_model_folder(folder, {"bias": torch.zeros(1)}, LocaliserConfig(), ModelCard())
    return seal(folder, "lv_localiser")
