"""`scarforge models` from a workspace to a pack and back: the same label maps and refusals, nothing else written."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import scarforge
from common.errors import InputError
from engine.preflight import check_before_run
from engine.settings import load_settings
from engine.workspace import Workspace, packs_of
from imaging.labels import EMIDEC_LABELS
from imaging.slices.regions import write_real_slices, write_regions
from imaging.sources.emidec import read_emidec
from imaging.studies.archive import StudyArchive
from imaging.studies.archive_writer import write_studies
from imaging.studies.preparation import reference_box
from imaging.studies.split import FoldSplit, read_split, write_splits
from pipeline.cli import app
from pipeline.commands.external_test import ExternalTestOptions, external_test
from pipeline.commands.models import ModelName, find_model
from pipeline.commands.packing import SHIPPED_BYTES, pack_model
from pipeline.commands.packs import add_pack, card_of, listed_models, remove_pack
from pipeline.commands.predict.predict import PredictOptions, predict
from runtime.pack import SHIPPED, Bin, Calibration, Pack, VolumeInterval, write_pack
from segmentation.prediction.familiarity import Distance, FamiliarityCheck
from segmentation.training.start_weights import lineage, refuse_tested
from tests.imaging import fake_emidec
from tests.pipeline.sealed import seal
from tests.pipeline.toy_models import REGION, CentralBox, nothing_odd, write_localiser, write_member
from tests.runtime.test_pack import KEY, described, sealed

ROOT = Path(__file__).parents[3]
MODEL = "emidec/tiny/attention_res_unet/real_only"
CASES = fake_emidec.CASES[2:7]
START = [{"source": "acdc", "profile": "quick", "fold": 0, "patients": ["patient001"], "weights": "0" * 64}]


@pytest.fixture(autouse=True)
def shipped(tmp_path, monkeypatch):
    """An empty folder in the place of the packs that come with ScarForge."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    monkeypatch.setattr("runtime.pack.SHIPPED", folder)
    return folder


@pytest.fixture
def root(tmp_path):
    return fake_emidec.write_root(tmp_path / "emidec", CASES)


@pytest.fixture
def home(tmp_path, root, monkeypatch):
    """A workspace with two folds of untrained networks that tell on whom they were trained."""
    monkeypatch.setattr("segmentation.localiser.box_prediction.load_localiser", CentralBox)
    monkeypatch.setattr("segmentation.prediction.plausibility.implausibilities", nothing_odd)
    home = tmp_path / "home"
    for fold in (0, 1):
        write_member(home, fold, 0, patients=list(CASES[:2]), started_from=START, validation=VALIDATION)
    split = home / "emidec" / "tiny" / "patient_split"
    parts = [CASES[:2], CASES[2:3], CASES[3:]], [CASES[3:], CASES[2:3], CASES[:2]]
    write_splits(split / "patient_split.json", [FoldSplit(fold, *map(tuple, each)) for fold, each in enumerate(parts)])
    seal(split, "patient_split")
    archive = home / "emidec" / "tiny" / "studies" / "studies.h5"
    write_studies(archive, list(read_emidec(root)), EMIDEC_LABELS, "emidec")
    seal(archive.parent, "studies")
    return home


VALIDATION = {"rule": "positive", "dice": {"cavity": 0.5, "infarct": 0.25}, "mean": 0.375}


@pytest.fixture
def pack(home, tmp_path):
    pack_model(home, MODEL, tmp_path / "lge.safetensors")
    return tmp_path / "lge.safetensors"


@pytest.fixture
def elsewhere(tmp_path):
    return tmp_path / "elsewhere"


def maps_of(home, output, study, **options):
    status = predict(home, [study], PredictOptions(output=output, **options))
    return status, np.asarray(nibabel.load(output / f"{study.name.removesuffix('.nii.gz')}.nii.gz").dataobj)


