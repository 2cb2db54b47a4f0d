"""`scarforge external-test` from files to tables, with untrained networks; it must agree with predict + evaluate."""

import json
import shutil

import nibabel
import numpy as np
import pandas as pd
import pytest

from common.errors import InputError
from imaging.labels import EMIDEC_LABELS
from imaging.phantom import PhantomConfig, read_phantom
from imaging.sources.emidec import read_emidec
from imaging.studies.archive_writer import write_studies
from imaging.studies.split import FoldSplit, write_splits
from pipeline.commands import external_test as module
from pipeline.commands.evaluate import evaluate
from pipeline.commands.external_test import ExternalTestOptions, external_test
from pipeline.commands.predict.predict import PredictOptions, predict
from segmentation.scoring.scores import read_scores
from tests.imaging import fake_emidec, fake_mscmr
from tests.pipeline.sealed import seal
from tests.pipeline.toy_models import CentralBox, nothing_odd, write_localiser, write_member

MODEL = "hospital/tiny/attention_res_unet/real_only"
WITH_GAN = "hospital/tiny/attention_res_unet/real_plus_gan"
CASES = fake_emidec.CASES[2:7]
KEY = ["rule", "tissue", "metric"]


def no_heart(*_):
    return ["no heart at all"]


class LostOnSquares(CentralBox):
    def predict_image_box(self, image):
        if image.shape[1] == image.shape[2]:
            raise InputError("no left ventricle was located")
        return super().predict_image_box(image)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr("segmentation.localiser.box_prediction.load_localiser", CentralBox)
    monkeypatch.setattr("segmentation.prediction.plausibility.implausibilities", nothing_odd)
    write_member(tmp_path / "home", 0, 0, source="hospital")
    return tmp_path / "home"


@pytest.fixture
def root(tmp_path):
    return fake_emidec.write_root(tmp_path / "emidec", CASES)


def run(home, root, *models, source="emidec", **options):
    output = root.parent / "out"
    status = external_test(home, ExternalTestOptions(models or (MODEL,), source, root, output, **options))
    return status, pd.read_csv(output / "summary.csv", keep_default_na=False, na_values=[""])


def test_every_number_is_that_of_predict_and_evaluate(home, root, tmp_path):
    write_member(home, 2, 1, source="hospital")
    status, summary = run(home, root, flips=True)
    images = [fake_emidec.image_path(root, case_id) for case_id in CASES]
    predict(home, images, PredictOptions(MODEL, tmp_path / "maps", flips=True))
    assert evaluate(root, tmp_path / "maps", "emidec", tmp_path / "evaluated") == status == 0
    expected = pd.read_csv(tmp_path / "evaluated" / "summary.csv", keep_default_na=False, na_values=[""])
    assert set(summary["network"] + " " + summary["training_set"]) == {"attention_res_unet real_only"}
    assert (summary["mean"] > 0).any()
    pd.testing.assert_frame_equal(summary[expected.columns], expected)
    named, unnamed = (read_scores(tmp_path / place / "scores.csv") for place in ("out", "evaluated"))
    pd.testing.assert_frame_equal(named.assign(network="", training_set=""), unnamed)


def test_merged_tissues_score_as_converted_by_hand(home, tmp_path):
    root = tmp_path / "mscmr"
    for case_id in ("subject1", "subject8"):
        fake_mscmr.write_case(root, case_id)
    _, summary = run(home, root, source="mscmr_lge")
    predict(home, [root / "images"], PredictOptions(MODEL, tmp_path / "maps"))
    numbers = np.array([0, 3, 2, 2, 2], np.uint8)  # MS-CMRSeg's and ACDC's: myocardium 2, cavity 3
    for case_id in ("subject1", "subject8"):
        drawn = nibabel.load(tmp_path / "maps" / f"{case_id}_DE.nii.gz")
        converted = nibabel.Nifti1Image(numbers[np.asarray(drawn.dataobj)], drawn.affine, drawn.header)
        (tmp_path / "converted").mkdir(exist_ok=True)
        nibabel.save(converted, tmp_path / "converted" / f"{case_id}_frame01.nii.gz")
        (tmp_path / "references").mkdir(exist_ok=True)
        reference = fake_mscmr.mask_path(root, case_id)
        shutil.copy(reference, tmp_path / "references" / f"{case_id}_frame01.nii.gz")
    evaluate(tmp_path / "references", tmp_path / "converted", "acdc", tmp_path / "evaluated")
    expected = pd.read_csv(tmp_path / "evaluated" / "summary.csv").set_index(KEY)
    assert set(summary["tissue"]) == {"cavity", "myocardium"}
    found = summary.set_index(KEY).loc[expected.index, ["mean", "low", "high"]]
    pd.testing.assert_frame_equal(found, expected[["mean", "low", "high"]])


