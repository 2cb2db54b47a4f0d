import re
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
from pydicom import config, dcmread
from pydicom.data import get_testdata_file

from imaging.dicom.series import group_by_phase, read_dicom_slices, slice_places
from imaging.dicom.slice_file import DicomSlice, read_dicom_slice
from imaging.dicom.volume import dicom_volume
from imaging.errors import InputError
from imaging.nifti import read_nifti
from tests.imaging import fake_sunnybrook as fake

CASE = "SCD0000101"
BUNDLED = Path(get_testdata_file("MR_small.dcm", download=False)).parent


def bundled(name):
    return Path(get_testdata_file(name, download=False))


def slice_at(place, instance=None, trigger_ms=None, phases=None):
    return DicomSlice(
        path=Path(f"{place}-{instance}-{trigger_ms}.dcm"),
        shape=(fake.ROWS, fake.COLUMNS),
        pixel_mm=fake.PIXEL_MM,
        position_mm=fake.position_mm(place),
        directions=fake.DIRECTIONS,
        thickness_mm=8.0,
        instance=instance,
        trigger_ms=trigger_ms,
        phases=phases,
        series="",
        patient="",
    )


def pixels_or_refusal(path):
    try:
        return read_dicom_slice(path).read_pixels()
    except InputError as error:
        return str(error)


def one_line_about(path):
    return re.compile(rf"{re.escape(str(path))}: [^\n]+; [^\n]+")


def diastole(root, places=fake.PLACES):
    fake.write_case(root, CASE, places=places, phases=(fake.ED,))
    return sorted((root / CASE / "dicom").iterdir())


@pytest.mark.parametrize(
    "name",
    [
        "MR_small.dcm",
        "MR_small_RLE.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_expb.dcm",
        "MR_small_implicit.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_padded.dcm",
        "examples_overlay.dcm",
    ],
)
def test_pixels_are_those_that_pydicom_reads(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of padding and the like
        expected = dcmread(bundled(name)).pixel_array
    pixels = read_dicom_slice(bundled(name)).read_pixels()
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, expected)


def test_pixels_are_in_scanner_units(tmp_path):
    path = tmp_path / "scaled.dcm"
    path.write_bytes(bundled("MR_small.dcm").read_bytes())
    fake.edit(path, RescaleSlope="0.25", RescaleIntercept="-10.5")
    stored = dcmread(path).pixel_array
    np.testing.assert_array_equal(read_dicom_slice(path).read_pixels(), stored * 0.25 - 10.5)
    fake.edit(path, RescaleSlope=None, RescaleIntercept="")
    np.testing.assert_array_equal(read_dicom_slice(path).read_pixels(), stored)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("CT_small.dcm", "modality is CT, not MR; give the files of a cardiac MR series"),
        ("rtplan.dcm", "modality is RTPLAN, not MR"),
        ("MR_truncated.dcm", r"not a readable DICOM file \(The number of bytes of pixel data is less than expected"),
        ("MR_small_jpeg_ls_lossless.dcm", r"its pixels are compressed \(JPEG-LS Lossless Image Compression\)"),
        ("no_meta.dcm", "not a DICOM file, which would start with"),
        ("zipMR.gz", "not a DICOM file"),
    ],
)
def test_what_is_no_mr_slice_is_refused_in_one_line(name, expected):
    with pytest.raises(InputError, match=expected) as refusal:
        read_dicom_slice(bundled(name)).read_pixels()
    assert str(bundled(name)) in str(refusal.value)


def test_every_bundled_file_is_read_as_pydicom_does_or_refused_in_one_line():
    files = sorted(path for path in BUNDLED.rglob("*") if path.is_file())
    read = {path: pixels_or_refusal(path) for path in files}
    refused = {path: reason for path, reason in read.items() if isinstance(reason, str)}
    assert len(refused) <= len(files) - 20
    assert not [reason for path, reason in refused.items() if not one_line_about(path).fullmatch(reason)]
    for path in files:
        if path not in refused:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pydicom's, of padding and the like
                np.testing.assert_array_equal(read[path], dcmread(path).pixel_array)