def test_a_pack_draws_what_the_workspace_draws(home, root, pack, elsewhere, tmp_path):
    study = fake_emidec.image_path(root, CASES[0])
    _, own = maps_of(home, tmp_path / "own", study, model=MODEL)
    add_pack(elsewhere, str(pack))
    _, by_default = maps_of(elsewhere, tmp_path / "default", study, model=None)
    _, by_file = maps_of(elsewhere, tmp_path / "file", study, model=str(pack))
    np.testing.assert_array_equal(by_default, by_file)
    assert (own != by_file).mean() < 0.02  # an untrained network is torn between tissues; half precision decides some
    content = json.loads((tmp_path / "default" / f"{study.name.removesuffix('.nii.gz')}.json").read_text())
    assert content["model"]["name"] == "lge"
    assert content["model"]["members"] == [{"fold": 0, "seed": 0}, {"fold": 1, "seed": 0}]
    assert content["model"]["localiser"] == "lge: emidec/tiny, fold 0, 1"
    scarforge.load_model("lge", workspace=elsewhere, device="cpu").predict(study).save(tmp_path / "notebook.nii.gz")
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "notebook.nii.gz").dataobj), by_default)


def test_no_name_and_no_path_stands_in_a_pack_and_its_card_names_every_licence(pack, home):
    content = pack.read_bytes()
    assert not any(text.encode() in content for text in (*CASES, str(home), "patient001"))
    card = pack.with_suffix(".md").read_text()
    assert card == Pack.open(pack).manifest.about
    assert "EMIDEC: CC BY-NC-SA 4.0. Lalande et al." in card
    assert f"```\nscarforge models pack {MODEL} -o lge.safetensors\n```" in card
    assert "ACDC: research use" in card  # the training started from a model of ACDC
    again = pack.with_name("again") / "lge.safetensors"
    pack_model(home, MODEL, again)
    assert again.read_bytes() == content


def test_external_test_refuses_patients_of_a_pack_by_name_by_image_and_by_its_start(pack, root, elsewhere, tmp_path):
    add_pack(elsewhere, str(pack))

    def test(root, fold=None, source="emidec"):
        return external_test(elsewhere, ExternalTestOptions(("lge",), source, root, tmp_path / "out", fold))

    with pytest.raises(InputError, match=r"model lge was trained on .*\(5 of 5 patients\).*give a folder without them"):
        test(root)
    unseen = fake_emidec.write_root(tmp_path / "unseen", CASES[3:])
    with pytest.raises(InputError, match=r"model lge was trained on .* fold 0 has not seen any of them"):
        test(unseen)
    assert test(unseen, fold=0) == 0
    renamed = tmp_path / "renamed"
    fake_emidec.write_case(renamed, "Case_P777", fake_emidec.image_of(fake_emidec.label_map(CASES[0])))
    with pytest.raises(InputError, match=r"model lge was trained on Case_P777 \(1 of 1 patients\)"):
        test(renamed)


def test_a_training_starts_from_a_pack_by_name_and_its_patients_stay_known(pack, elsewhere):
    add_pack(elsewhere, str(pack))
    network = {"attention_res_unet.network": "{widths: [4, 8, 8, 8, 8], bottleneck: 8}"}
    chosen = [f"{name}={value}" for name, value in network.items()]
    settings = load_settings("tiny", [*chosen, "attention_res_unet.start_from=lge"])
    check_before_run(settings, Workspace(elsewhere, "phantom", "tiny"))
    wide = load_settings(
        "tiny", ["attention_res_unet.network={widths: [8, 8, 8, 8, 8]}", "attention_res_unet.start_from=lge"]
    )
    with pytest.raises(InputError, match=r"attention_res_unet.start_from 'lge': has widths"):
        check_before_run(wide, Workspace(elsewhere, "phantom", "tiny"))
    folder = Pack.open(pack).folders("network")[0]
    own, before = lineage(folder)
    assert own.salt == before.salt == Pack.open(pack).manifest.salt
    with pytest.raises(InputError, match=rf"was trained on {CASES[0]}, whom this fold tests"):
        refuse_tested(folder, "emidec", [CASES[0], CASES[4]])
    with pytest.raises(InputError, match="was trained on patient001"):
        refuse_tested(folder, "acdc", ["patient001", "patient002"])
    refuse_tested(folder, "emidec", [CASES[4]])


