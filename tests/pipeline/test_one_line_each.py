"""A network, a format of studies, of label maps or of exported files is one module and one line, and nothing else."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from typer.main import get_command
from typer.testing import CliRunner

from common.errors import InputError
from common.pages.words import words
from engine.preflight import check_before_run
from engine.settings import load_settings
from engine.workspace import Workspace
from imaging.labels import CINE_LABELS, patient_group
from imaging.phantom import PhantomConfig
from imaging.sources import table as sources
from imaging.sources.files import source_digest
from imaging.sources.table import read_source, source_labels
from imaging.studies.study import RejectedStudy, Study
from pipeline.automation.scheduled_jobs import job_for
from pipeline.cli import app
from pipeline.commands.evaluate import evaluate
from pipeline.commands.export import export
from pipeline.commands.models import ModelName, find_members, load_model, models_in
from runtime.compute import choose_compute
from runtime.model_card import ModelCard
from runtime.model_folder import write_model_folder
from segmentation.evaluation import label_maps
from segmentation.model_kind import TRAINING_SETS, ModelKind, model_kinds
from segmentation.networks import table as networks
from segmentation.networks.blocks import SegmentationNetwork, SegmentationOutput
from segmentation.prediction import export as exported
from segmentation.training.config import TrainConfig
from tests.imaging.fake_emidec import CASES, label_map, write_nifti
from tests.pipeline.sealed import seal
from tests.pipeline.toy_models import REGION

ROOT = Path(__file__).parents[2]
ROOMS = ("common", "imaging", "runtime", "gan", "segmentation", "engine", "assets", "pipeline", "benchmarks")
TOY_PART = ("toy_net.network.name=toy_net", "toy_net.steps=3")


class ToyNet(SegmentationNetwork):
    """One convolution and a head."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stage, self.head = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, num_classes, 1)

    def _encode(self, x):
        return self.stage(x), []

    def _decode(self, latent, skips):
        return SegmentationOutput(self.head(latent), None)


@pytest.fixture
def toy_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network as a module and a line in the table."""
    module = ModuleType("toy_net")
    module.build = lambda _config, num_classes: ToyNet(num_classes)
    monkeypatch.setitem(sys.modules, "toy_net", module)
    size = MappingProxyType({"widths": (4,), "bottleneck": 8, "dropout": (0.0,)})
    monkeypatch.setitem(networks._TABLE, "toy_net", networks.Network("toy_net", "Toy-Net", size))


def test_a_network_of_the_table_has_names_a_title_and_a_size(toy_network):
    kind = ModelKind.parse("toy_net_real_plus_gan")
    assert (kind.network, kind.training_set) == ("toy_net", "real_plus_gan")
    assert kind == ModelKind.of_scores("toy_net_real_plus_gan_scores")
    assert kind.about == "Toy-Net, trained on augmented real and synthetic slices."
    assert words("toy_net") == "toy net"
    assert [kind.name for kind in model_kinds()][-2:] == ["toy_net_real_only", "toy_net_real_plus_gan"]
    assert TrainConfig.model_validate({"network": {"name": "toy_net"}}).network.bottleneck == 8


def test_a_network_of_the_table_is_a_part_of_the_settings_that_a_profile_gives(toy_network, tmp_path):
    with pytest.raises(InputError, match="setting 'toy_net': field required"):
        load_settings("tiny")
    settings = load_settings("tiny", TOY_PART)
    assert settings.network("toy_net").network.name == "toy_net"
    assert settings.training("toy_net", "real_plus_gan").steps == 3
    assert settings.digest != load_settings("tiny", (*TOY_PART, "toy_net.steps=4")).digest
    with pytest.raises(InputError, match=r"did you mean toy_net.steps\?"):
        load_settings("tiny", (*TOY_PART, "toy_net.stepps=4"))
    with pytest.raises(InputError, match=r"toy_net\.crop_px 4096 is larger than region\.size_px"):
        load_settings("tiny", (*TOY_PART, "toy_net.crop_px=4096"))
    settings = load_settings("tiny", (*TOY_PART, f"toy_net.start_from={tmp_path}"))
    with pytest.raises(InputError, match=r"toy_net\.start_from .*/toy_net_real_only/fold_0/seed_0"):
        check_before_run(settings, Workspace(tmp_path, "phantom", "tiny"))


def test_a_network_that_is_not_in_the_table_is_refused_with_those_that_are(toy_network):
    with pytest.raises(InputError, match="should be 'attention_res_unet' or 'halsr_net' or 'toy_net', got 'unet'"):
        load_settings("tiny", ["halsr_net.network.name=unet"])
    with pytest.raises(InputError, match=r"model 'halsr_net_real' does not exist; choose one of .*toy_net_real_only"):
        ModelKind.parse("halsr_net_real")


def test_models_of_a_network_of_the_table_are_listed_and_loaded(toy_network, tmp_path):
    config = TrainConfig.model_validate({"network": {"name": "toy_net"}})
    place = tmp_path / "emidec" / "tiny" / "toy_net_real_only" / "fold_0" / "seed_0"
    card = ModelCard(label_set="emidec", input_size=[16, 16], region=REGION.model_dump(mode="json"))
    write_model_folder(place, ToyNet(5).state_dict(), config, card)
    seal(place, "toy_net_real_only")
    assert models_in(tmp_path) == ["emidec/tiny/toy_net/real_only (fold 0)"]
    name = ModelName.parse("emidec/tiny/toy_net/real_only")
    model = load_model(tmp_path, name, None, None, choose_compute("cpu", "fp32"), flips=False, localise=False)
    assert model.segmenter.labels(np.zeros((2, 16, 16), np.float32)).shape == (2, 16, 16)
    with pytest.raises(InputError, match=r"it holds emidec/tiny/toy_net/real_only \(fold 0\); train it with"):
        find_members(tmp_path, name._replace(training_set="real_plus_gan"))
    with pytest.raises(InputError, match="networks are attention_res_unet, halsr_net, toy_net, training sets"):
        find_members(tmp_path, name._replace(network="unet"))


def read_toy(root, _config):
    """Yield a study a file, of a ring whose numbers are the label values."""
    for path in sorted(root.glob("*.npy")):
        mask = np.load(path)
        if mask.ndim != 3:
            yield RejectedStudy(path.stem, str(path), f"{path}: is no stack of slices; save one")
            continue
        group, image = patient_group(mask, CINE_LABELS), mask.astype(np.float32) * 100
        yield Study(path.stem, "", group, image, mask, (8.0, 1.0, 1.0), np.eye(4), CINE_LABELS.name, str(path))


@pytest.fixture
def toy_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A format as a module and a line in the table, and a folder of six patients and a file that is no study."""
    module = ModuleType("toy_source")
    module.read_toy = read_toy
    monkeypatch.setitem(sys.modules, "toy_source", module)
    line = sources.SourceFormat("toy_source", "read_toy", CINE_LABELS, "NumPy arrays")
    monkeypatch.setitem(sources._TABLE, "toy", line)
    rows, columns = np.indices((64, 64)) - 32
    radius = np.hypot(rows, columns)
    ring = np.where(radius < 10, 1, np.where(radius < 15, 2, 0)).astype(np.uint8)
    root = tmp_path / "studies"
    root.mkdir()
    for number in range(6):
        np.save(root / f"P{number}.npy", np.stack([np.roll(ring, number, axis=0)] * 3))
    np.save(root / "X.npy", ring)
    return root