def test_invalid_uids_pass_silently_and_pydicom_keeps_its_settings(tmp_path):
    (path, *_) = diastole(tmp_path)
    before = config.settings.reading_validation_mode
    config.settings.reading_validation_mode = config.RAISE
    try:
        read_dicom_slice(path).read_pixels()
        assert config.settings.reading_validation_mode == config.RAISE
        with pytest.raises(ValueError, match="Invalid value for VR UI"):
            _ = dcmread(path).SOPInstanceUID
        with pytest.raises(InputError, match="cannot be read"):
            read_dicom_slice(tmp_path)
        assert config.settings.reading_validation_mode == config.RAISE
    finally:
        config.settings.reading_validation_mode = before


def test_a_header_tells_place_time_and_size(tmp_path):
    fake.write_case(tmp_path, CASE, places=(2,))
    early, late = read_dicom_slices([fake.dicom_path(tmp_path, CASE, number) for number in (48, 59)])
    assert (early.instance, late.instance, late.phases) == (48, 59, 20)
    assert late.trigger_ms == pytest.approx(18.5 * 38.3)
    assert (late.shape, late.pixel_mm, late.thickness_mm) == ((40, 48), (1.5, 1.25), 10.0)
    np.testing.assert_allclose(late.position_mm, fake.position_mm(2), atol=1e-4)
    np.testing.assert_array_equal(late.directions, fake.DIRECTIONS)
    assert early.series == late.series != ""


def numbers(phases):
    return {phase: [one.path.stem for one in slices] for phase, slices in phases.items()}


def test_instance_numbers_count_phases_fastest():
    slices = [slice_at(place, 3 * place + phase + 1, phases=3) for place in (1, 0, 2) for phase in (2, 0)]
    # the normal points from place 2 to place 0
    assert numbers(group_by_phase(slices)) == {
        0: ["2-7-None", "1-4-None", "0-1-None"],
        2: ["2-9-None", "1-6-None", "0-3-None"],
    }


def test_without_a_number_of_phases_the_rank_of_the_trigger_time_counts():
    slices = [slice_at(place, None, time + 5 * place) for place in range(4) for time in (500, 20, 260)]
    phases = numbers(group_by_phase(slices))
    assert list(phases) == [0, 1, 2]
    assert phases[1] == ["3-None-275", "2-None-270", "1-None-265", "0-None-260"]