def test_a_model_folder_alone_and_an_arms_model_can_be_packed(home, tmp_path):
    folder = tmp_path / "alone"
    shutil.copytree(home / "emidec" / "tiny" / "attention_res_unet_real_only" / "fold_0" / "seed_0", folder)
    said = json.loads((folder / "model_card.json").read_text())
    said |= {"source": "acdc", "profile": "quick", "fold": 0, "seed": 0, "network": "attention_res_unet"}
    (folder / "model_card.json").write_text(json.dumps(said))
    manifest = pack_model(home, str(folder), tmp_path / "cine_attention.safetensors")
    assert (manifest.source, manifest.training_set, manifest.localisers) == ("acdc", "real_only", [])
    assert "Without a localiser: to start trainings from" in manifest.about
    assert "\nscarforge models pack DIR -o cine_attention.safetensors\n" in manifest.about
    arm = home / "emidec" / "tiny" / "experiments" / "add" / "arms" / "real-all-1"
    arm.mkdir(parents=True)
    for name in ("attention_res_unet_real_only", "lv_localiser", "patient_split", "studies"):
        (home / "emidec" / "tiny" / name).rename(arm / name)
    named = "emidec/tiny/experiments/add/arms/real-all-1/attention_res_unet/real_only"
    assert str(ModelName.parse(named)) == named
    manifest = pack_model(home, named, tmp_path / "arm.safetensors")
    assert (manifest.experiment, len(manifest.networks)) == ("add/arms/real-all-1", 2)
    assert command_of(manifest) in manifest.about


def cut_slices(home, fold):
    """Cut the real slices of a fold around the reference's ventricles, as a localiser without fault would have them."""
    root = home / "emidec" / "tiny"
    archive = StudyArchive.open(root / "studies" / "studies.h5")
    split = read_split(root / "patient_split" / "patient_split.json", fold)
    boxes = {key: reference_box(archive.load(*key).mask) for key in archive.keys()}  # noqa: SIM118
    folder = root / "real_slices" / f"fold_{fold}"
    folder.mkdir(parents=True)
    write_regions(
        folder / "regions.csv", write_real_slices(folder / "slices.h5", archive, split, boxes, REGION, 0, "1")
    )
    seal(folder, "real_slices")


def test_each_network_is_measured_on_its_own_folds_patients(home, tmp_path):
    for fold in (0, 1):
        cut_slices(home, fold)
    said = pack_model(home, MODEL, tmp_path / "lge.safetensors")
    assert {row["rule"] for row in said.results} == {"official", "positive", "pooled", "per_slice"}
    (cavity,) = [row for row in said.results if row["rule"] == "positive" and row["tissue"] == "cavity"]
    assert cavity["folds"] == 2
    assert said.flagged.studies == said.intervals["cavity"].volumes == 4  # two test patients a fold
    assert said.calibration.error_before is not None
    assert 0 <= said.intervals["infarction"].coverage <= 1
    for text in (
        "Test patients of 2 folds",
        "Expected calibration error",
        "| cavity | ± ",
        "4 test studies were flagged",
    ):
        assert text in said.about
    assert "| no-reflow | ± " in said.about
    assert "no reflow" not in said.about
    add_pack(home, str(tmp_path / "lge.safetensors"))
    (listed,) = [row["dice"] for row in listed_models(home) if row["name"] == "lge"]
    assert f"test cavity {cavity['mean']:.3f}" in listed


