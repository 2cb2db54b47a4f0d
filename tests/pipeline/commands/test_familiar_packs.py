"""What packs remember of their trainings: completed when they are made, and compared with one another's."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from benchmarks import flags
from common.errors import InputError
from engine.workspace import Workspace, packs_of
from imaging.studies.split import FoldSplit
from pipeline.commands.models import Member, ModelName, other_contrasts, with_others
from pipeline.commands.packing import Origin, _remembered
from pipeline.commands.packs import add_pack
from runtime.compute import choose_compute
from runtime.model_card import read_model_json
from runtime.model_folder import read_weights
from runtime.pack import Pack, salted, write_pack
from segmentation.prediction.familiarity import (
    FILE,
    Cloud,
    Familiarity,
    as_packed,
    check_familiarity,
    contrast,
    read_familiarity,
    remember_training,
)
from segmentation.prediction.plausibility import MEASURES, SeenRange
from tests.pipeline.sealed import seal
from tests.pipeline.toy_models import REGION, write_member
from tests.runtime.test_pack import manifest
from tests.segmentation.prediction.test_familiarity import ring, write_patients

LABELS = ring(slices=2)
STUDY = np.where(LABELS == 2, 0.1, np.where(LABELS == 1, 0.9, 0.4)).astype(np.float32)
ALONG = np.full(6, 6**-0.5, np.float32)  # of length 1
SEEN = SeenRange(dict.fromkeys(MEASURES, 0.0), dict.fromkeys(MEASURES, 1e6))


def cloud_at(distance):
    """A cloud of unit variance so far from the study; 5.2 standard deviations pass."""
    return Cloud(
        contrast(STUDY, LABELS) + distance * ALONG,
        np.ones(6, np.float32),
        np.eye(6, dtype=np.float32),
        np.full(3, 4.0, np.float32),
    )


def write_remembering(home, name, label_set, *distances):
    """Write a pack of one network for each distance of what it remembers from the study; none: one that does not."""
    part = manifest().networks[0]
    said = manifest(name=name, label_set=label_set, networks=[part] * max(1, len(distances)))
    tensors = {"network_0.weights.bias": np.zeros(1, np.float32)}
    for number, distance in enumerate(distances):
        remembered = as_packed(Familiarity({"contrast": cloud_at(distance)}, SEEN))
        tensors |= {f"network_{number}.familiarity.{key}": one for key, one in remembered.items()}
    path = packs_of(home) / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_pack(path, said, tensors)
    return path


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Packs of both label sets around the study, without those that come with ScarForge."""
    (tmp_path / "shipped").mkdir()
    monkeypatch.setattr("runtime.pack.SHIPPED", tmp_path / "shipped")
    write_remembering(tmp_path, "cine", "cine", 2.0, 4.0)  # 3 on average
    write_remembering(tmp_path, "older", "cine")
    write_remembering(tmp_path, "other_lge", "emidec", 0.5)
    (packs_of(tmp_path) / "broken.safetensors").write_bytes(b"no pack")
    return tmp_path


def checked(home, pack):
    """What `predict` would say of the study with a pack, beside the others of the workspace."""
    opened = Pack.open(pack)
    others = other_contrasts(home, opened.manifest.label_set)
    remembered = [with_others(read_familiarity(folder), others) for folder in opened.folders("network")]
    return check_familiarity([np.zeros((2, 8), np.float32)] * len(remembered), remembered, STUDY, LABELS)


def test_a_study_nearer_to_another_packs_training_is_flagged_and_that_pack_named(home):
    own = write_remembering(home, "lge", "emidec", -4.0)
    check = checked(home, own)
    assert check.sentence == "unlike the model's training studies: contrast towards cine at distance 4.0 (3.5 passes)"
    assert set(check.distances) == {"contrast", "contrast towards cine"}  # neither its like, nor who remembers nothing
    assert check.distances["contrast"].distance == pytest.approx(4.0, abs=1e-3)
    (packs_of(home) / "cine.safetensors").unlink()
    assert checked(home, own).sentence == ""


