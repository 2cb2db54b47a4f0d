"""DICOM folders that went wrong: several series, kinds of image, geometries and patients in one place."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from common.errors import InputError
from imaging.volumes.dicom.volume import DicomVolume
from imaging.volumes.new_studies import NewStudy, find_studies, volumes_of
from pipeline.commands.predict.predict import PredictOptions, predict
from tests.cases.scripts.common import frame, phantom
from tests.imaging.fake_dicom import write_stack
from tests.imaging.fake_sunnybrook import edit
from tests.pipeline.toy_models import CentralBox, nothing_odd, write_member

MODEL = "emidec/tiny/attention_res_unet/real_only"
NAME, BIRTH_DATE = "Quastenflosser^Wilhelmine", "19370229"
IMAGE = phantom(5)["image"]


def read(folder: Path) -> dict[str, NewStudy]:
    studies = [volume.read() for found in find_studies([folder]) for volume in volumes_of(found)]
    return {study.case_id: study for study in studies}


def as_filed(study: NewStudy) -> np.ndarray:
    """(slice, row, column) in the order of the files along the normal."""
    return study.volume.arrangement.undo(study.volume.image).transpose(2, 1, 0)


def itk_affine(image: sitk.Image) -> np.ndarray:
    """(4, 4) to RAS millimetres."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def read_by_itk(folder: Path) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def corners(image: np.ndarray) -> np.ndarray:
    """(4, 8) homogeneous voxel indices (column, row, slice) of the corners of (S, H, W)."""
    sizes = image.shape[::-1]
    grid = np.meshgrid(*([0, size - 1] for size in sizes), [1], indexing="ij")
    return np.stack([axis.ravel() for axis in grid])


def test_interleaved_series_are_parted_and_named(case: Callable[[str], Path]) -> None:
    studies = read(case("09") / "d")
    assert list(studies) == ["MIX_series10", "MIX_series11"]
    np.testing.assert_array_equal(as_filed(studies["MIX_series10"]), IMAGE[::2])
    inverted = np.stack([one.max() - one for one in IMAGE[1::2]])
    np.testing.assert_array_equal(as_filed(studies["MIX_series11"]), inverted)
    for study, name in zip(studies.values(), ("10 'LGE PSIR SAX'", "11 'T1 map native'"), strict=True):
        assert study.volume.spacing_mm[0] == pytest.approx(16, abs=1e-4)
        assert study.notes[0].startswith(f"series {name}")
        assert study.notes[0].endswith("slices, is one of 2 series in its folder")


@pytest.mark.parametrize(
    ("variant", "names"),
    [
        ("A_two_series_same_trigger", ("series1", "series2")),
        ("B_two_series_no_trigger", ("series1", "series2")),
        ("C_one_series_imagetype", ("series1_M", "series1_P")),
        ("D_two_series_other_trigger", ("series1", "series2")),
    ],
)
def test_magnitude_and_phase_never_mix(case: Callable[[str], Path], variant: str, names: tuple[str, str]) -> None:
    studies = read(case("10") / "d" / variant)
    assert list(studies) == [f"{variant}_{name}" for name in names]
    magnitude, phase = studies.values()
    np.testing.assert_array_equal(as_filed(magnitude), IMAGE)
    np.testing.assert_array_equal(as_filed(phase), np.stack([one.max() - one for one in IMAGE]))
    assert "'LGE_PSIR_MAG' (ImageType ORIGINAL\\PRIMARY\\M\\ND" in magnitude.notes[0]
    assert "'LGE_PSIR_PSIR' (ImageType ORIGINAL\\PRIMARY\\P\\ND" in phase.notes[0]


def test_a_mosaic_is_refused(case: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match=r"IM1\.dcm: is a mosaic \(ImageType .*MOSAIC\), a whole stack as tiles"):
        read(case("13") / "d")


@pytest.mark.parametrize("name", ["ANISO", "DIGITS3", "BIGEND", "LITTLE"])
def test_arrays_and_places_are_those_of_itk(case: Callable[[str], Path], name: str) -> None:
    (study,) = read(case("14") / "d" / name).values()
    assert study.notes == ()
    np.testing.assert_array_equal(as_filed(study), IMAGE)
    image = read_by_itk(case("14") / "d" / name)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), IMAGE)
    away = (study.volume.affine - itk_affine(image)) @ corners(as_filed(study))
    assert np.abs(away).max() < 0.01


def test_rows_and_columns_keep_their_own_spacing(case: Callable[[str], Path]) -> None:
    (study,) = read(case("14") / "d" / "ANISO").values()
    row_mm, column_mm = 1.457, 1.457 * 1.25  # PixelSpacing: between rows, between columns
    sides = np.linalg.norm(study.volume.affine[:3, :3], axis=0)
    np.testing.assert_allclose(sides, (column_mm, row_mm, 8), atol=1e-3)


