"""Reads one slice of an MR series from its DICOM file: what the header tells, and the pixels in scanner units.

Which slices belong together is in `imaging.dicom.series`, how they become a volume in `imaging.dicom.volume`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import FileDataset, dcmread
from pydicom.uid import UID, EnhancedMRColorImageStorage, EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage

from imaging.dicom.header import DicomHeader, one_line, pydicom_on
from imaging.errors import InputError
from imaging.nifti import MOST_VOXELS

_MULTI_FRAME = (EnhancedMRImageStorage, EnhancedMRColorImageStorage, LegacyConvertedEnhancedMRImageStorage)
_TAGS = [
    *("SOPClassUID", "Modality", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns"),
    *("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "SpacingBetweenSlices", "SliceThickness"),
    *("InstanceNumber", "TriggerTime", "CardiacNumberOfImages", "SeriesInstanceUID", "PatientID"),
]
_MOST_MM = 1e5  # no scanner reaches that far: beyond it a number is damaged
_COSINE_TOLERANCE = 0.01  # some headers write direction cosines with three digits


@dataclass(frozen=True, eq=False)
class DicomSlice:
    """One slice as its header describes it; places and directions point to the left, the back and the head (LPS).

    Attributes:
        path: The file.
        shape: (rows, columns).
        pixel_mm: (row, column) distance of neighbouring rows and of neighbouring columns.
        position_mm: (3,) centre of the first pixel.
        directions: (2, 3) unit vectors, along growing column number and along growing row number.
        thickness_mm: Distance to the next slice, else the slice's thickness, as far as the header tells.
        instance: InstanceNumber.
        trigger_ms: TriggerTime, since the R wave.
        phases: CardiacNumberOfImages, the number of phases of the cine.
        series: SeriesInstanceUID, perhaps empty.
        patient: PatientID, perhaps empty.
    """

    path: Path
    shape: tuple[int, int]
    pixel_mm: tuple[float, float]
    position_mm: NDArray[np.float64]
    directions: NDArray[np.float64]
    thickness_mm: float | None
    instance: int | None
    trigger_ms: float | None
    phases: int | None
    series: str
    patient: str

    @property
    def normal(self) -> NDArray[np.float64]:
        """(3,) unit vector at right angles to the slice."""
        return np.cross(*self.directions)

    def read_pixels(self) -> NDArray[np.float32]:
        """Read and decode the pixels, (rows, columns), RescaleSlope and RescaleIntercept applied.

        Raises:
            InputError: They are missing, cut off, or compressed in a way that no installed decoder reads.
        """
        with pydicom_on(self.path):
            dataset = dcmread(self.path)
            header = DicomHeader(self.path, dataset)
            slope, intercept = header.number("RescaleSlope"), header.number("RescaleIntercept")
            stored = _decode(self.path, dataset)
        if stored.shape != self.shape:
            raise InputError(f"{self.path}: holds pixels {stored.shape} but announces {self.shape}; export it again")
        if slope == 0:
            raise InputError(f"{self.path}: RescaleSlope is 0, which wipes out the image; export it again")
        with np.errstate(over="ignore"):  # infinite values are named by the checks of a study
            return (stored * (1.0 if slope is None else slope) + (intercept or 0.0)).astype(np.float32)


def read_dicom_slice(path: Path) -> DicomSlice:
    """Read the header of a single-frame greyscale MR image; its pixels stay in the file until they are asked for.

    Raises:
        InputError: The file is unreadable, something else, absurdly large or without geometry.
    """
    with pydicom_on(path):
        header = DicomHeader(path, dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS)))
        _check_kind(header)
        distance_mm = header.number("SpacingBetweenSlices") or header.number("SliceThickness")
        return DicomSlice(
            path=path,
            shape=_shape(header),
            pixel_mm=_pixel_mm(header),
            position_mm=_position_mm(header),
            directions=_directions(header),
            thickness_mm=abs(distance_mm) if distance_mm else None,  # negative where a scanner counts downwards
            instance=header.whole_number("InstanceNumber"),
            trigger_ms=header.number("TriggerTime"),
            phases=header.whole_number("CardiacNumberOfImages"),
            series=header.text("SeriesInstanceUID"),
            patient=header.text("PatientID"),
        )


def _check_kind(header: DicomHeader) -> None:
    path, modality = header.path, header.text("Modality")
    if modality != "MR":
        raise InputError(
            f"{path}: modality is {one_line(modality or 'missing')}, not MR; give the files of a cardiac MR series"
        )
    frames = header.whole_number("NumberOfFrames")
    if (frames or 1) != 1 or header.text("SOPClassUID") in _MULTI_FRAME:
        raise InputError(
            f"{path}: is a multi-frame (enhanced) MR object; export it as one file a slice, "
            "such as with dcm4che's emf2sf"
        )
    if not header.number("Rows"):
        raise InputError(f"{path}: holds no image; give the files of a cardiac MR series")
    colours, kind = header.whole_number("SamplesPerPixel"), header.text("PhotometricInterpretation")
    if (colours or 1) != 1 or kind != "MONOCHROME2":
        raise InputError(
            f"{path}: {colours or 1} values a pixel in {one_line(kind or 'an unknown order')} are not greyscale "
            "(MONOCHROME2); give the original images"
        )


def _shape(header: DicomHeader) -> tuple[int, int]:
    rows, columns = (int(header.numbers(name, 1)[0]) for name in ("Rows", "Columns"))
    if not (rows > 0 and columns > 0 and rows * columns <= MOST_VOXELS):
        raise InputError(f"{header.path}: announces {rows} x {columns} pixels; its header is damaged, export it again")
    return rows, columns


def _pixel_mm(header: DicomHeader) -> tuple[float, float]:
    row_mm, column_mm = header.numbers("PixelSpacing", 2).tolist()
    if not (row_mm > 0 and column_mm > 0):
        raise InputError(
            f"{header.path}: PixelSpacing {row_mm:g} x {column_mm:g} mm is not positive; correct the header"
        )
    return row_mm, column_mm


def _position_mm(header: DicomHeader) -> NDArray[np.float64]:
    position_mm = header.numbers("ImagePositionPatient", 3)
    if np.abs(position_mm).max() > _MOST_MM:
        raise InputError(
            f"{header.path}: ImagePositionPatient {position_mm.tolist()} mm is not plausible; correct the header"
        )
    return position_mm


def _directions(header: DicomHeader) -> NDArray[np.float64]:
    directions = header.numbers("ImageOrientationPatient", 6).reshape(2, 3)
    if not np.allclose(directions @ directions.T, np.eye(2), atol=_COSINE_TOLERANCE):
        raise InputError(
            f"{header.path}: ImageOrientationPatient {directions.ravel().tolist()} is not two unit vectors at right "
            "angles; correct the header"
        )
    return directions


def _decode(path: Path, dataset: FileDataset) -> NDArray[Any]:
    if "PixelData" not in dataset:
        raise InputError(f"{path}: holds no pixel data; export it with its image")
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    try:
        return dataset.pixel_array
    except (RuntimeError, NotImplementedError) as error:  # what pydicom raises without a decoder that succeeds
        raise InputError(
            f"{path}: its pixels are compressed ({one_line(syntax.name)}) and cannot be decoded here; "
            "decompress it first, such as with gdcmconv --raw"
        ) from error
