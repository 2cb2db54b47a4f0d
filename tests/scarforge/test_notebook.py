"""What `import scarforge` offers, with an untrained network and a localiser that knows the place."""

import subprocess
import sys

import nibabel
import numpy as np
import pytest

import scarforge
from common.errors import InputError
from imaging.labels import EMIDEC_LABELS
from tests.imaging.fake_emidec import SPACING_MM, image_of, label_map, write_case, write_nifti
from tests.pipeline.toy_models import CentralBox, nothing_odd, write_member

MODEL = "emidec/tiny/attention_res_unet/real_only"


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setattr("segmentation.localiser.box_prediction.load_localiser", CentralBox)
    monkeypatch.setattr("segmentation.prediction.plausibility.implausibilities", nothing_odd)
    for seed in (0, 1):
        write_member(tmp_path / "home", 0, seed)
    return scarforge.load_model(MODEL, workspace=tmp_path / "home", device="cpu")


def test_importing_is_light():
    heavy = ("torch", "dagster", "mlflow", "albumentations")
    code = f"import sys, scarforge; sys.exit(' '.join(name for name in {heavy} if name in sys.modules) or 0)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


def test_a_file_and_its_array_give_the_same_labels_and_volumes(tmp_path, model):
    path = tmp_path / "study.nii.gz"
    write_nifti(path, image_of(label_map("Case_P002")))
    of_file = model.predict(path)
    of_file.save(tmp_path / "found.nii.gz")
    saved, given = nibabel.load(tmp_path / "found.nii.gz"), nibabel.load(path)
    np.testing.assert_array_equal(saved.affine, given.affine)
    assert saved.shape == given.shape
    assert of_file.mask.dtype == np.uint8
    assert of_file.tissues == EMIDEC_LABELS.tissues == model.labels.tissues
    voxel_ml = np.prod(SPACING_MM) / 1000
    assert of_file.volumes_ml["cavity"] == pytest.approx((of_file.mask == 1).sum() * voxel_ml, rel=1e-6)
    assert (model.folds, model.seeds) == ((0,), (0, 1))


def test_studies_of_a_source_are_predicted_evaluated_and_compared(tmp_path, model):
    for case in ("Case_P002", "Case_N003"):
        write_case(tmp_path / "emidec", case)
    studies = list(scarforge.read_source("emidec", tmp_path / "emidec"))
    perfect = scarforge.evaluate(studies, [study.mask for study in studies])
    with pytest.warns(UserWarning, match="hold only 0 and 3|are equal in every voxel"):  # an untrained network
        drawn = scarforge.evaluate(studies, [model.predict(study) for study in studies])
    dice = perfect[(perfect["metric"] == "dice") & (perfect["rule"] == "positive")]
    assert set(dice["value"]) == {1.0}
    table = scarforge.compare(drawn, perfect, names=("drawn", "perfect"))
    row = table[(table["rule"] == "positive") & (table["tissue"] == "normal_myocardium")].iloc[0]
    assert row["difference"] == pytest.approx(row["perfect"] - row["drawn"])
    assert row["difference"] > 0


def test_regions_are_labelled_and_their_probabilities_agree(model):
    regions = np.random.default_rng(0).random((3, 32, 32), dtype=np.float32)
    labels, probabilities = model.segment_regions(regions), model.probabilities_of_regions(regions)
    assert labels.shape == (3, 32, 32)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(probabilities.argmax(axis=1), labels)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((np.zeros((4, 40, 40)), None), "its spacing is unknown; give spacing_mm"),
        ((np.zeros((40, 40)), (8, 1, 1)), r"shape \(40, 40\)"),
        ((np.full((2, 40, 40), np.nan), (8, 1, 1)), "not finite"),
        ((np.ones((2, 40, 40)), (8, 0, 1)), "three lengths above 0"),
        (("missing.nii.gz", (8, 1, 1)), "has its own"),
    ],
)
def test_what_is_no_study_is_refused_in_words(model, arguments, words):
    with pytest.raises(InputError, match=words):
        model.predict(*arguments)


def test_an_arrays_prediction_has_no_place_to_be_saved_in(tmp_path, model):
    found = model.predict(image_of(label_map("Case_P002")).transpose(2, 1, 0).astype(np.float32), (8, 1, 1))
    with pytest.raises(InputError, match="place in the scanner is not known"):
        found.save(tmp_path / "x.nii.gz")


@pytest.mark.parametrize(
    ("reference", "prediction", "options", "words"),
    [
        (np.zeros((2, 8, 8), int), np.zeros((2, 8, 8), int), {}, "spacing of arrays is unknown"),
        ([np.zeros((2, 8, 8), int)] * 2, [np.zeros((2, 8, 8), int)], {"spacing_mm": (8, 1, 1)}, "2 references and 1"),
        (np.zeros((2, 8, 8), int), "folder", {}, "two folders, or neither"),
        ("a", "b", {"labels": "nifti"}, "folders are in the format"),
        (np.zeros((2, 8, 8), int), np.zeros((2, 8, 8), int), {"spacing_mm": (8, 1, 1), "labels": "x"}, "give one of"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_words(reference, prediction, options, words):
    with pytest.raises(InputError, match=words):
        scarforge.evaluate(reference, prediction, **options)


def test_a_study_that_is_left_out_is_a_warning(tmp_path):
    write_case(tmp_path, "Case_P002")
    write_case(tmp_path, "Case_N003")
    next((tmp_path / "Case_N003").rglob("*.nii.gz")).write_bytes(b"no NIfTI")
    with pytest.warns(UserWarning, match="Case_N003"):
        assert [study.case_id for study in scarforge.read_source("emidec", tmp_path)] == ["Case_P002"]
