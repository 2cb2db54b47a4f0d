"""DICOM segmentations: what highdicom is given of each slice, and what the object refers to on disk."""

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import EnhancedMRImageStorage, MRImageStorage

from imaging.labels import EMIDEC_LABELS
from imaging.volumes.dicom.segmentation import refer_to_files, sources_of, write_dicom_segmentation
from imaging.volumes.new_studies import find_studies, volumes_of
from tests.imaging.fake_dicom import ALONG, item, stack, write_enhanced, write_stack

PLACES = [{"place": place} for place in range(4)]
PATIENT_AND_STUDY = {"FrameOfReferenceUID": "1.2.3.5", "PatientName": "A"} | dict.fromkeys(
    (
        "PatientBirthDate",
        "PatientSex",
        "StudyDate",
        "StudyTime",
        "StudyID",
        "AccessionNumber",
        "ReferringPhysicianName",
    ),
    "",
)


def write_one(folder):
    order = [2, 0, 3, 1]
    write_enhanced(folder / "IM.dcm", stack()[order], [{"place": place} for place in order], **PATIENT_AND_STUDY)


def write_phases(folder):
    frames = [{"place": place, "trigger_ms": time} for place in range(4) for time in (0, 31.5)]
    data = np.stack([stack(seed=1), stack(seed=2)], axis=1).reshape(8, 20, 24)
    write_enhanced(folder / "IM.dcm", data, frames, **PATIENT_AND_STUDY)


def write_an_object_each(folder):
    for number, pixels in enumerate(stack()):
        write_enhanced(folder / f"IM{number}.dcm", pixels[None], [{"place": number}], **PATIENT_AND_STUDY)


def write_geometry_in_each_frame(folder):
    """As some vendors write it: nothing but the phase encoding is shared."""
    path = write_enhanced(folder / "IM.dcm", stack(), PLACES, **PATIENT_AND_STUDY)
    dataset = dcmread(path)
    (shared,) = dataset.SharedFunctionalGroupsSequence
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        frame.update(shared)
    dataset.SharedFunctionalGroupsSequence = [item()]
    dataset.save_as(path)


def write_files(folder):
    """Orientations differ by what rounding leaves, and no thickness is told."""
    changes = {"SliceThickness": None, "ImageOrientationPatient": lambda n: [1, 0, 0, 0, 0.6, 0.8 + n * 1e-4]}
    write_stack(folder, **changes, **PATIENT_AND_STUDY)


WRITERS = (write_one, write_phases, write_an_object_each, write_geometry_in_each_frame, write_files)


def volumes_in(folder):
    (found,) = find_studies([folder])
    return [volume.read().volume for volume in volumes_of(found)]


def on_disk(one):
    """The object and the frame of it, from 1, that a slice is."""
    return str(dcmread(one.path).SOPInstanceUID), None if one.frame is None else one.frame + 1


@pytest.mark.parametrize("write", WRITERS)
def test_each_slice_is_given_as_a_file_with_its_own_place(tmp_path, write):
    write(tmp_path)
    for volume in volumes_in(tmp_path):
        headers = [one.header for one in sources_of(volume)]
        assert len({header.SOPInstanceUID for header in headers}) == len(volume.slices) == 4
        for header, one in zip(headers, volume.slices, strict=True):
            assert header.SOPClassUID == MRImageStorage
            assert not {"NumberOfFrames", "PerFrameFunctionalGroupsSequence"} & set(header.dir())
            np.testing.assert_allclose(header.ImagePositionPatient, one.position_mm)
            np.testing.assert_allclose(header.ImageOrientationPatient, ALONG.ravel(), atol=1e-6)
            assert list(header.PixelSpacing) == [1.5, 1.25]
            assert header.SliceThickness == pytest.approx(8)
            assert header.PatientName == "A"


@pytest.mark.parametrize("write", WRITERS)
def test_a_segmentation_refers_to_the_very_frames_on_disk(tmp_path, write):
    write(tmp_path)
    for volume in volumes_in(tmp_path):
        sources = sources_of(volume)
        items = [item(ReferencedSOPInstanceUID=one.header.SOPInstanceUID) for one in sources]
        segmentation = item(
            PerFrameFunctionalGroupsSequence=[
                item(DerivationImageSequence=item(SourceImageSequence=[one])) for one in (*items, items[0])
            ],
            ReferencedSeriesSequence=item(SeriesInstanceUID="1.2.3.4"),
        )
        refer_to_files(segmentation, sources)
        check_references(segmentation, [*volume.slices, volume.slices[0]], volume)


def check_references(segmentation, drawn_on, volume):
    for frame, one in zip(segmentation.PerFrameFunctionalGroupsSequence, drawn_on, strict=True):
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        number = source.get("ReferencedFrameNumber")
        assert (source.ReferencedSOPInstanceUID, number and int(number)) == on_disk(one)
        assert source.ReferencedSOPClassUID == (MRImageStorage if one.frame is None else EnhancedMRImageStorage)
    (series,) = segmentation.ReferencedSeriesSequence
    objects = {on_disk(one)[0] for one in volume.slices}
    for whole in (series.ReferencedInstanceSequence, segmentation.SourceImageSequence):
        assert len(whole) == len(objects)
        assert {one.ReferencedSOPInstanceUID for one in whole} == objects
        assert not any("ReferencedFrameNumber" in one for one in whole)


@pytest.mark.parametrize("write", WRITERS)
def test_what_is_written_holds_the_label_map_at_its_place(tmp_path, write):
    pytest.importorskip("highdicom")
    write(tmp_path / "in")
    for volume in volumes_in(tmp_path / "in"):
        mask = np.zeros(volume.image.shape, np.uint8)
        mask[1:, 3:12, 4:9], mask[1, 5:7, 2:20], mask[-1, 8:, 9:13] = 1, 3, 2
        write_dicom_segmentation(tmp_path / "out.dcm", mask, volume, EMIDEC_LABELS, "lge")
        segmentation = dcmread(tmp_path / "out.dcm")
        check_drawn(segmentation, volume.arrangement.undo(mask).transpose(2, 1, 0), volume)


def check_drawn(segmentation: Dataset, by_slice, volume):
    values = {"cavity": 1, "normal myocardium": 2, "infarct": 3}
    segments = {one.SegmentNumber: values[one.SegmentLabel] for one in segmentation.SegmentSequence}
    drawn_on, drawn = [], np.zeros_like(by_slice)
    for frame, pixels in zip(segmentation.PerFrameFunctionalGroupsSequence, segmentation.pixel_array, strict=True):
        position_mm = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        (place,) = [n for n, one in enumerate(volume.slices) if np.allclose(one.position_mm, position_mm, atol=1e-3)]
        drawn[place][pixels == 1] = segments[frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber]
        drawn_on.append(volume.slices[place])
    np.testing.assert_array_equal(drawn, by_slice)
    (shared,) = segmentation.SharedFunctionalGroupsSequence
    assert list(shared.PixelMeasuresSequence[0].PixelSpacing) == [1.5, 1.25]
    np.testing.assert_allclose(shared.PlaneOrientationSequence[0].ImageOrientationPatient, ALONG.ravel(), atol=1e-6)
    check_references(segmentation, drawn_on, volume)