def test_localisers_of_another_source_go_along_and_their_patients_count(home, tmp_path, root):
    for fold in (0, 1):
        write_localiser(home, fold, "acdc", "quick")
    split = home / "acdc" / "quick" / "patient_split"
    write_splits(
        split / "patient_split.json", [FoldSplit(f, ("patient001",), ("patient002",), ("patient003",)) for f in (0, 1)]
    )
    seal(split, "patient_split")
    tested = tmp_path / "tested"
    tested.mkdir()
    said = {"source": "mscmr", "models": [{"scored": 4, "studies": 5, "flagged": 1}]}
    (tested / "external_test.json").write_text(json.dumps(said))
    (tested / "summary.csv").write_text("rule,metric,tissue,mean,low,high\npositive,dice,cavity,0.9,0.8,0.95\n")
    said = pack_model(home, MODEL, tmp_path / "lge.safetensors", "acdc/quick", localiser_folds=[1], external=[tested])
    assert "mscmr: 4 of 5 studies, 1 flagged." in said.about
    command = (
        f"scarforge models pack {MODEL} -o lge.safetensors --localiser acdc/quick --localiser-fold 1 --external DIR"
    )
    assert f"\n{command}\n" in said.about
    assert [(part.source, part.fold) for part in said.localisers] == [("acdc", 1)]
    assert [one.what for one in said.patients] == ["model", "localiser"]
    assert {one.name for one in said.data} == {"EMIDEC", "ACDC"}
    shutil.rmtree(split)
    with pytest.raises(InputError, match=r"patient_split.json: is missing"):
        pack_model(home, MODEL, tmp_path / "lge.safetensors", "acdc/quick")


def test_probabilities_are_tempered_and_volumes_have_intervals(pack, home, root, tmp_path):
    opened = Pack.open(pack)
    bins = [Bin(confidence=0.6, accuracy=0.5, pixels=3), Bin(confidence=0.9, accuracy=0.95, pixels=5)]
    told = {
        "calibration": Calibration(temperature=2.0, error_before=0.125, error_after=0.0221, before=bins, after=bins),
        "intervals": {"cavity": VolumeInterval(half_width_ml=1000.0, coverage=0.9, volumes=3)},
    }
    tensors = dict(opened._tensors)
    calibrated = tmp_path / "calibrated.safetensors"
    write_pack(calibrated, opened.manifest.model_copy(update={**told, "name": "calibrated"}), tensors)
    study = fake_emidec.image_path(root, CASES[0])
    name = study.name.removesuffix(".nii.gz")
    places, found = {}, {}
    for path in (pack, calibrated):
        places[path] = tmp_path / path.stem
        _, found[path] = maps_of(home, places[path], study, model=str(path), probabilities=True)
    np.testing.assert_array_equal(found[pack], found[calibrated])
    first, second = (
        np.asarray(nibabel.load(places[path] / "probabilities" / f"{name}_background.nii.gz").dataobj)
        for path in (pack, calibrated)
    )
    inside = (first > 0) & (first < 1)
    assert not np.allclose(first[inside], second[inside])
    content = json.loads((places[calibrated] / f"{name}.json").read_text())
    volume = content["volumes_ml"]["cavity"]
    assert content["intervals_ml"] == {"cavity": [0.0, pytest.approx(volume + 1000)]}
    assert content["model"]["temperature"] == 2.0
    row = pd.read_csv(places[calibrated] / "predictions.csv").loc[0]
    assert (row["cavity_ml_low"], row["cavity_ml_high"]) == (0, pytest.approx(volume + 1000))
    page, without = ((places[path] / "index.html").read_text() for path in (calibrated, pack))
    for text in (
        "90 % interval, mL",
        "can be trusted",
        "divided by the temperature 2.00",
        "error: 12.5 % before, 2.21 % after",
    ):
        assert text in page
        assert text not in without


