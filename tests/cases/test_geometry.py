"""NIfTI files that state one fact twice: where the two disagree it is said, and every command reads them alike."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from common.errors import InputError
from imaging.dataset_card import write_dataset_card
from imaging.labels import EMIDEC_LABELS
from imaging.slices.regions import RegionConfig
from imaging.sources.config import SourceConfig
from imaging.sources.nifti_pairs import read_nifti_pairs
from imaging.studies.archive import StudyArchive
from imaging.studies.archive_writer import write_studies
from imaging.studies.study import RejectedStudy, Study
from imaging.volumes.dicom.volume import DicomVolume, dicom_volume, read_dicom_slices
from imaging.volumes.new_studies import find_studies, volumes_of
from imaging.volumes.nifti import NiftiVolume, read_nifti, read_nifti_pair, write_label_map
from pipeline.commands.evaluate import evaluate
from pipeline.commands.external_test import ExternalTestOptions, external_test
from pipeline.commands.predict.predict import PredictOptions, predict
from segmentation.evaluation.label_maps import EMIDEC, read_reference
from segmentation.scoring.scores import read_scores
from tests.pipeline.toy_models import CentralBox, nothing_odd, write_member

Case = Callable[[str], Path]

MODEL = "hospital/tiny/attention_res_unet/real_only"
TRUE_MM = (8.0, 1.457, 1.457)
CLOSE_MM = 0.01
PLACED = ("pixdim", "qform_code", "sform_code", "quatern_b", "qoffset_x", "srow_x", "srow_y", "srow_z")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("segmentation.localiser.box_prediction.load_localiser", CentralBox)
    monkeypatch.setattr("segmentation.prediction.plausibility.implausibilities", nothing_odd)
    write_member(tmp_path / "home", 0, 0, source="hospital")
    return tmp_path / "home"


def read(root: Path) -> Iterator[Study | RejectedStudy]:
    return read_nifti_pairs(root, SourceConfig())


def by_stem(root: Path) -> dict[str, Study | RejectedStudy]:
    return {Path(study.path).name.removesuffix(".nii.gz"): study for study in read(root)}


def sound(study: Study | RejectedStudy) -> Study:
    assert isinstance(study, Study), study.reason
    return study


def new_study(path: Path) -> NiftiVolume:
    """As `predict` reads it."""
    (found,) = find_studies([path])
    (volume,) = volumes_of(found)
    read_volume = volume.read().volume
    assert isinstance(read_volume, NiftiVolume)
    return read_volume


def problem_lines(told: str) -> list[str]:
    return [line for line in told.splitlines() if line.startswith("scarforge: ") and "warning" not in line]


@pytest.mark.parametrize(
    ("number", "stem", "reason"),
    [
        ("01", "screenshot", r"images/screenshot\.nii\.gz: its voxels are of type RGB24 \(datatype 128\)"),
        ("01", "rgblabel", r"labels/rgblabel\.nii\.gz: its voxels are of type RGB24 \(datatype 128\)"),
        ("02", "cplx", r"images/cplx\.nii\.gz: its voxels are of type COMPLEX64 \(datatype 32\)"),
        ("03", "p", r"images/p\.nii\.gz: not a readable NIfTI file \(CRC check failed"),
        (
            "04",
            "sform_halfz",
            r"pixdim says 1\.457 x 1\.457 x 8 and its affine 1\.457 x 1\.457 x 4 .* correct the header",
        ),
    ],
)
def test_a_file_that_cannot_be_right_is_refused_by_name(case: Case, number: str, stem: str, reason: str) -> None:
    (study,) = (one for one in read(case(number) / "d") if f"{stem}.nii.gz" in one.path)
    assert isinstance(study, RejectedStudy)
    assert re.search(reason, study.reason)
    assert "\n" not in study.reason


def test_a_mask_whose_checksum_fails_is_refused_by_name(case: Case, tmp_path: Path) -> None:
    for folder, kind in (("images", "labels"), ("labels", "images")):
        (tmp_path / folder).mkdir()
        shutil.copy(case("03") / "d" / kind / "p.nii.gz", tmp_path / folder)
    (study,) = read(tmp_path)
    assert isinstance(study, RejectedStudy)
    assert f"{tmp_path / 'labels' / 'p.nii.gz'}: not a readable NIfTI file (CRC check failed" in study.reason


def test_a_colour_image_costs_no_other_study(
    case: Case, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = case("01") / "d"
    assert predict(home, [root / "images"], PredictOptions(MODEL, tmp_path / "maps")) == 2
    (line,) = problem_lines(capsys.readouterr().err)
    assert "screenshot.nii.gz: its voxels are of type RGB24" in line
    assert set(pd.read_csv(tmp_path / "maps" / "predictions.csv")["case_id"]) == {"good", "rgblabel"}
    assert line.removeprefix("scarforge: ") in (tmp_path / "maps" / "index.html").read_text(encoding="utf-8")
    assert evaluate(root / "labels", tmp_path / "maps", "emidec", tmp_path / "scores") == 2
    lines = problem_lines(capsys.readouterr().err)
    assert len(lines) == 2
    assert any("rgblabel.nii.gz: its voxels are of type RGB24" in one for one in lines)
    assert set(read_scores(tmp_path / "scores" / "scores.csv")["case_id"]) >= {"good"}
    assert external_test(home, ExternalTestOptions((MODEL,), "nifti", root, tmp_path / "tested")) == 2
    assert len(problem_lines(capsys.readouterr().err)) == 2


BOTH = {
    "sform_unit_pixdim_true": "pixdim says 1.457 x 1.457 x 8 and its affine 1 x 1 x 1",
    "sform_true_pixdim_unit": "pixdim says 1 x 1 x 1 and its affine 1.457 x 1.457 x 8",
}


def test_a_spacing_that_one_of_two_places_lacks_is_taken_from_the_other_and_said_everywhere(
    case: Case, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = case("04") / "d"
    images = [root / "images" / f"{stem}.nii.gz" for stem in BOTH]
    predict(home, images, PredictOptions(MODEL, tmp_path / "maps"))
    told = capsys.readouterr().err
    page = (tmp_path / "maps" / "index.html").read_text(encoding="utf-8")
    predictions = pd.read_csv(tmp_path / "maps" / "predictions.csv").set_index("case_id")
    for stem, said in BOTH.items():
        assert f"warning: {stem}: {root / 'images' / stem}.nii.gz: {said}" in told
        assert said in page
        content = json.loads((tmp_path / "maps" / f"{stem}.json").read_text())
        assert said in content["warnings"][0]
        assert said in predictions.loc[stem, "warnings"]
        assert content["spacing_mm"] == pytest.approx(TRUE_MM)
    labels = root / "labels"
    assert evaluate(labels, labels, "emidec", tmp_path / "scores") == 2
    told = capsys.readouterr().err
    assert all(f"warning: {labels / stem}.nii.gz: {said}" in told for stem, said in BOTH.items())
    assert external_test(home, ExternalTestOptions((MODEL,), "nifti", root, tmp_path / "tested")) == 2
    warnings = json.loads((tmp_path / "tested" / "external_test.json").read_text())["warnings"]
    assert sum(any(said in warning for said in BOTH.values()) for warning in warnings) == 4  # image, mask of 2 studies
    patients = pd.read_csv(tmp_path / "tested" / "patients.csv").set_index("case_id")
    for stem, said in BOTH.items():
        assert patients.loc[stem, "warnings"].count(said) == 2


def test_a_spacing_that_disagrees_reaches_the_dataset_card(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "studies.h5"
    write_studies(path, read(case("04") / "d"), EMIDEC_LABELS, "nifti", minimum_patients=1)
    archive = StudyArchive.open(path)
    assert archive.table()[["slice_mm", "row_mm"]].to_numpy() == pytest.approx(np.array([[8, 1.457]] * 2))
    card = write_dataset_card(archive, tmp_path / "card.html", RegionConfig())
    page = (tmp_path / "card.html").read_text(encoding="utf-8")
    for said in BOTH.values():
        assert any(said in warning for warning in card.warnings)
        assert said in page
    assert "1.457 x 1.457 x 8 and its affine 1.457 x 1.457 x 4" in page  # refused, with its reason


def test_a_spacing_that_the_user_tells_settles_it(case: Case) -> None:
    studies = [sound(study) for study in read_nifti_pairs(case("04") / "d", SourceConfig(spacing_mm=TRUE_MM))]
    assert [study.spacing_mm for study in studies] == [TRUE_MM] * 3
    assert not any(study.notes for study in studies)


def test_every_command_reads_plain_affines_alike(case: Case) -> None:
    root = case("05") / "d"
    studies = by_stem(root)
    assert set(studies) == {"ras", "las", "lps"}
    expected = np.asarray(nibabel.load(root / "images" / "ras.nii.gz").dataobj).transpose()
    for stem, study in studies.items():
        np.testing.assert_array_equal(sound(study).image, expected)
        np.testing.assert_array_equal(new_study(root / "images" / f"{stem}.nii.gz").image, expected)
        reference, _ = read_reference(root / "labels" / f"{stem}.nii.gz", EMIDEC)
        np.testing.assert_array_equal(reference.mask, sound(study).mask)


@pytest.mark.parametrize("direction", ["ras", "lps"])
def test_external_test_scores_plain_affines_as_predict_and_evaluate_do(
    case: Case, home: Path, tmp_path: Path, direction: str
) -> None:
    for kind in ("images", "labels"):
        (tmp_path / "in" / kind).mkdir(parents=True)
        for name in ("new0.nii.gz", "new1.nii.gz"):
            shutil.copy(case("22") / direction / kind / name, tmp_path / "in" / kind)
    external_test(home, ExternalTestOptions((MODEL,), "nifti", tmp_path / "in", tmp_path / "tested"))
    predict(home, [tmp_path / "in" / "images"], PredictOptions(MODEL, tmp_path / "maps"))
    evaluate(tmp_path / "in" / "labels", tmp_path / "maps", "emidec", tmp_path / "evaluated")
    tested, evaluated = (read_scores(tmp_path / place / "scores.csv") for place in ("tested", "evaluated"))
    pd.testing.assert_frame_equal(tested.assign(network="", training_set=""), evaluated)


@pytest.mark.parametrize("series", ["ANISO", "DIGITS3", "SHEAR", "BIGEND", "LITTLE"])
def test_a_label_map_drawn_on_dicom_lies_on_it(case: Case, tmp_path: Path, series: str) -> None:
    sitk = pytest.importorskip("SimpleITK")
    volume = dicom_volume(read_dicom_slices(sorted((case("14") / "d" / series).iterdir())))
    write_label_map(tmp_path / "labels.nii.gz", np.zeros(volume.image.shape, np.uint8), volume)
    labels = sitk.ReadImage(str(tmp_path / "labels.nii.gz"))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(one.path) for one in volume.slices])
    image = reader.Execute()
    assert labels.GetSize() == image.GetSize()
    affine = nibabel.load(tmp_path / "labels.nii.gz").affine
    for column, row, slice_ in corners(labels.GetSize()):
        own, peer = (one.TransformIndexToPhysicalPoint((column, row, slice_)) for one in (labels, image))
        np.testing.assert_allclose(own, peer, atol=CLOSE_MM)
        if series == "DIGITS3":  # cosines of three digits are made orthonormal, as ITK does
            continue
        right_mm, front_mm, up_mm = nibabel.affines.apply_affine(affine, (column, row, slice_))
        np.testing.assert_allclose((-right_mm, -front_mm, up_mm), dicom_mm(volume, column, row, slice_), atol=CLOSE_MM)
    again = read_nifti(tmp_path / "labels.nii.gz")
    assert again.spacing_mm == pytest.approx(volume.spacing_mm, rel=1e-3)
    assert again.arrangement == volume.arrangement


def corners(size: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    ends = [(0, count - 1) for count in size]
    return [(column, row, slice_) for column in ends[0] for row in ends[1] for slice_ in ends[2]]


def dicom_mm(volume: DicomVolume, column: int, row: int, slice_: int) -> np.ndarray:
    """Where a pixel lies (PS3.3, C.7.6.2.1.1)."""
    one = volume.slices[slice_]
    (along_columns, along_rows), (row_mm, column_mm) = one.directions, one.pixel_mm
    return np.asarray(one.position_mm + along_columns * column_mm * column + along_rows * row_mm * row)


@pytest.mark.parametrize("stem", ["a_agree", "b_shifted", "c_sheared_sform", "d_qonly"])
def test_a_label_map_keeps_qform_and_sform_with_their_codes(case: Case, tmp_path: Path, stem: str) -> None:
    sitk = pytest.importorskip("SimpleITK")
    path = case("15") / "d" / f"{stem}.nii.gz"
    volume = new_study(path)
    write_label_map(tmp_path / "labels.nii.gz", np.zeros(volume.data.shape, np.uint8), volume)
    header, own = nibabel.load(path).header, nibabel.load(tmp_path / "labels.nii.gz").header
    for name in PLACED:
        np.testing.assert_array_equal(own[name], header[name], err_msg=name)
    image, labels = sitk.ReadImage(str(path)), sitk.ReadImage(str(tmp_path / "labels.nii.gz"))
    for what in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(labels, what)() == getattr(image, what)()


@pytest.mark.parametrize(
    ("stem", "said"),
    [
        ("a_agree", ""),
        (
            "b_shifted",
            r"its qform \(code 1\) and its sform \(code 2\) put voxels up to 15\.0 mm apart \(the first .*25",
        ),
        ("c_sheared_sform", r"its qform \(code 1\) and its sform \(code 2\) put voxels up to \d+\.\d mm apart"),
        ("d_qonly", ""),
    ],
)
def test_two_places_of_one_volume_are_said(case: Case, stem: str, said: str) -> None:
    notes = new_study(case("15") / "d" / f"{stem}.nii.gz").notes
    assert re.search(said, " ".join(notes))
    assert len(notes) == bool(said)


def test_a_mask_that_lost_its_place_is_taken_as_drawn_and_said(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = case("29") / "d"
    image_path, mask_path = root / "images" / "subject1_DE.nii.gz", root / "labels" / "subject1_DE_manual.nii.gz"
    (study,) = map(sound, read(root))
    image = new_study(image_path)
    np.testing.assert_array_equal(image.arrangement.undo(study.mask), np.asarray(nibabel.load(mask_path).dataobj))
    np.testing.assert_array_equal(study.image, image.image)
    (note,) = study.notes
    assert note.startswith(f"{mask_path}: the affine of the mask tells no place (a plain diagonal matrix)")

    for place in ("reference", "maps"):
        (tmp_path / place).mkdir()
    shutil.copy(mask_path, tmp_path / "reference" / "subject1_DE.nii.gz")
    write_label_map(tmp_path / "maps" / "subject1_DE.nii.gz", study.mask, image)
    assert evaluate(tmp_path / "reference", tmp_path / "maps", "emidec", tmp_path / "scores") == 0
    assert "it is taken as drawn on the image" in capsys.readouterr().err
    scores = read_scores(tmp_path / "scores" / "scores.csv")
    assert set(scores.loc[scores["metric"] == "dice", "value"].dropna()) == {1.0}


@pytest.mark.parametrize(
    ("shape", "sides_mm", "reason"),
    [((190, 200, 7), (1.457, 1.457, 8), "differ in shape"), ((190, 200, 8), (1.3, 1.3, 8), "is not the image's")],
)
def test_a_mask_that_lost_its_place_is_refused_where_shape_or_spacing_differ(
    case: Case, tmp_path: Path, shape: tuple[int, int, int], sides_mm: tuple[float, ...], reason: str
) -> None:
    mask = nibabel.Nifti1Image(np.zeros(shape, np.uint8), np.diag([*sides_mm, 1.0]))
    nibabel.save(mask, tmp_path / "mask.nii.gz")
    with pytest.raises(InputError, match=reason):
        read_nifti_pair(case("29") / "d" / "images" / "subject1_DE.nii.gz", tmp_path / "mask.nii.gz")


ODD_MASKS = {
    "b_rgb": "its voxels are of type RGB24",
    "c_complex": "its voxels are of type COMPLEX64",
    "e_4d_first": r"shape \(1, 190, 200, 8\) is not a volume",
    "h_prob": "voxels are not whole label values",
    "i_255": r"label values \[255\]",
    "j_nan": "voxels are NaN or infinite",
    "k_image": r"label values \[\d+, \d+, \d+, \d+, \d+ and \d+ more\]",
    "m_inf": "voxels are NaN or infinite",
}


@pytest.mark.parametrize("folder", ODD_MASKS)
def test_an_odd_mask_is_one_bounded_line_and_the_rest_is_scored(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: str
) -> None:
    place = case("17") / "d" / folder
    assert evaluate(place / "ref", place / "pred", "emidec", tmp_path) == 2
    (line,) = problem_lines(capsys.readouterr().err)
    assert re.search(f"x.nii.gz: .*{ODD_MASKS[folder]}", line)
    assert len(line) < len(str(place)) + 300
    patients = pd.read_csv(tmp_path / "patients.csv").set_index("case_id")
    assert patients["problem"].notna().to_dict() == {"good": False, "x": True}


@pytest.mark.parametrize("folder", ["d_4d_last", "l_negzero"])
def test_a_harmless_oddity_of_a_mask_is_read_right(case: Case, tmp_path: Path, folder: str) -> None:
    place = case("17") / "d" / folder
    assert evaluate(place / "ref", place / "pred", "emidec", tmp_path) == 0
    patients = pd.read_csv(tmp_path / "patients.csv").set_index("case_id").drop(columns=["problem", "warnings"])
    np.testing.assert_array_equal(patients.loc["x"], patients.loc["good"])


def test_forgotten_sides_are_said_and_volumes_are_right(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = case("17") / "d" / "n_pixdim1"
    assert evaluate(place / "ref", place / "pred", "emidec", tmp_path) == 0
    told = capsys.readouterr().err
    assert "ref/x.nii.gz: pixdim says 1 x 1 x 1 and its affine 1.457 x 1.457 x 8" in told
    assert "pred/x.nii.gz: pixdim says 1 x 1 x 1 and its affine 1.457 x 1.457 x 8" in told
    patients = pd.read_csv(tmp_path / "patients.csv", keep_default_na=False).set_index("case_id")
    assert patients["warnings"].map(lambda told: told.count("pixdim says 1 x 1 x 1")).to_dict() == {"good": 0, "x": 2}
    values = patients.drop(columns=["problem", "warnings"]).replace("", "nan").astype(float)
    np.testing.assert_allclose(values.loc["x"], values.loc["good"], rtol=1e-5)
