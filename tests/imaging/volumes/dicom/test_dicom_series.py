import re
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import config, dcmread
from pydicom.data import get_testdata_file
from pydicom.pixels import get_decoder
from pydicom.uid import ImplicitVRLittleEndian, JPEGLSLossless

from common.errors import InputError
from imaging.sources.sunnybrook import read_sunnybrook
from imaging.studies.study import Study
from imaging.volumes.dicom.folder import read_folder
from imaging.volumes.dicom.slice_file import DicomSlice, read_dicom_slice
from imaging.volumes.dicom.volume import dicom_volume, group_by_phase, read_dicom_slices, slice_places
from imaging.volumes.nifti import read_nifti
from tests.imaging import fake_sunnybrook as fake
from tests.imaging.fake_dicom import ALONG, stack, write_stack

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
    fake.edit(path, Rows=4000, Columns=4000)
    with pytest.raises(InputError, match="3 slices of 4000 x 4000 pixels are more than 33554432 voxels"):
        read_dicom_slices([path] * 3)
    with pytest.raises(InputError, match="number of bytes of pixel data is less than expected"):
        dicom_volume([read_dicom_slice(path)])


def test_no_slices_are_an_input_error():
    for function in (read_dicom_slices, group_by_phase, dicom_volume):
        with pytest.raises(InputError, match="no DICOM files; give at least one slice"):
            function([])


def series_in(folder):
    return read_folder(folder, sorted(folder.iterdir()))


def one_volume(folder):
    (series,) = series_in(folder)
    return dicom_volume(series.slices, series.notes)


def as_filed(volume):
    return volume.arrangement.undo(volume.image).transpose(2, 1, 0)


def test_a_copy_of_a_file_is_read_once(tmp_path):
    first, *_ = write_stack(tmp_path)
    (tmp_path / "a copy.dcm").write_bytes(first.read_bytes())
    volume = one_volume(tmp_path)
    np.testing.assert_array_equal(as_filed(volume), stack())
    assert volume.notes == ("1 file is a copy of others (SOPInstanceUID) and left out",)


def test_slices_under_one_uid_are_no_copies_of_each_other(tmp_path):
    write_stack(tmp_path, SOPInstanceUID="1.2.3")
    np.testing.assert_array_equal(as_filed(one_volume(tmp_path)), stack())


def test_other_pixels_under_the_same_uid_and_header_are_refused(tmp_path):
    first, *_ = write_stack(tmp_path)
    other = dcmread(first)
    other.PixelData = bytes(len(other.PixelData))
    other.save_as(tmp_path / "other.dcm")
    with pytest.raises(
        InputError, match=r"other\.dcm: lies at the place of IM000\.dcm \(0.00 mm apart, no trigger times\)"
    ):
        one_volume(tmp_path)


def test_two_patients_in_a_folder_are_refused_without_their_ids(tmp_path):
    write_stack(tmp_path, PatientID="Quastenflosser")
    write_stack(tmp_path, name="other", PatientID="Zitteraal", SeriesInstanceUID="1.2.3.5")
    with pytest.raises(
        InputError, match=r"slices of 2 patients \(PatientID\), such as IM000\.dcm and other000"
    ) as refusal:
        series_in(tmp_path)
    assert "Quastenflosser" not in str(refusal.value)
    assert "Zitteraal" not in str(refusal.value)