def test_a_study_unlike_the_default_models_training_is_told_which_model_fits(pack, home, root, tmp_path, monkeypatch):
    for name in ("lge", "cine"):
        opened = Pack.open(pack)
        path = packs_of(home) / f"{name}.safetensors"
        write_pack(path, opened.manifest.model_copy(update={"name": name}), opened._tensors)
    remembered = []

    def check(features, familiar, images, labels):
        remembered.append(familiar)
        return FamiliarityCheck({"features": Distance(9.0 if len(remembered) == 1 else 1.0, 2.0)})

    monkeypatch.setattr("segmentation.prediction.study.check_familiarity", check)
    study = fake_emidec.image_path(root, CASES[0])
    assert predict(home, [study], PredictOptions(None, tmp_path / "out")) == 3
    (row,) = pd.read_csv(tmp_path / "out" / "predictions.csv").to_dict("records")
    assert "unlike the model's training studies" in row["flags"]
    assert "the model 'cine' fits this study; predict it with --model cine" in row["flags"]


def test_shipped_added_and_own_models_are_listed_shown_and_removed(pack, home, shipped, tmp_path):
    shutil.copy(pack, shipped / "lge.safetensors")
    rows = {row["name"]: row for row in listed_models(home)}
    assert rows["lge"]["where"] == "shipped"
    assert rows[MODEL]["where"] == "trained here"
    assert rows[MODEL]["dice"] == "validation cavity 0.500, infarct 0.250"
    with pytest.raises(InputError, match="'lge' comes with ScarForge; ask for the pack under another name"):
        add_pack(home, str(pack))
    with pytest.raises(InputError, match="'lge' comes with ScarForge and stays"):
        remove_pack(home, "lge")
    pack_model(home, MODEL, tmp_path / "other.safetensors")
    assert add_pack(home, str(tmp_path / "other.safetensors"))[0] == "other"
    assert {row["name"]: row["where"] for row in listed_models(home)}["other"] == "added"
    assert card_of(home, "other").startswith("# other\n")
    assert "validation" in card_of(home, MODEL).lower()
    assert remove_pack(home, "other") == packs_of(home) / "other.safetensors"
    with pytest.raises(InputError, match="'other' was not added; added are none"):
        remove_pack(home, "other")
    with pytest.raises(InputError, match="was not added"):
        remove_pack(home, "../emidec/tiny/x")


@pytest.mark.parametrize("spoil", ["bit", "cut", "text", "sha256"])
def test_a_pack_that_is_refused_leaves_nothing(pack, elsewhere, spoil):
    content, digest = bytearray(pack.read_bytes()), None
    if spoil == "bit":
        content[-9] ^= 4
    elif spoil == "cut":
        del content[-100:]
    elif spoil == "text":
        content = bytearray(b"no pack at all")
    else:
        digest = "0" * 64
    pack.write_bytes(content)
    with pytest.raises(InputError, match=f"{pack.name}: (is not taken|has SHA-256)"):
        add_pack(elsewhere, str(pack), digest)
    assert list(packs_of(elsewhere).iterdir()) == []


HOSTILE = (
    "a bit",
    "cut short",
    "another schema",
    "a huge tensor",
    "a tensor's name with slashes",
    "a name with slashes",
)


@pytest.mark.parametrize("fault", HOSTILE)
def test_a_hostile_pack_is_refused_by_name_wherever_one_is_read_and_nothing_is_written(root, tmp_path, fault):
    path, out, home = tmp_path / "hostile.safetensors", tmp_path / "out", tmp_path / "home"
    tiny = Workspace(home, "phantom", "tiny")
    readers = {
        "models add": lambda: add_pack(home, str(path)),
        "models show": lambda: card_of(home, str(path)),
        "predict": lambda: predict(home, [root], PredictOptions(str(path), out)),
        "external-test": lambda: external_test(home, ExternalTestOptions((str(path),), "emidec", root, out)),
        "run": lambda: check_before_run(load_settings("tiny", [f"attention_res_unet.start_from={path}"]), tiny),
        "a notebook": lambda: scarforge.load_model(str(path), workspace=home, device="cpu"),
    }
    path.write_bytes(hostile_content(tmp_path, fault))
    before = files_below(tmp_path)
    for reader, read in readers.items():
        with pytest.raises(InputError, match=r"hostile\.safetensors'?: "):
            read()
        assert files_below(tmp_path) == before, reader