def test_the_output_names_the_model_the_source_and_the_scored_tissues(home, root, capsys):
    status, _ = run(home, root, fold=0)
    assert status == 0
    told = capsys.readouterr()
    assert "5 of 5 studies were scored" in told.out
    assert "scored tissues: cavity, normal myocardium, infarct, no-reflow" in told.err
    content = json.loads((root.parent / "out" / "external_test.json").read_text())
    (model,) = content["models"]
    assert (content["source"], content["crop"], content["label_set"]) == ("emidec", "localiser", "emidec")
    assert (model["name"], model["localiser"], model["scored"]) == (MODEL, "hospital/tiny, fold 0", 5)
    assert set(read_scores(root.parent / "out" / "scores.csv")["fold"]) == {0}
    assert content["told_from_training_patients_by"] == {f"model {MODEL}": "source alone"}


def test_cutting_around_the_reference_needs_no_localiser_and_changes_the_maps(home, root):
    _, around_box = run(home, root)
    shutil.rmtree(home / "hospital" / "tiny" / "lv_localiser")
    with pytest.raises(InputError, match="has no finished localiser"):
        run(home, root)
    _, around_reference = run(home, root, crop="reference")
    content = json.loads((root.parent / "out" / "external_test.json").read_text())
    assert content["crop"] == "reference"
    assert content["models"][0]["localiser"] == "none: cut around the reference"
    assert not around_box["mean"].equals(around_reference["mean"])


def test_a_patient_under_two_names_is_told_once_for_two_models(home, root, capsys):
    write_member(home, 1, 0, source="hospital", training_set="real_plus_gan")
    copy = shutil.copytree(root / CASES[0], root / "Case_P901")
    for path in [path for path in copy.rglob("*") if CASES[0] in path.name]:
        path.rename(path.with_name(path.name.replace(CASES[0], "Case_P901")))
    run(home, root, MODEL, WITH_GAN)
    line = f"the references of {CASES[0]} and Case_P901 are equal in every voxel and count as several; keep one of them"
    assert capsys.readouterr().err.count(f"warning: {line}") == 1
    assert line in json.loads((root.parent / "out" / "external_test.json").read_text())["warnings"]


def test_two_models_stand_side_by_side_with_their_difference(home, root, capsys):
    write_member(home, 1, 0, source="hospital", training_set="real_plus_gan")
    run(home, root, MODEL, WITH_GAN)
    shown = capsys.readouterr().out
    assert "attention_res_unet real_plus_gan minus attention_res_unet real_only" in shown
    assert "too few patients" in shown
    differences = pd.read_csv(root.parent / "out" / "differences.csv")
    scores = read_scores(root.parent / "out" / "scores.csv")
    chosen = scores[(scores["rule"] == "positive") & (scores["tissue"] == "cavity") & (scores["metric"] == "dice")]
    means = chosen.groupby("training_set")["value"].mean()
    row = differences[(differences["rule"] == "positive") & (differences["tissue"] == "cavity")].iloc[0]
    assert row["difference"] == pytest.approx(means["real_plus_gan"] - means["real_only"])
    assert set(pd.read_csv(root.parent / "out" / "patients.csv")["training_set"]) == {"real_only", "real_plus_gan"}
    run(home, root, MODEL)
    assert not (root.parent / "out" / "differences.csv").exists()


def test_models_of_one_name_are_told_apart_by_their_source(home, root, capsys):
    names = [f"{source}/tiny/attention_res_unet" for source in ("hospital", "clinic", "ward")]
    for source in ("clinic", "ward"):
        write_member(home, 3, 0, source=source)
    _, summary = run(home, root, *(f"{name}/real_only" for name in names))
    assert set(summary["network"]) == set(names)
    shown = capsys.readouterr().out
    assert all(name in shown for name in names)
    assert "…" not in shown


def test_a_model_without_scar_is_scored_on_what_both_know(home, root):
    write_member(home, 1, 0, source="clinic", label_set="cine")
    _, summary = run(home, root, MODEL, MODEL.replace("hospital", "clinic"))
    assert set(summary["tissue"]) == {"cavity", "myocardium"}


