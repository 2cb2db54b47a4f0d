"""Writes MR stacks as DICOM slices, a file each or frames of one file, with whatever oddity a test asks for."""

from zlib import crc32

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.uid import EnhancedMRImageStorage, MRImageStorage

from tests.imaging import fake_sunnybrook as fake

STEP_MM = 8.0
ALONG = np.array([[1.0, 0, 0], [0, 0.6, 0.8]])  # along growing column number, along growing row number


def stack(slices=4, rows=20, columns=24, seed=0):
    """(S, rows, columns) grey values that differ everywhere."""
    return np.random.default_rng(seed).integers(1, 2000, (slices, rows, columns)).astype(np.int16)


def write_stack(folder, data=None, name="IM", step_mm=STEP_MM, origin=(0, 0, 0), along=ALONG, **elements):
    """Write a series; an element given as a function is called with the slice's number. Returns the files."""
    data = stack() if data is None else data
    files = [folder / f"{name}{number:03d}.dcm" for number in range(len(data))]
    for number, (path, pixels) in enumerate(zip(files, data, strict=True)):
        position_mm = np.asarray(origin) + number * step_mm * np.cross(*along)
        header = {
            "SOPClassUID": MRImageStorage,
            "SOPInstanceUID": f"1.2.{crc32(str(path).encode())}",
            "StudyInstanceUID": "1.2.3",
            "SeriesInstanceUID": "1.2.3.4",
            "Modality": "MR",
            "PatientID": "P1",
            "InstanceNumber": number + 1,
            "ImagePositionPatient": position_mm.round(6).tolist(),
            "ImageOrientationPatient": along.ravel().tolist(),
            "PixelSpacing": [1.5, 1.25],
            "SliceThickness": 8,
        }
        changes = {key: value(number) if callable(value) else value for key, value in elements.items()}
        fake.write_dicom(path, pixels, {key: value for key, value in (header | changes).items() if value is not None})
    return files


def write_enhanced(path, data, frames, along=ALONG, **elements):
    """Write an enhanced MR object.

    `frames` holds a mapping each: `place` (number along the normal) and, where told, `kind` (FrameType), `component`
    (ComplexImageComponent), `trigger_ms`, `time` (TemporalPositionIndex), `slope`.
    """
    header = {
        "SOPClassUID": EnhancedMRImageStorage,
        "SOPInstanceUID": f"1.2.{crc32(str(path).encode())}",
        "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.3.4",
        "Modality": "MR",
        "PatientID": "P1",
        "ImageType": ["ORIGINAL", "PRIMARY", "MIXED", "NONE"],
        "NumberOfFrames": len(frames),
        "SharedFunctionalGroupsSequence": [
            item(
                PixelMeasuresSequence=item(PixelSpacing=[1.5, 1.25], SliceThickness=8),
                PlaneOrientationSequence=item(ImageOrientationPatient=along.ravel().tolist()),
            )
        ],
        "PerFrameFunctionalGroupsSequence": [_of_a_frame(frame, along) for frame in frames],
    }
    fake.write_dicom(path, data[0], header | {key: value for key, value in elements.items() if value is not None})
    dataset = dcmread(path)
    dataset.PixelData = data.tobytes()
    dataset.save_as(path)
    return path


def item(**elements):
    """A dataset of these elements; datasets among them become sequences of one item."""
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, [value] if isinstance(value, Dataset) else value)
    return dataset


def _of_a_frame(frame, along):
    position_mm = frame["place"] * STEP_MM * np.cross(*along)
    kind = {"FrameType": frame.get("kind", ["ORIGINAL", "PRIMARY", "CARDIAC", "NONE"])}
    content = {"TemporalPositionIndex": frame["time"]} if "time" in frame else {}
    groups = {
        "PlanePositionSequence": item(ImagePositionPatient=position_mm.round(6).tolist()),
        "FrameContentSequence": item(**content),
        "MRImageFrameTypeSequence": item(
            **kind, **({"ComplexImageComponent": frame["component"]} if "component" in frame else {})
        ),
        "PixelValueTransformationSequence": item(RescaleSlope=frame.get("slope", 1), RescaleIntercept=0),
    }
    if "trigger_ms" in frame:
        groups["CardiacSynchronizationSequence"] = item(NominalCardiacTriggerDelayTime=float(frame["trigger_ms"]))
    return item(**groups)