def test_a_format_of_the_table_is_listed_and_read_with_digest_and_labels(toy_source):
    assert re.search(r"^toy +NumPy arrays; label set cine$", CliRunner().invoke(app, ["sources"]).output, re.MULTILINE)
    assert source_labels("toy") == CINE_LABELS
    found = list(read_source("toy", toy_source, PhantomConfig()))
    assert len({study.case_id for study in found if isinstance(study, Study)}) == 6
    (rejected,) = [study for study in found if isinstance(study, RejectedStudy)]
    assert rejected.case_id == "X"
    assert "is no stack of slices; save one" in rejected.reason
    before = source_digest(toy_source, None)
    np.save(toy_source / "P6.npy", np.zeros((3, 64, 64), np.uint8))
    assert source_digest(toy_source, None) != before


STUDIES_OF_THE_TOY = """
import json, sys
from imaging.labels import CINE_LABELS
from imaging.sources import table
table._TABLE["toy"] = table.SourceFormat("tests.pipeline.test_one_line_each", "read_toy", CINE_LABELS, "NumPy arrays")
import dagster as dg  # the form of a run's configuration is made of the table, when it is imported
from assets.parts.inputs import open_studies
from assets.studies import studies
from engine.forge import Forge
forge = Forge(source="toy", root=sys.argv[1], profile="tiny", home=sys.argv[2])
(event,) = dg.materialize([studies], resources={"forge": forge}).asset_materializations_for_node("studies")
archive = open_studies(forge)
print(json.dumps({
    "patients": event.metadata["patients"].value,
    "labels": archive.label_set.name,
    "rejected": [study.case_id for study in archive.rejected],
    "card": (forge.folder("studies") / "dataset_card.html").read_text(encoding="utf-8"),
}))
"""


def test_a_format_of_the_table_becomes_studies_with_labels_and_card(toy_source, tmp_path):
    line = [sys.executable, "-W", "ignore", "-c", STUDIES_OF_THE_TOY, str(toy_source), str(tmp_path / "home")]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["patients"], found["labels"], found["rejected"]) == (6, "cine", ["X"])
    assert "is no stack of slices; save one" in found["card"]