def test_what_cannot_be_read_is_named_and_not_scored(home, root, capsys):
    fake_emidec.ODDITIES["not_nifti"][0](root, "Case_P900")
    status, summary = run(home, root)
    told = capsys.readouterr()
    assert status == 2
    assert "scarforge: left out Case_P900:" in told.err
    assert "5 of 6 studies were scored; those without a label map (1) are in none of these scores" in told.out
    patients = pd.read_csv(root.parent / "out" / "patients.csv").set_index("case_id")
    assert "not a readable NIfTI file" in patients.loc["Case_P900", "problem"]
    assert summary["of_patients"].max() == 5


def test_flagged_studies_are_scored_and_counted(home, root, monkeypatch, capsys):
    monkeypatch.setattr("segmentation.prediction.plausibility.implausibilities", no_heart)
    status, summary = run(home, root)
    told = capsys.readouterr()
    assert status == 3
    assert told.err.count("flagged: Case_") == 5
    assert "5 of 5 studies were scored, 5 of them flagged" in told.out
    assert summary["patients"].max() == 5
    assert set(pd.read_csv(root.parent / "out" / "patients.csv")["flags"]) == {"no heart at all"}


def test_a_study_that_cannot_be_cut_is_a_line_and_the_others_go_on(home, root, monkeypatch, capsys):
    monkeypatch.setattr("segmentation.localiser.box_prediction.load_localiser", LostOnSquares)
    other = fake_emidec.label_map("Case_P008", (48, 48, 3))
    fake_emidec.write_case(root, "Case_P008", mask=other)
    status, _ = run(home, root)
    assert status == 2
    assert "scarforge: no left ventricle was located" in capsys.readouterr().err


def split_of(home, source, train, validation, test):
    folder = home / source / "tiny" / "patient_split"
    splits = [FoldSplit(0, train, validation, test), FoldSplit(1, test, validation, train)]
    write_splits(folder / "patient_split.json", splits)
    seal(folder, "patient_split")
    return folder


def test_training_patients_of_the_same_source_are_refused_with_the_fold_that_helps(home, root):
    for fold in (0, 1):
        write_member(home, fold, 0, source="emidec")
    split_of(home, "emidec", CASES, ("Case_N001",), ("Case_N002",))
    own = MODEL.replace("hospital", "emidec")
    with pytest.raises(InputError, match=r"was trained on .*5 of 5 patients.*fold 1 has not seen any of them"):
        run(home, root, own)
    assert run(home, root, own, fold=1)[0] == 0
    fake_emidec.write_case(root, "Case_N001")
    with pytest.raises(InputError, match=r"was trained on Case_N001 \(1 of 6 patients\).*give a folder without them"):
        run(home, root, own, fold=1)


def test_patients_of_the_model_that_a_training_started_from_are_refused(home, root):
    start = {"source": "emidec", "patients": list(CASES[:1])}
    write_member(home, 0, 0, source="acdc", label_set="cine", started_from=[start | {"source": "acdc"}, start])
    with pytest.raises(InputError, match=rf"the model that acdc/.* fold 0 started from was trained on {CASES[0]} \("):
        run(home, root, MODEL.replace("hospital", "acdc"))


@pytest.mark.parametrize("start", [{"source": "emidec"}, {}])
def test_a_start_whose_card_does_not_tell_its_patients_is_refused(home, root, start):
    write_member(home, 0, 0, source="acdc", label_set="cine", started_from=[start])
    with pytest.raises(InputError, match=r"does not tell on which patients the model that acdc/.* fold 0 started"):
        run(home, root, MODEL.replace("hospital", "acdc"))


def test_a_model_of_the_same_source_that_does_not_tell_its_patients_is_refused(home, root):
    write_member(home, 0, 0, source="emidec", parents={"patient_split": "older"})
    own = MODEL.replace("hospital", "emidec")
    with pytest.raises(InputError, match=r"patient_split.json: is missing, so that model emidec/tiny.*cannot be told"):
        run(home, root, own)
    folder = split_of(home, "emidec", ("Case_N001",), ("Case_N002",), ("Case_N003",))
    seal(folder, "patient_split", "newer")
    with pytest.raises(InputError, match=r"is split newer, model emidec/.* was trained with older; train it again"):
        run(home, root, own)


def test_the_patients_of_a_borrowed_localiser_count_too(home, root):
    write_localiser(home, 0)
    split_of(home, "emidec", CASES[:1], ("Case_N001",), ("Case_N002",))
    with pytest.raises(InputError, match=rf"localiser emidec/tiny, fold 0 was trained on {CASES[0]} \(1 of 5"):
        run(home, root, localiser="emidec/tiny")