def test_a_study_nearer_to_its_own_training_is_not_flagged(home):
    check = checked(home, write_remembering(home, "lge", "emidec", -2.5))
    assert check.sentence == ""
    towards = check.distances["contrast towards cine"]
    assert (towards.distance, towards.threshold) == pytest.approx((2.5, 2.75), abs=1e-3)


def test_most_networks_of_a_pack_decide(home):
    assert checked(home, write_remembering(home, "lge", "emidec", -4.0, -1.0, -1.0)).sentence == ""
    assert "towards cine" in checked(home, write_remembering(home, "lge", "emidec", -4.0, -4.0, -1.0)).sentence


def test_seen_from_a_pack_of_cine_those_of_lesions_are_the_others(home):
    write_remembering(home, "lge", "emidec", -4.0)
    assert set(other_contrasts(home, "cine")) == {"lge", "other_lge"}


@pytest.mark.parametrize("size", [8, 7])
def test_a_pack_that_remembers_features_of_another_network_is_refused_by_name(tmp_path, home, size):
    cloud = Cloud(np.zeros(size, np.float32), np.ones(size, np.float32), np.eye(size, dtype=np.float32), np.ones(3))
    folder = write_member(tmp_path / "trained", 0, 0)
    weights = {f"network_0.weights.{name}": one.numpy() for name, one in read_weights(folder).items()}
    remembered = as_packed(Familiarity({"features": cloud}, SEEN))
    card = {"label_set": "emidec", "region": REGION.model_dump(mode="json")}
    part = manifest().networks[0].model_copy(update={"config": read_model_json(folder, "config.json"), "card": card})
    told = {f"network_0.familiarity.{name}": one for name, one in remembered.items()}
    path = tmp_path / "odd.safetensors"
    write_pack(path, manifest(name="odd", network="attention_res_unet", networks=[part]), weights | told)
    if size == 8:  # as many as the toy network gives
        assert add_pack(home, str(path))[0] == "odd"
        return
    with pytest.raises(
        InputError, match=r"odd\.safetensors/network_0/.*: remembers 7 features .* network gives 8; get the"
    ):
        add_pack(home, str(path))
    assert not (packs_of(home) / "odd.safetensors").exists()


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("mean", np.zeros(5, np.float32)),
        ("mean", np.full(6, np.nan, np.float32)),
        ("scale", np.zeros(6, np.float32)),
        ("covariance", np.ones((6, 6), np.float32)),
        ("covariance", np.eye(3, dtype=np.float32)),
        ("others", np.empty(0, np.float32)),
    ],
)
def test_what_nothing_can_be_compared_with_is_refused_and_no_other_pack_suffers(home, part, value):
    own = write_remembering(home, "lge", "emidec", -4.0)
    foreign = packs_of(home) / "cine.safetensors"
    opened = Pack.open(foreign)
    write_pack(foreign, opened.manifest, {**opened._tensors, f"network_0.familiarity.contrast.{part}": value})
    with pytest.raises(InputError, match=r"cine\.safetensors/network_0/.*: cannot be read \(.*get the pack again"):
        read_familiarity(foreign / "network_0")
    assert set(checked(home, own).distances) == {"contrast"}


SPLIT = FoldSplit(0, ("Case_P000", "Case_P001", "Case_P002", "Case_P003"), ("Case_P004",), ("Case_P005",))


@pytest.fixture
def trained(tmp_path):
    """A network with its slices beside it, and what its training would have remembered."""
    folder = write_member(tmp_path, 0, 0)
    place = tmp_path / "emidec" / "tiny" / "real_slices" / "fold_0"
    place.mkdir(parents=True)
    part = np.repeat(["train"] * 4 + ["validation", "test"], 4)
    with write_patients(place / "slices.h5", 6, part=part) as store:
        whole = remember_training(folder, store, SPLIT, choose_compute("cpu", "fp32"))
    (place / "toy.h5").unlink()
    seal(place, "real_slices")
    return folder, whole


def remembered_of(folder: Path, home: Path) -> Familiarity | None:
    name = ModelName("emidec", "tiny", "attention_res_unet", "real_only")
    member = Member(folder, 0, 0)
    return _remembered(Origin(name, [member], (), Workspace(home, "emidec", "tiny")), member)