def files_below(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def hostile_content(folder, fault):
    """A pack that is damaged, foreign, or made to harm; all but the first two fit their own digest."""
    path = folder / "sealed.safetensors"
    tensor = {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]}
    header = {
        "another schema": {"__metadata__": {KEY: json.dumps({"schema_version": 2})}},
        "a huge tensor": described() | {"network_0.weights.a": tensor},
        "a tensor's name with slashes": described() | {"../../../a": tensor | {"shape": [1]}},
        "a name with slashes": described(name="../../escaped"),
    }.get(fault, described())
    sealed(path, header, b"\0" * 4)
    content = path.read_bytes()
    path.unlink()
    return {"a bit": content.replace(b"tiny", b"tinx", 1), "cut short": content[:-3]}.get(fault, content)


def test_what_lies_at_an_address_is_fetched_within_limits(pack, elsewhere, monkeypatch):
    digest = hashlib.sha256(pack.read_bytes()).hexdigest()
    handler = partial(SimpleHTTPRequestHandler, directory=str(pack.parent))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(InputError, match="anybody on the way can change what http gives"):
            add_pack(elsewhere, f"{address}/{pack.name}")
        with pytest.raises(InputError, match=r"none.safetensors: cannot be read .*404"):
            add_pack(elsewhere, f"{address}/none.safetensors", digest)
        with monkeypatch.context() as limited:
            limited.setattr("runtime.pack.MOST_BYTES", 1000)
            with pytest.raises(InputError, match="is larger than 0 MB"):
                add_pack(elsewhere, f"{address}/{pack.name}", digest)
        assert list(packs_of(elsewhere).iterdir()) == []
        assert add_pack(elsewhere, f"{address}/{pack.name}", digest.upper())[0] == "lge"
        server.shutdown()
    assert find_model(elsewhere, "lge").source == "emidec"


@pytest.mark.parametrize("given", ["ftp://host/x.safetensors", "nothing.safetensors", "file:///etc/passwd"])
def test_what_is_neither_file_nor_address_is_named(elsewhere, given):
    with pytest.raises(InputError, match="there is no such file; give one that is there"):
        add_pack(elsewhere, given)