def test_a_renamed_training_patient_is_known_by_the_image(home, root, tmp_path):
    split_of(home, "hospital", CASES, ("Case_N001",), ("Case_N002",))
    archive = home / "hospital" / "tiny" / "studies" / "studies.h5"
    write_studies(archive, list(read_emidec(root)), EMIDEC_LABELS, "hospital")
    seal(archive.parent, "studies")
    renamed = tmp_path / "renamed"
    fake_emidec.write_case(renamed, "Case_P777", fake_emidec.image_of(fake_emidec.label_map(CASES[0])))
    with pytest.raises(InputError, match=r"model hospital/.* was trained on Case_P777 \(1 of 1 patients\)"):
        run(home, renamed)


def test_phantoms_of_one_name_are_the_same_only_if_they_are_drawn_alike(home, tmp_path):
    write_member(home, 0, 0, source="phantom")
    drawn = PhantomConfig(patients=5, slices=(3, 3))
    studies = list(read_phantom(drawn))
    names = [study.case_id for study in studies]
    split_of(home, "phantom", names[:3], names[3:4], names[4:])
    options = {"source": "phantom", "overrides": ("phantom.patients=5", "phantom.slices=[3, 3]")}
    own = MODEL.replace("hospital", "phantom")
    with pytest.raises(InputError, match=r"studies.h5: is missing"):
        run(home, tmp_path / "none", own, **options)
    write_studies(home / "phantom" / "tiny" / "studies" / "studies.h5", studies, EMIDEC_LABELS, "phantom")
    seal(home / "phantom" / "tiny" / "studies", "studies")
    with pytest.raises(InputError, match=r"was trained on .* \(4 of 5 patients\)"):
        run(home, tmp_path / "none", own, **options)
    options["overrides"] += ("phantom.seed=7",)
    assert run(home, tmp_path / "none", own, **options)[0] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": ("hospital/tiny/halsr_net/real_only",)}, "model hospital/tiny/halsr_net/real_only is not in the"),
        ({"models": ("hospital",)}, "model 'hospital' is neither shipped nor added"),
        ({"models": (MODEL, MODEL)}, "is named twice; name it once"),
        ({"models": ()}, "give --model"),
        ({"source": "acme"}, "source 'acme' is unknown; choose one of"),
        ({"root": None}, "needs the folder that holds the studies; give --root DIR"),
        ({"source": "acdc"}, r"holds no patient\* folder"),
        ({"crop": "middle"}, "--crop 'middle' is unknown; choose one of localiser, reference"),
        ({"crop": "reference", "localiser": "acdc/quick"}, "leave out one of --crop and --localiser"),
        ({"overrides": ("halsr_net.steps=3",)}, "would change nothing here"),
        ({"source": "nifti", "overrides": ("source.label_set=acme",)}, "source.label_set"),
    ],
)
def test_what_is_asked_wrongly_is_named(home, root, options, message):
    given = {"models": (MODEL,), "source": "emidec", "root": root, "output": root.parent / "out"} | options
    with pytest.raises(InputError, match=message):
        external_test(home, ExternalTestOptions(**given))
    assert not (root.parent / "out").exists()


def test_where_no_study_can_be_used_the_first_reason_is_told(home, tmp_path):
    fake_emidec.ODDITIES["foreign_label"][0](tmp_path / "emidec", "Case_P900")
    with pytest.raises(InputError, match=r"none of the 1 studies could be scored, the first because: .*values \[7\]"):
        run(home, tmp_path / "emidec")


def test_the_command_ends_with_the_status_of_the_test(home, root, monkeypatch):
    from typer.testing import CliRunner

    from pipeline.cli import app

    monkeypatch.setenv("SCARFORGE_HOME", str(home))
    seen = {}
    monkeypatch.setattr(module, "external_test", lambda *values: seen.update(values=values) or 3)
    command = ["external-test", "--model", MODEL, "--model", WITH_GAN, "--source", "emidec", "--root", str(root)]
    result = CliRunner().invoke(app, [*command, "--crop", "reference", "--no-flips", "--fold", "2", "-o", "o"])
    assert result.exit_code == 3
    assert seen["values"][0] == home
    options = seen["values"][1]
    assert options.models == (MODEL, WITH_GAN)
    assert (options.crop, options.flips, options.fold, options.root) == ("reference", False, 2, root)