def test_two_studies_of_a_patient_are_two_volumes(tmp_path):
    write_stack(tmp_path, stack(seed=1))
    write_stack(tmp_path, stack(seed=2), name="later", StudyInstanceUID="1.2.9")
    volumes = [dicom_volume(series.slices) for series in series_in(tmp_path)]
    assert [series.name for series in series_in(tmp_path)] == ["series1", "series2"]
    for volume, seed in zip(volumes, (1, 2), strict=True):
        np.testing.assert_array_equal(as_filed(volume), stack(seed=seed))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "Secondary Capture Image"),
        (
            {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "Modality": "OT", "PixelSpacing": None},
            "Secondary Capture Image",
        ),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.11.1", "Modality": "PR"}, "Grayscale Softcopy Presentation State"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4", "Modality": "SEG"}, "Segmentation"),
        ({"SOPClassUID": "1.2.840.10008.1.3.10", "Modality": None}, "Media Storage Directory"),
        ({"Modality": "CT"}, "modality CT"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER", "M"]}, r"ImageType ORIGINAL\PRIMARY\LOCALIZER\M"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "LOCALIZER"]}, r"ImageType ORIGINAL\PRIMARY\M\LOCALIZER"),
        ({"ImageType": ["DERIVED", "SECONDARY", "MIP"]}, r"ImageType DERIVED\SECONDARY\MIP"),
        ({"ImageType": ["DERIVED", "SECONDARY", "PROJECTION IMAGE"]}, r"ImageType DERIVED\SECONDARY\PROJECTION IMAGE"),
        ({"ImageType": ["DERIVED", "SECONDARY"], "ImagePositionPatient": None}, r"ImageType DERIVED\SECONDARY"),
        ({"ImageType": ["DERIVED", "PRIMARY", "T1 MAP"]}, r"ImageType DERIVED\PRIMARY\T1 MAP"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "RGB"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "MONOCHROME1"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "mosaic"),
        ({"NumberOfFrames": 2}, "multi-frame MR"),
    ],
)
def test_what_is_no_scanned_slice_is_left_out_with_a_count_or_refused_alone(tmp_path, changes, what):
    for path in write_stack(tmp_path / "other", name="odd", SeriesInstanceUID="1.2.3.9"):
        fake.edit(path, **changes)
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "other"))) as refusal:
        series_in(tmp_path / "other")
    assert one_line_about(tmp_path / "other" / "odd000.dcm").fullmatch(str(refusal.value))
    write_stack(tmp_path / "both")
    for path in (tmp_path / "other").iterdir():
        path.rename(tmp_path / "both" / path.name)
    volume = one_volume(tmp_path / "both")
    np.testing.assert_array_equal(as_filed(volume), stack())
    assert volume.notes == (f"4 DICOM files are left out: 4 {what}",)