def test_a_sheared_stack_keeps_its_true_positions_and_says_so(case: Callable[[str], Path]) -> None:
    (study,) = read(case("14") / "d" / "SHEAR").values()
    np.testing.assert_array_equal(as_filed(study), IMAGE)
    along, normal = frame()
    for number in range(len(IMAGE)):
        lps = np.array([5.0, -7, 3]) + number * (8 * normal + 2 * along[0]) + 1.457 * (7 * along[0] + 11 * along[1])
        np.testing.assert_allclose((study.volume.affine @ [7, 11, number, 1])[:3], lps * [-1, -1, 1], atol=0.01)
    assert study.volume.spacing_mm[0] == pytest.approx(8, abs=1e-4)
    (note,) = study.notes
    assert note.startswith("the stack is sheared: each slice lies 2.00 mm sideways of the one before, 8.00 mm along")


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (("PAT1/DICOM/SE1", "PAT2/DICOM/SE1"), ["PAT1", "PAT2"]),
        (("PAT1/DICOM/SE1", "PAT1/DICOM/SE2", "PAT2/DICOM/SE1"), ["PAT1_SE1", "PAT1_SE2", "PAT2_SE1"]),
        (("PAT1/LGE", "PAT2/LGE_SAX"), ["PAT1_LGE", "PAT2_LGE_SAX"]),
        (("A", "B"), ["A", "B"]),
        (("PAT1/DICOM/SE1",), ["SE1"]),
    ],
)
def test_patients_are_named_by_their_own_folder(tmp_path: Path, folders: tuple[str, ...], names: list[str]) -> None:
    for folder in folders:
        write_stack(tmp_path / "d" / folder)
    assert [found.case_id for found in find_studies([tmp_path / "d"])] == names


def test_folders_given_one_by_one_are_named_by_their_own_patient(tmp_path: Path) -> None:
    folders = [tmp_path / patient / "DICOM" / "SE1" for patient in ("PAT1", "PAT2")]
    for folder in folders:
        write_stack(folder)
    assert [found.case_id for found in find_studies(folders)] == ["PAT1", "PAT2"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("segmentation.localiser.box_prediction.load_localiser", CentralBox)
    monkeypatch.setattr("segmentation.prediction.plausibility.implausibilities", nothing_odd)
    write_member(tmp_path / "home", 0, 0)
    return tmp_path / "home"


def test_no_name_and_no_birth_date_leaves_a_header(
    tmp_path: Path, home: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    about = {"PatientName": NAME, "PatientBirthDate": BIRTH_DATE, "SpecificCharacterSet": "ISO_IR 100"}
    image = IMAGE[:3].astype(np.int16)
    write_stack(tmp_path / "d" / "sound", image, **about)
    write_stack(tmp_path / "d" / "two series", image, **about)
    write_stack(tmp_path / "d" / "two series", image, name="again", SeriesInstanceUID="1.2.3.5", **about)
    write_stack(tmp_path / "d" / "two patients", image, PatientID=lambda number: f"{NAME} {number}", **about)
    write_stack(tmp_path / "d" / "no geometry", image, PixelSpacing=None, **about)
    write_stack(tmp_path / "d" / "captures", image, SOPClassUID="1.2.840.10008.5.1.4.1.1.7", **about)
    assert predict(home, [tmp_path / "d"], PredictOptions(MODEL, tmp_path / "out")) == 2
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {"sound.json", "two series_series1.json", "two series_series2.json"} <= {path.name for path in written}
    console = "".join(capfd.readouterr())
    assert "two patients: holds slices of 3 patients (PatientID), such as IM000.dcm and IM001.dcm" in console
    for told in (console, caplog.text, *(path.read_bytes().decode("latin-1") for path in written)):
        assert not any(part in told for part in (*NAME.split("^"), BIRTH_DATE))


def test_a_volume_takes_its_notes_from_the_folder(case: Callable[[str], Path]) -> None:
    for study in read(case("09") / "d").values():
        assert isinstance(study.volume, DicomVolume)
        assert study.notes == study.volume.notes


def test_a_refusal_tells_which_files_were_left_out(tmp_path: Path) -> None:
    files = write_stack(tmp_path / "d")
    edit(files[1], PhotometricInterpretation="MONOCHROME1")
    with pytest.raises(
        InputError, match=r"a slice between them is missing.*\(besides: 1 DICOM file is left out: 1 MONO"
    ):
        read(tmp_path / "d")


def test_one_series_that_cannot_be_read_does_not_stop_the_others(tmp_path: Path) -> None:
    write_stack(tmp_path / "d", SeriesNumber=1)
    for path in write_stack(tmp_path / "d", name="broken", SeriesNumber=2, SeriesInstanceUID="1.2.3.5")[1:2]:
        path.unlink()
    (found,) = find_studies([tmp_path / "d"])
    sound, broken = volumes_of(found)
    assert (sound.case_id, broken.case_id) == ("d_series1", "d_series2")
    assert sound.read().volume.image.shape[0] == 4
    with pytest.raises(InputError, match=r"broken002\.dcm: lies 16\.00 mm from broken000\.dcm"):
        broken.read()


def test_phases_of_one_series_are_volumes_of_their_own_beside_another_series(tmp_path: Path) -> None:
    for phase in (0, 1):
        write_stack(tmp_path / "d", name=f"cine{phase}", TriggerTime=40.0 * phase, SeriesNumber=1)
    write_stack(tmp_path / "d", name="lge", SeriesNumber=2, SeriesInstanceUID="1.2.3.5")
    (found,) = find_studies([tmp_path / "d"])
    names = ["d_series1_frame01", "d_series1_frame02", "d_series2"]
    assert [volume.case_id for volume in volumes_of(found)] == names
    assert [volume.case_id for volume in volumes_of(found, phase=2)] == names[1:]


def test_a_study_that_is_given_twice_is_one_study(case: Callable[[str], Path]) -> None:
    folder = case("14") / "d"
    once = [study.case_id for study in find_studies([folder])]
    assert [study.case_id for study in find_studies([folder, folder])] == once
    assert [study.case_id for study in find_studies([folder, folder / "ANISO"])] == once