def test_instance_numbers_that_count_places_fastest_are_told_by_the_trigger_times():
    slices = [slice_at(place, 3 * phase + place + 1, 40.0 * phase + place, 4) for place in range(3) for phase in (3, 0)]
    slices += [
        slice_at(place, 3 * phase + place + 1, 40.0 * phase + place, 4) for place in range(3) for phase in (1, 2)
    ]
    phases = group_by_phase(slices)
    assert {phase: {one.trigger_ms // 40 for one in found} for phase, found in phases.items()} == {
        phase: {phase} for phase in range(4)
    }


def test_one_slice_a_place_is_one_phase():
    slices = [slice_at(place, None, 700.0 + 10 * place) for place in range(5)]
    assert list(group_by_phase(slices)) == [0]
    assert list(group_by_phase([slice_at(place) for place in range(5)])) == [0]


@pytest.mark.parametrize(
    "times", [(20, 260, 500, 505, None), (20, 260, 20, 260, 20), (20, 20, 260, 260, 500, 500), (None,) * 4]
)
def test_phases_that_nothing_tells_are_refused(times):
    slices = [slice_at(index // 2, None, time) for index, time in enumerate(times)]
    with pytest.raises(InputError, match=r"phases of . slices at . places cannot be told; export them with Instance"):
        group_by_phase(slices)


def test_phases_of_a_place_share_its_number_whatever_the_last_digit():
    near = slice_at(1)
    near.position_mm[:] += 0.02
    assert slice_places([slice_at(2), slice_at(1), near, slice_at(0)]).tolist() == [0, 1, 1, 2]


def test_slices_are_sorted_along_the_normal_whatever_the_order_of_files(tmp_path):
    files = diastole(tmp_path)
    volumes = [dicom_volume(read_dicom_slices(order)) for order in (files, files[::-1], [files[1], files[0], files[2]])]
    for volume in volumes:
        assert [one.path.stem for one in volume.slices] == ["99", "79", "59"]
        np.testing.assert_array_equal(volume.image, volumes[0].image)
    heights = [one.position_mm @ one.normal for one in volumes[0].slices]
    assert heights == sorted(heights)


def test_the_affine_leads_from_column_row_slice_to_millimetres(tmp_path):
    volume = dicom_volume(read_dicom_slices(diastole(tmp_path)))
    for number, one in enumerate(volume.slices):
        lps = one.position_mm + 5 * 1.25 * fake.DIRECTIONS[0] + 7 * 1.5 * fake.DIRECTIONS[1]
        np.testing.assert_allclose((volume.affine @ [5, 7, number, 1])[:3], lps * [-1, -1, 1], atol=1e-3)


def test_a_volume_is_the_one_that_the_nifti_reader_gives(tmp_path):
    volume = dicom_volume(read_dicom_slices(diastole(tmp_path)))
    stored = np.stack([one.read_pixels() for one in volume.slices]).transpose(2, 1, 0)  # column, row, slice
    nibabel.save(nibabel.Nifti1Image(stored, volume.affine), tmp_path / "same.nii")
    nifti = read_nifti(tmp_path / "same.nii")
    np.testing.assert_array_equal(volume.image, nifti.image)
    assert volume.arrangement == nifti.arrangement
    assert volume.spacing_mm == pytest.approx(nifti.spacing_mm, rel=1e-4)


def test_masks_drawn_on_the_files_follow_the_image_and_come_back(tmp_path):
    volume = dicom_volume(read_dicom_slices(diastole(tmp_path)))
    stack = [one.read_pixels() for one in volume.slices]
    np.testing.assert_array_equal(volume.arrange(stack), volume.image)
    np.testing.assert_array_equal(volume.arrangement.undo(volume.image).transpose(2, 1, 0), stack)


def test_thin_and_many_slices_are_slices_all_the_same(tmp_path):
    files = diastole(tmp_path, places=range(60))
    for place, path in enumerate(sorted(files, key=lambda path: int(path.stem))):
        position_mm = fake.position_mm(0) - 0.5 * place * np.cross(*fake.DIRECTIONS)
        fake.edit(path, ImagePositionPatient=position_mm.round(5).tolist())
    volume = dicom_volume(read_dicom_slices(files))
    assert volume.image.shape == (60, fake.COLUMNS, fake.ROWS)
    assert volume.spacing_mm == pytest.approx((0.5, 1.25, 1.5), abs=1e-3)


def test_a_single_slice_is_as_thick_as_its_header_says(tmp_path):
    (path,) = diastole(tmp_path, places=(2,))
    assert dicom_volume([read_dicom_slice(path)]).spacing_mm == pytest.approx((10.0, 1.25, 1.5), abs=1e-4)
    fake.edit(path, SpacingBetweenSlices=None)
    volume = dicom_volume([read_dicom_slice(path)])
    assert volume.spacing_mm == pytest.approx((8.0, 1.25, 1.5), abs=1e-4)
    assert np.linalg.norm(volume.affine[:3, 2]) == pytest.approx(8.0, rel=1e-4)
    fake.edit(path, SliceThickness="")
    with pytest.raises(InputError, match=r"59\.dcm: a single slice without SpacingBetweenSlices and SliceThickness"):
        dicom_volume([read_dicom_slice(path)])


def test_more_voxels_than_any_series_holds_are_refused_before_pixels_are_read(tmp_path):
    (path,) = diastole(tmp_path, places=(2,))
    fake.edit(path, Rows=10000, Columns=10000)
    with pytest.raises(InputError, match="3 slices of 10000 x 10000 pixels are more than 268435456 voxels"):
        read_dicom_slices([path] * 3)
    with pytest.raises(InputError, match="number of bytes of pixel data is less than expected"):
        dicom_volume([read_dicom_slice(path)])


def test_no_slices_are_an_input_error():
    for function in (read_dicom_slices, group_by_phase, dicom_volume):
        with pytest.raises(InputError, match="no DICOM files; give at least one slice"):
            function([])