def test_a_folder_of_nothing_but_others_says_how_many_of_which(tmp_path):
    write_stack(tmp_path, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_stack(tmp_path, stack(2), name="screen", SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    with pytest.raises(
        InputError, match=r"none of its 6 DICOM files is an MR slice: 4 ImageType .*, 2 Secondary Capture"
    ):
        series_in(tmp_path)


@pytest.mark.parametrize("kind", ["M", "P", "R_IR", "M_FFE", "CARDIAC", "OTHER", "NONE", "PHASE MAP"])
def test_plain_images_of_all_vendors_are_taken(tmp_path, kind):
    write_stack(tmp_path, ImageType=["ORIGINAL", "PRIMARY", kind, "ND"])
    assert one_volume(tmp_path).notes == ()


@pytest.mark.parametrize("change", [{"SeriesNumber": 2}, {"SeriesDescription": "T1 map"}])
@pytest.mark.parametrize("uid", ["", "1.2.3.4"])
def test_series_that_share_their_uid_are_parted_by_number_and_description(tmp_path, uid, change):
    about = {"SeriesInstanceUID": uid, "SeriesNumber": 1, "SeriesDescription": "PSIR"}
    write_stack(tmp_path, stack(seed=1), **about)
    write_stack(tmp_path, stack(seed=2), name="other", **about | change)
    volumes = [dicom_volume(series.slices) for series in series_in(tmp_path)]
    assert len({series.name for series in series_in(tmp_path)}) == 2
    for volume, seed in zip(volumes, (1, 2), strict=True):
        np.testing.assert_array_equal(as_filed(volume), stack(seed=seed))


def test_a_mosaic_without_its_image_type_is_told_by_siemens_own_element(tmp_path):
    (path, *_) = write_stack(tmp_path)
    dataset = dcmread(path)
    dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", 9)
    dataset.save_as(path)
    with pytest.raises(InputError, match=r"IM000\.dcm: is a mosaic"):
        read_dicom_slice(path)


@pytest.mark.parametrize("digits", [2, 3, 4])
def test_a_stack_with_rounded_cosines_is_straight(tmp_path, digits):
    along = rotation(0.4, -0.3, 1.1)[:2]
    write_stack(tmp_path, along=along, ImageOrientationPatient=along.round(digits).ravel().tolist())
    volume = one_volume(tmp_path)
    directions = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-9)
    assert volume.notes == ()


def test_breath_holds_that_are_a_series_each_are_one_stack(tmp_path):
    write_stack(
        tmp_path, SeriesInstanceUID=lambda k: f"1.2.3.{k}", SeriesNumber=lambda k: 20 + k, SeriesDescription="PSIR"
    )
    volume = one_volume(tmp_path)
    np.testing.assert_array_equal(as_filed(volume), stack())
    (note,) = volume.notes
    assert re.fullmatch("4 series of one place each, series 20 'PSIR' .* and on, are taken as one stack", note)


def test_slices_that_lost_their_series_uid_and_description_are_joined_by_its_number(tmp_path):
    write_stack(tmp_path, SeriesInstanceUID=lambda k: f"1.2.3.{k}", SeriesNumber=7)
    np.testing.assert_array_equal(as_filed(one_volume(tmp_path)), stack())


@pytest.mark.parametrize(
    "change", [{"SeriesDescription": lambda k: f"PSIR {k}"}, {"SeriesDescription": None}, {"step_mm": 0.0}]
)
def test_single_slices_that_nothing_joins_stay_apart(tmp_path, change):
    about = {"SeriesDescription": "PSIR", "SeriesNumber": lambda k: 20 + k} | change
    write_stack(tmp_path, SeriesInstanceUID=lambda k: f"1.2.3.{k}", **about)
    assert [series.name for series in series_in(tmp_path)] == ["series20", "series21", "series22", "series23"]


@pytest.mark.parametrize(("value", "last"), [(-2000, None), (3000, None), (-2000, -1990)])
def test_padding_becomes_no_intensity(tmp_path, value, last):
    data = stack()
    data[:, :3] = value if last is None else last
    write_stack(tmp_path, data)
    for path in tmp_path.iterdir():
        dataset = dcmread(path)
        dataset.add_new("PixelPaddingValue", "SS", value)
        if last is not None:
            dataset.add_new("PixelPaddingRangeLimit", "SS", last)
        dataset.save_as(path)
    for found, given_ in zip(as_filed(one_volume(tmp_path)), stack(), strict=True):
        np.testing.assert_array_equal(found[3:], given_[3:])
        np.testing.assert_array_equal(found[:3], given_[3:].min())


def test_padding_is_told_where_the_file_writes_no_types(tmp_path):
    data = stack()
    data[:, 0] = -2000
    for path in write_stack(tmp_path, data):
        dataset = dcmread(path)
        dataset.add_new("PixelPaddingValue", "SS", -2000)
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        dataset.save_as(path, implicit_vr=True, little_endian=True)
    assert as_filed(one_volume(tmp_path)).min() >= 1


def test_padding_of_a_signed_image_may_be_written_without_a_sign(tmp_path):
    data = stack()
    data[:, 0] = -2000
    write_stack(tmp_path, data)
    for path in tmp_path.iterdir():
        dataset = dcmread(path)
        dataset.add_new("PixelPaddingValue", "US", 2**16 - 2000)
        dataset.save_as(path)
    assert as_filed(one_volume(tmp_path)).min() >= 1


@pytest.mark.parametrize(
    ("elements", "note"),
    [
        (
            {"SpacingBetweenSlices": 10},
            "slices lie 8.00 mm apart by ImagePositionPatient, which is taken, where SpacingBetweenSlices says 10 mm",
        ),
        ({"SliceThickness": 5}, "slices 5 mm thick lie 8.00 mm apart: gaps of 3.00 mm lie between"),
        (
            {"ImagerPixelSpacing": [2, 2]},
            "PixelSpacing 1.5 x 1.25 mm is taken, where ImagerPixelSpacing says 2 x 2 mm (4 slices)",
        ),
        (
            {"PatientOrientation": ["R", "P"]},
            r"ImageOrientationPatient is taken, where PatientOrientation says R\P, the other way (4 slices)",
        ),
    ],
)
def test_what_a_header_contradicts_is_said(tmp_path, elements, note):
    write_stack(tmp_path, **elements)
    volume = one_volume(tmp_path)
    assert volume.notes == (note,)
    assert volume.spacing_mm == pytest.approx((8, 1.5, 1.25))


def test_what_agrees_is_not_mentioned(tmp_path):
    write_stack(tmp_path, SpacingBetweenSlices=-8, ImagerPixelSpacing=[1.5, 1.25], PatientOrientation=["L", "HP"])
    assert one_volume(tmp_path).notes == ()


def moved(files, number, step_mm):
    position_mm = np.asarray(dcmread(files[number]).ImagePositionPatient, dtype=float)
    fake.edit(files[number], ImagePositionPatient=(position_mm + step_mm).round(6).tolist())


def test_uneven_distances_are_said_and_missing_slices_refused(tmp_path):
    files = write_stack(tmp_path)
    moved(files, 1, 0.3 * np.cross(*ALONG))
    assert one_volume(tmp_path).notes == ("slices lie unevenly, 7.70 to 8.30 mm apart; 8.00 mm is taken",)
    files[1].unlink()
    with pytest.raises(
        InputError, match=r"lies 16\.00 mm from IM000\.dcm where others are 8\.00 mm apart: a slice between"
    ):
        one_volume(tmp_path)


def test_slices_off_a_straight_stack_are_said(tmp_path):
    moved(write_stack(tmp_path), 1, 2.0 * ALONG[0])
    assert one_volume(tmp_path).notes == ("slices lie up to 2.00 mm off the straight stack that the affine describes",)


@pytest.mark.parametrize(
    ("elements", "told"),
    [
        ({"TriggerTime": 700}, "trigger times 700, 700 ms"),
        ({"InversionTime": lambda k: 200 + 50 * k}, "inversion times 200, 250 ms"),
        ({"EchoTime": lambda k: 1.5 + k}, "echo times 1.5, 2.5 ms"),
        ({}, "no trigger times"),
    ],
)
def test_several_times_at_one_place_are_refused_by_what_they_are(tmp_path, elements, told):
    for place in range(3):
        write_stack(tmp_path, stack(2), f"P{place}", 0.0, (0, 0, 0) + 8.0 * place * np.cross(*ALONG), **elements)
    (series,) = series_in(tmp_path)
    with pytest.raises(InputError, match="the phases of 6 slices at 3 places cannot be told; export") as refusal:
        group_by_phase(series.slices)
    assert f"2 images such as P0000.dcm and P0001.dcm lie at one place, with {told}" in str(refusal.value)


def test_a_compressed_file_names_the_packages_that_would_read_it(monkeypatch):
    decoder = get_decoder(JPEGLSLossless)
    missing = {label: packages for label, packages in decoder._unavailable.items() if label != "pyjpegls"}
    monkeypatch.setattr(decoder, "_available", {})  # highdicom brings pyjpegls
    monkeypatch.setattr(decoder, "_unavailable", {**missing, "pyjpegls": ("pyjpegls>=1.2",)})
    said = r"its pixels are compressed \(JPEG-LS Lossless Image Compression\)"
    packages = r"pylibjpeg>=2.0 and pylibjpeg-libjpeg>=.*, or pyjpegls>=.*, or deco"
    with pytest.raises(InputError, match=rf"{said} .*; pip install {packages}"):
        read_dicom_slice(bundled("MR_small_jpeg_ls_lossless.dcm")).read_pixels()


def test_values_behind_a_look_up_table_are_refused(tmp_path):
    (path, *_) = write_stack(tmp_path)
    fake.edit(path, ModalityLUTSequence=[])
    with pytest.raises(InputError, match=r"IM000\.dcm: its values need a look-up table \(ModalityLUTSequence\)"):
        read_dicom_slice(path).read_pixels()


def test_a_contoured_study_carries_the_notes_of_its_slices(tmp_path):
    fake.write_case(tmp_path, CASE, phases=(fake.ED,))
    for place in fake.PLACES:
        fake.edit(fake.dicom_path(tmp_path, CASE, fake.number_of(place, fake.ED)), SpacingBetweenSlices=12)
    (study,) = read_sunnybrook(tmp_path)
    assert isinstance(study, Study)
    assert "SpacingBetweenSlices says 12 mm" in study.notes[0]


angles = st.floats(-3.1, 3.1, allow_nan=False)


@settings(max_examples=25)
@given(
    turns=st.tuples(angles, angles, angles),
    sides=st.tuples(st.floats(0.5, 3), st.floats(0.5, 3), st.floats(3, 12)),
    order=st.permutations(range(4)),
    origin=st.tuples(*[st.floats(-200, 200)] * 3),
    rescale=st.tuples(st.sampled_from([1.0, 0.5, 4.0]), st.sampled_from([0.0, -100.0])),
)
def test_a_series_beside_its_own_nifti_gives_the_same_array(tmp_path_factory, turns, sides, order, origin, rescale):
    folder = tmp_path_factory.mktemp("series")
    along = rotation(*turns)[:2]
    (row_mm, column_mm, step_mm), (slope, intercept) = sides, rescale
    write_stack(
        folder,
        along=along,
        step_mm=step_mm,
        origin=origin,
        PixelSpacing=[round(row_mm, 6), round(column_mm, 6)],
        RescaleSlope=slope,
        RescaleIntercept=intercept,
    )
    for number, path in zip(order, sorted(folder.iterdir()), strict=True):
        path.rename(folder / f"{number}.dcm")
    volume = one_volume(folder)
    lps = np.stack([along[0] * column_mm, along[1] * row_mm, np.cross(*along) * step_mm, origin], axis=1)
    affine = np.vstack([np.diag([-1, -1, 1]) @ lps, [0, 0, 0, 1]])
    image = (stack() * slope + intercept).transpose(2, 1, 0).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(image, affine), folder / "beside.nii")
    nifti = read_nifti(folder / "beside.nii")
    corner = [23, 19, 3, 1]
    np.testing.assert_allclose(volume.affine @ corner, affine @ corner, atol=0.01)
    np.testing.assert_array_equal(as_filed(volume), image.transpose(2, 1, 0))
    if volume.arrangement == nifti.arrangement:  # a NIfTI file does not say which of its axes are slices
        np.testing.assert_array_equal(volume.image, nifti.image)
        assert volume.spacing_mm == pytest.approx(nifti.spacing_mm, rel=1e-4)


def rotation(first, second, third):
    c, s = np.cos([first, second, third]), np.sin([first, second, third])
    around_x = np.array([[1, 0, 0], [0, c[0], -s[0]], [0, s[0], c[0]]])
    around_y = np.array([[c[1], 0, s[1]], [0, 1, 0], [-s[1], 0, c[1]]])
    around_z = np.array([[c[2], -s[2], 0], [s[2], c[2], 0], [0, 0, 1]])
    return around_z @ around_y @ around_x
