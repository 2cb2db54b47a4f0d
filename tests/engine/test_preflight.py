import json
import shutil
from types import SimpleNamespace

import pytest

from common.errors import InputError
from engine.preflight import check_before_run
from engine.settings import load_settings
from engine.workspace import Workspace
from imaging.sources.table import source_root


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "not yet" / "home", "phantom", "demo")


def check(workspace, *overrides):
    check_before_run(load_settings("demo", overrides), workspace)


def test_a_profile_passes_before_there_is_a_workspace(workspace):
    check(workspace)


def test_a_workspace_of_0_1_0_is_refused_before_anything_runs(workspace):
    record = workspace.place("studies") / "record.json"
    record.parent.mkdir(parents=True)
    record.write_text('{"asset": "studies", "cache_key": "k", "data_version": "v", "files": {}, "outcome": {}}')
    with pytest.raises(
        InputError, match=r"studies: this workspace was made by ScarForge 0.1.0, whose results this ver"
    ):
        check(workspace)


def test_a_start_that_is_not_there_is_refused_at_once(workspace, tmp_path):
    with pytest.raises(InputError, match=r"halsr_net.start_from '.*gone': holds no weights.safetensors; name a model"):
        check(workspace, f"halsr_net.start_from={tmp_path / 'gone'}")


def test_a_start_from_other_widths_is_refused_at_once(workspace, tmp_path):
    (tmp_path / "weights.safetensors").touch()
    network = load_settings("demo").attention_res_unet.network.model_dump(mode="json") | {"bottleneck": 7}
    (tmp_path / "config.json").write_text(json.dumps({"network": network}))
    with pytest.raises(InputError, match=r"attention_res_unet.start_from .*: has bottleneck 7 instead of \d+"):
        check(workspace, f"attention_res_unet.start_from={tmp_path}")


def test_a_start_that_an_earlier_version_trained_is_refused_at_once(workspace, tmp_path):
    (tmp_path / "weights.safetensors").touch()
    (tmp_path / "record.json").write_text('{"asset": "attention_res_unet_real_only"}')
    with pytest.raises(InputError, match=r"start_from '.*': was trained by ScarForge 0.1.0; train it again with this"):
        check(workspace, f"attention_res_unet.start_from={tmp_path}")


def test_a_start_whose_configuration_is_no_configuration_is_refused_at_once(workspace, tmp_path):
    (tmp_path / "weights.safetensors").touch()
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match=r"its config.json does not tell its network"):
        check(workspace, f"attention_res_unet.start_from={tmp_path}")


@pytest.mark.parametrize("name", ["vgg16_weights", "alexnet_weights", "inception_weights"])
def test_weights_that_are_not_there_are_refused_at_once(workspace, name):
    with pytest.raises(InputError, match=rf"quality.{name} 'nowhere.safetensors': there is no such file"):
        check(workspace, f"quality.{name}=nowhere.safetensors")


def test_a_perceptual_loss_without_features_is_refused_at_once(workspace):
    with pytest.raises(InputError, match=r"perceptual_weight 10 needs VGG16's features: give --set quality.vgg16"):
        check(workspace, "pix2pix.preset=improved_no_context")


def test_a_folder_of_synthetic_slices_is_looked_into_before_anything_runs(workspace, tmp_path):
    def asked(root):
        return load_settings("demo", ["synthesis.method=folder", f"synthesis.root={root}"])

    with pytest.raises(
        InputError, match=r"synthesis.root .*gone: does not exist; give the folder that holds images/NAME"
    ):
        check_before_run(asked(tmp_path / "gone"), workspace)
    (tmp_path / "fold_1" / "images").mkdir(parents=True)
    with pytest.raises(InputError, match=r"holds fold_1, no fold_0; add it, or run another fold"):
        check_before_run(asked(tmp_path), workspace, [0])
    with pytest.raises(InputError, match=r"fold_1: holds 0 images and 0 masks; give the folder that holds images/NAME"):
        check_before_run(asked(tmp_path), workspace, [1])
    own = workspace.place("synthetic_slices")
    own.mkdir(parents=True)
    with pytest.raises(InputError, match=r"lies among the results that this run writes .*; copy the slices elsewhere"):
        check_before_run(asked(own), workspace)


def test_counts_that_do_not_fit_on_the_disk_are_refused(workspace, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2_000_000_000))
    check(workspace)
    with pytest.raises(InputError, match=r"training_slices 100000 at 128 px take about 22.6 GB a fold, but .* 2.0 GB"):
        check(workspace, "training_slices=100000")


def test_slices_that_are_there_already_are_not_counted_again(workspace, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    folder = workspace.root / "augmented_slices" / "fold_0"
    folder.mkdir(parents=True)
    with (folder / "slices.h5").open("wb") as file:
        file.truncate(2_000_000_000)  # a hole, which takes no place
    check(workspace)


@pytest.mark.parametrize(
    ("root", "message"),
    [(None, "give --root DIR"), ("gone", "gone: does not exist"), ("file", "file: is a file")],
)
def test_a_source_without_its_folder_is_refused_at_once(tmp_path, root, message):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=message):
        source_root("emidec", tmp_path / root if root else None)
    assert source_root("phantom", None) is None