def forget(folder, description="contrast"):
    tensors = load_file(folder / FILE)
    save_file({name: one for name, one in tensors.items() if not name.startswith(description)}, folder / FILE)


def test_what_an_older_training_did_not_remember_is_completed_from_the_slices_beside_it(trained, tmp_path):
    folder, whole = trained
    forget(folder)
    before = (folder / FILE).read_bytes()
    found = remembered_of(folder, tmp_path)
    assert found.is_whole
    for name, cloud in whole.clouds.items():
        for part in ("mean", "scale", "covariance", "others"):
            np.testing.assert_allclose(getattr(found.clouds[name], part), getattr(cloud, part), rtol=1e-4, atol=1e-6)
    assert found.seen == whole.seen
    assert (
        len(found.clouds["contrast"].others) == 5
    )  # four training patients and the one of validation; the test's never
    assert (folder / FILE).read_bytes() == before


def test_what_is_whole_stays_and_without_slices_nothing_is_completed(trained, tmp_path):
    folder, _ = trained
    slices = tmp_path / "emidec" / "tiny" / "real_slices"
    slices.rename(slices.with_name("elsewhere"))
    assert remembered_of(folder, tmp_path).is_whole
    forget(folder)
    assert set(remembered_of(folder, tmp_path).clouds) == {"features"}
    (folder / FILE).unlink()
    assert remembered_of(folder, tmp_path) is None


def test_a_reslice_stands_across_the_stack_eight_millimetres_apart():
    image = np.arange(3 * 4 * 50, dtype=np.float32).reshape(3, 4, 50)
    found = flags.resliced(flags.Volume("A", "", image, (10.0, 1.5, 2.0)))
    assert found.image.shape == (10, 3, 4)
    assert found.spacing_mm == (8.0, 10.0, 1.5)
    np.testing.assert_array_equal(found.image[5], image[:, :, 25])
    np.testing.assert_array_equal(found.image[6], image[:, :, 29])
    assert len(flags.resliced(flags.Volume("A", "", image[:, :, :20], (10.0, 1.5, 2.0))).image) == 5


def test_only_patients_whom_no_other_pack_has_seen_count_as_unseen(tmp_path):
    seen = [
        {"what": "model", "source": "acdc", "seen": {0: [salted("s", "patient001")], 1: [salted("s", "patient002")]}}
    ]
    write_pack(tmp_path / "cine.safetensors", manifest(patients=seen), {})
    judged = [flags.Judged(f"patient{number:03}", flagged=True, alone=False) for number in (1, 2, 3)]
    packs = {"cine": tmp_path / "cine.safetensors"}
    assert [one.case_id for one in flags.unseen(judged, "acdc", packs)] == ["patient003"]
    assert flags.unseen(judged, "emidec", packs) == judged


def test_flags_are_counted_with_and_without_the_packs_beside_and_refusals_apart(home, monkeypatch):
    own = read_familiarity(write_remembering(home, "lge", "emidec", -4.0) / "network_0")
    beside = with_others(own, other_contrasts(home, "emidec"))
    features = [np.zeros((2, 8), np.float32)]

    def predicted(image, spacing_mm, segmenter, localisers, region, remembered, source):
        if source == "none":
            raise InputError(f"{source}: no left ventricle was located")
        study = SimpleNamespace(features=features, images=STUDY, drawn=LABELS)
        check = check_familiarity(features, remembered, STUDY, LABELS)
        return SimpleNamespace(prediction=study, familiarity=check, flags=(check.sentence,) if check.sentence else ())

    monkeypatch.setattr(flags, "predict_checked", predicted)
    model = SimpleNamespace(segmenter=None, localisers=(), region=None, familiarity=(beside,))
    judged = [flags.judge(flags.Volume(name, "", STUDY, (8.0, 1.0, 1.0)), model) for name in ("A", "none")]
    assert judged == [flags.Judged("A", flagged=True, alone=False), flags.Judged("none", flagged=None, alone=None)]
    assert flags.row("cine", judged) == "| cine | 2 | 1 | 0 | 1 |"