def test_without_a_model_predict_says_in_one_line_how_to_get_one(elsewhere, root, shipped, tmp_path, monkeypatch):
    monkeypatch.setenv("SCARFORGE_HOME", str(elsewhere))
    study, out = fake_emidec.image_path(root, CASES[0]), tmp_path / "out"
    result = CliRunner().invoke(app, ["predict", str(study), "-o", str(out)])
    assert (result.exit_code, out.exists()) == (1, False)
    assert str(result.exception) == (
        "no model was named, and 'lge' is neither shipped nor added (there is none); add one with "
        "`scarforge models add FILE`, or give --model one that `scarforge models list` names"
    )
    (shipped / "cine_attention.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"'lge' is neither shipped nor added \(there are cine_attention\); add one"):
        predict(elsewhere, [study], PredictOptions(None, out))
    (shipped / "cine_attention.safetensors").unlink()
    with pytest.raises(InputError, match=r"model 'cine' is neither shipped nor added.*`scarforge models add FILE`"):
        find_model(elsewhere, "cine")
    result = CliRunner().invoke(app, ["models", "list"])
    assert result.output.startswith("no model yet: add one with `scarforge models add FILE`")


def test_a_packs_file_is_named_like_its_model(home, tmp_path):
    for name in ("Lge.safetensors", "lge.pt", "a b.safetensors"):
        with pytest.raises(InputError, match="name the file after the model"):
            pack_model(home, MODEL, tmp_path / name)


def command_of(manifest):
    """The command that gives a pack what this one holds."""
    own = (manifest.source, manifest.profile)
    borrowed = [part for part in manifest.localisers if (part.source, part.profile) != own]
    place = [*own, *(["experiments", manifest.experiment] if manifest.experiment else [])]
    parts = ["/".join([*place, manifest.network, manifest.training_set]), "-o", f"{manifest.name}.safetensors"]
    if borrowed:
        parts += ["--localiser", f"{borrowed[0].source}/{borrowed[0].profile}"]
        parts += [f"--localiser-fold {part.fold}" for part in borrowed]
    external = [] if "None was made." in manifest.about else ["--external", "DIR"]
    return " ".join(["scarforge models pack", *parts, *external])


def test_models_that_are_shipped_are_small_whole_and_carded_with_the_command_that_packs_them(monkeypatch):
    monkeypatch.setattr("runtime.pack.SHIPPED", SHIPPED)
    assert list(SHIPPED.glob("*.safetensors"))
    for path in SHIPPED.glob("*.safetensors"):
        assert path.stat().st_size <= SHIPPED_BYTES
        manifest = Pack.open(path).manifest
        assert manifest.name == path.stem
        card = path.with_suffix(".md").read_text(encoding="utf-8")
        shown = f"```\n{command_of(manifest)}\n```\n\n"
        assert shown in card
        assert manifest.about in (card, card.replace(shown, ""))
        assert card_of(Path("nowhere"), path.stem) == card
        assert all(one.attribution for one in manifest.data)


def test_the_command_line_names_a_models_terms_when_it_is_added(pack, elsewhere, monkeypatch):
    monkeypatch.setenv("SCARFORGE_HOME", str(elsewhere))
    result = CliRunner().invoke(app, ["models", "add", str(pack)])
    assert result.exit_code == 0, result.output
    assert "model lge is added: --model lge; trained on EMIDEC, CC BY-NC-SA 4.0; ACDC" in result.output
    shown = CliRunner().invoke(app, ["models", "show", "lge"])
    assert shown.output == Pack.open(pack).manifest.about


LIGHT = """
import sys
from typer.testing import CliRunner
from tests.pipeline.toy_models import CentralBox
import segmentation.localiser.box_prediction as localiser
from pipeline.cli import app

localiser.load_localiser = CentralBox
model, study, root, out = sys.argv[1:]
evaluated = ["--reference", root, "--prediction", root]
for command in (
    ["models", "list"],
    ["models", "show", model],
    ["predict", study, "--model", model, "-o", f"{out}/maps"],
    ["evaluate", *evaluated, "--output", f"{out}/scores"],
    ["compare", root, root, "--name", "one", "--name", "two", "--reference", root, "-o", f"{out}/compared"],
):
    result = CliRunner().invoke(app, command)
    assert result.exit_code in (0, 3), (command, result.output, result.exception)
    heavy = ("dagster", "dagster_pipes", "mlflow", "albumentations")
    print(command[0], [name for name in heavy if name in sys.modules])
"""


def test_predict_evaluate_compare_and_models_import_neither_dagster_nor_mlflow_nor_albumentations(home, root, tmp_path):
    arguments = [MODEL, str(fake_emidec.image_path(root, CASES[0])), str(root), str(tmp_path / "out")]
    environment = os.environ | {"SCARFORGE_HOME": str(home), "PYTHONPATH": str(ROOT)}
    told = subprocess.run(
        [sys.executable, "-c", LIGHT, *arguments], capture_output=True, text=True, check=False, env=environment
    )
    assert told.returncode == 0, told.stderr
    assert set(told.stdout.splitlines()) == {f"{name} []" for name in ("models", "predict", "evaluate", "compare")}