def test_a_format_of_the_table_decides_the_job_the_folder_and_the_command(toy_source, tmp_path):
    assert job_for("tiny", sources.source_labels("toy").has_lesions).name == "cine"
    with pytest.raises(InputError, match="source 'toy' needs the folder"):
        sources.source_root("toy", None)
    with pytest.raises(InputError, match=r"choose one of .*sunnybrook, toy"):
        sources.source_format("toi")
    with pytest.raises(InputError, match="run --source toy --root DIR --profile tiny"):
        find_members(tmp_path, ModelName("toy", "tiny", "halsr_net", "real_only"))
    with pytest.raises(InputError, match="run --source phantom --profile tiny"):
        find_members(tmp_path, ModelName("phantom", "tiny", "halsr_net", "real_only"))


def test_a_format_of_label_maps_is_found_read_and_scored_by_its_line(monkeypatch, tmp_path):
    def files(root, _found, _what):
        yield from ((path.name.removesuffix(".toy.nii"), "", path) for path in sorted(root.glob("*.toy.nii")))

    numbers = {0: 0, 10: 1, 20: 2, 30: 3, 40: 4}
    form = label_maps.EMIDEC._replace(name="toy", values=numbers, example="P1.toy.nii", files=files)
    monkeypatch.setitem(label_maps._TABLE, "toy", form)
    for case_id in CASES[:3]:
        for folder in ("reference", "prediction"):
            write_nifti(tmp_path / folder / f"{case_id}.toy.nii", label_map(case_id) * 10)
    assert evaluate(tmp_path / "reference", tmp_path / "prediction", "toy", tmp_path / "out") == 0
    summary = pd.read_csv(tmp_path / "out" / "summary.csv")
    dice = summary[(summary["metric"] == "dice") & (summary["rule"] == "positive")]
    assert (dice["mean"].dropna() == 1).all()
    with pytest.raises(InputError, match="choose one of emidec, acdc, toy"):
        evaluate(tmp_path / "reference", tmp_path / "prediction", "toi", tmp_path / "out")


def test_a_format_of_exported_files_is_written_and_checked_by_its_line(monkeypatch, tmp_path, toy_network):
    line = replace(exported.EXPORT_FORMATS["torch_export"], suffix=".toy")
    monkeypatch.setitem(exported._TABLE, "toy", line)
    place = tmp_path / "emidec" / "tiny" / "toy_net_real_only" / "fold_0" / "seed_0"
    card = ModelCard(label_set="emidec", input_size=[16, 16], spacing_mm=1.0)
    config = TrainConfig.model_validate({"network": {"name": "toy_net"}})
    with torch.random.fork_rng():
        write_model_folder(place, ToyNet(5).state_dict(), config, card)
    seal(place, "toy_net_real_only")
    (path,) = export(tmp_path, "emidec/tiny/toy_net/real_only", "toy", tmp_path / "out")
    assert path.name == "fold_0_seed_0.toy"
    with pytest.raises(InputError, match="choose onnx or torch_export or toy"):
        export(tmp_path, "emidec/tiny/toy_net/real_only", "toi", tmp_path / "out")


@pytest.mark.parametrize(
    ("command", "option", "names"),
    [
        ("evaluate", "format_", label_maps.LABEL_FORMATS),
        ("compare", "format_", label_maps.LABEL_FORMATS),
        ("export", "format_", exported.EXPORT_FORMATS),
        ("sweep", "network", networks.NETWORKS),
    ],
)
def test_the_help_names_what_the_table_holds(command, option, names):
    (found,) = [one for one in get_command(app).commands[command].params if one.name == option]
    assert [name for name in names if name not in found.help] == []


def written(pattern: str) -> set[str]:
    """The modules whose text matches."""
    paths = [path for room in ROOMS for path in Path(room).rglob("*.py")]
    return {str(path) for path in paths if re.search(pattern, path.read_text(encoding="utf-8"), re.DOTALL)}


def test_no_module_but_its_own_puts_a_kind_s_name_together_or_splits_it():
    assert written(r"network\w*(\['?\w*'?\])?\}_\{") == {"segmentation/model_kind.py"}
    assert written(r"split\([\"']_real_|[\"']_scores[\"']\)|\}_scores[\"'/]") <= {"segmentation/model_kind.py"}


def test_networks_are_listed_in_their_table_alone():
    assert written(r"[\"']attention_res_unet[\"'], *[\"']halsr_net[\"']") == set()


def test_pages_write_names_as_the_tables_do():
    titled = {**networks.NETWORKS, **TRAINING_SETS}
    assert {name: words(name) for name in titled} == {name: one.title for name, one in titled.items()}
