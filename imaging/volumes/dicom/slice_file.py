"""Reads the slices of an MR series from DICOM files: what the header tells, and the pixels in scanner units.

A file holds one slice, or, as an enhanced object, one in each of its frames.

Which slices belong together, and how they become a volume, is in `imaging.volumes.dicom.volume`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import FileDataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from common.errors import InputError, one_line
from imaging.volumes.dicom.header import (
    FUNCTIONAL_GROUPS,
    IMAGES_IN_MOSAIC,
    DicomHeader,
    NotASliceError,
    check_kind,
    check_scanned,
    frames_of,
    image_type,
    is_enhanced,
    multi_frame,
    pydicom_on,
    read_dataset,
    type_text,
)
from imaging.volumes.nifti import MOST_VOXELS

# Elements are read by name: a patient's name and birth date are never decoded.
_TAGS: list[Any] = [
    IMAGES_IN_MOSAIC,
    *FUNCTIONAL_GROUPS,
    *("SOPClassUID", "Modality", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns"),
    *("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "SpacingBetweenSlices", "SliceThickness"),
    *("InstanceNumber", "TriggerTime", "CardiacNumberOfImages", "SeriesInstanceUID", "PatientID", "StudyInstanceUID"),
    *("SOPInstanceUID", "ImageType", "SeriesNumber", "SeriesDescription", "InversionTime", "EchoTime"),
    *("ImagerPixelSpacing", "PatientOrientation", "SpecificCharacterSet"),
]
_PIXEL_TAGS: list[Any] = [
    IMAGES_IN_MOSAIC,
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData", "ExtendedOffsetTable"),
    *("ExtendedOffsetTableLengths", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit"),
]
# Unit vectors of the letters of PatientOrientation.
_TOWARDS = {
    letter: sign * np.eye(3)[axis]
    for axis, pair in enumerate(("LR", "PA", "HF"))
    for letter, sign in zip(pair, (1, -1), strict=True)
}
_LONGEST_TITLE, _LONGEST_UID = 40, 12  # characters of a series' description and UID in a message
_SAME_SPACING = 0.001
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
        patient: PatientID, perhaps empty; never told.
        study: StudyInstanceUID, perhaps empty.
        instance_uid: SOPInstanceUID, perhaps empty; the same in a copy of the file.
        image_type: ImageType in capitals: `ORIGINAL`, `PRIMARY`, `M` for magnitude and so on.
        series_number: SeriesNumber.
        description: SeriesDescription.
        between_mm: SpacingBetweenSlices as written.
        slab_mm: SliceThickness as written.
        inversion_ms: InversionTime.
        echo_ms: EchoTime.
        disagreements: Where the header contradicts what is taken from it, a phrase each.
        frame: Which frame of an enhanced object it is, from 0; None for a file of its own.
        rescale: Slope and intercept of that frame.
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
    study: str = ""
    instance_uid: str = ""
    image_type: tuple[str, ...] = ()
    series_number: int | None = None
    description: str = ""
    between_mm: float | None = None
    slab_mm: float | None = None
    inversion_ms: float | None = None
    echo_ms: float | None = None
    disagreements: tuple[str, ...] = ()
    frame: int | None = None
    rescale: tuple[float | None, float | None] = (None, None)

    @property
    def normal(self) -> NDArray[np.float64]:
        """(3,) unit vector at right angles to the slice."""
        normal = np.cross(*self.directions)
        return normal / np.linalg.norm(normal)

    @property
    def title(self) -> str:
        """The series in a few words, for messages: number, description, image type and the end of its UID."""
        number = "without number" if self.series_number is None else str(self.series_number)
        description = f" {one_line(self.description)[:_LONGEST_TITLE]!r}" if self.description else ""
        uid = f", UID ...{one_line(self.series)[-_LONGEST_UID:]}" if self.series else ""
        return f"series {number}{description} (ImageType {type_text(self.image_type)}{uid})"

    def read_pixels(self) -> NDArray[np.float32]:
        """Read and decode the pixels, (rows, columns), RescaleSlope and RescaleIntercept applied.

        Raises:
            InputError: They are missing, cut off, or compressed in a way that no installed decoder reads.
        """
        with pydicom_on(self.path):
            dataset = read_dataset(
                self.path, stop_before_pixels=self.frame is not None, specific_tags=list(_PIXEL_TAGS)
            )
            header = DicomHeader(self.path, dataset)
            own = header.number("RescaleSlope"), header.number("RescaleIntercept")
            slope, intercept = own if self.frame is None else self.rescale
            stored = _decode(self.path, dataset, self.frame)
            if "ModalityLUTSequence" in dataset:
                raise InputError(f"{self.path}: its values need a look-up table (ModalityLUTSequence); export it plain")
            stored = _without_padding(stored, header)
        if stored.shape != self.shape:
            raise InputError(f"{self.path}: holds pixels {stored.shape} but announces {self.shape}; export it again")
        if slope == 0:
            raise InputError(f"{self.path}: RescaleSlope is 0, which wipes out the image; export it again")
        with np.errstate(over="ignore"):  # infinite values are named by the checks of a study
            return (stored * (1.0 if slope is None else slope) + (intercept or 0.0)).astype(np.float32)


def read_dicom_slice(path: Path) -> DicomSlice:
    """Read the header of a single-frame greyscale MR image; its pixels stay in the file until they are asked for.

    Raises:
        NotASliceError: The file is another kind of DICOM file.
        InputError: The file is unreadable, absurdly large or without geometry.
    """
    with pydicom_on(path):
        header = _header(path)
        if is_enhanced(header):
            raise multi_frame(header)
        return _slice(header)


def read_scanned_slices(path: Path) -> list[DicomSlice | NotASliceError]:
    """Read the headers of a file's slices: one, or one for each frame of an enhanced object.

    Localisers, projections, maps and what else ImageType names that is no slice as scanned stand as the reason why.

    Raises:
        InputError: The file is unreadable, absurdly large or without geometry.
    """
    with pydicom_on(path):
        try:
            header = _header(path)
        except NotASliceError as error:
            return [error]
        if not is_enhanced(header):
            return [_scanned(header)]
        return [_scanned(frame, number) for number, frame in enumerate(frames_of(header))]


def _header(path: Path) -> DicomHeader:
    header = DicomHeader(path, read_dataset(path, stop_before_pixels=True, specific_tags=list(_TAGS)))
    check_kind(header)
    return header


def _scanned(header: DicomHeader, frame: int | None = None) -> DicomSlice | NotASliceError:
    try:
        check_scanned(header)
    except NotASliceError as error:
        return error
    return _slice(header, frame)


def _slice(header: DicomHeader, frame: int | None = None) -> DicomSlice:
    between_mm, slab_mm = header.number("SpacingBetweenSlices"), header.number("SliceThickness")
    distance_mm, instance_uid = between_mm or slab_mm, header.text("SOPInstanceUID")
    return DicomSlice(
        path=header.path,
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
        study=header.text("StudyInstanceUID"),
        instance_uid=instance_uid if frame is None or not instance_uid else f"{instance_uid}/{frame}",
        image_type=image_type(header),
        series_number=_whole(header.number_aside("SeriesNumber")),
        description=header.aside("SeriesDescription"),
        between_mm=between_mm,
        slab_mm=slab_mm,
        inversion_ms=header.number_aside("InversionTime"),
        echo_ms=header.number_aside("EchoTime"),
        disagreements=(*_other_pixel_mm(header), *_other_directions(header)),
        frame=frame,
        rescale=(header.number("RescaleSlope"), header.number("RescaleIntercept")),
    )


def _whole(number: float | None) -> int | None:
    return None if number is None else round(number)


def _other_pixel_mm(header: DicomHeader) -> Iterator[str]:
    """Yield what ImagerPixelSpacing says where PixelSpacing, which is taken, says something else."""
    taken_mm = header.numbers("PixelSpacing", 2)
    try:
        other_mm = header.numbers("ImagerPixelSpacing", 2)
    except InputError:  # absent, as in all MR but for odd exports
        return
    if not np.allclose(taken_mm, other_mm, rtol=_SAME_SPACING):
        taken, other = (f"{row_mm:g} x {column_mm:g} mm" for row_mm, column_mm in (taken_mm, other_mm))
        yield f"PixelSpacing {taken} is taken, where ImagerPixelSpacing says {other}"


def _other_directions(header: DicomHeader) -> Iterator[str]:
    """Yield what PatientOrientation says where it points against ImageOrientationPatient, which is taken."""
    letters = header.texts("PatientOrientation")
    directions = header.numbers("ImageOrientationPatient", 6).reshape(2, 3)
    towards = [_TOWARDS.get(text[:1].upper()) for text in letters]
    if any(axis is not None and way @ axis < 0 for way, axis in zip(directions, towards, strict=False)):
        yield f"ImageOrientationPatient is taken, where PatientOrientation says {type_text(letters)}, the other way"


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


def _decode(path: Path, dataset: FileDataset, frame: int | None) -> NDArray[Any]:
    """Return the pixels of a file, or of one frame of it, of which no others are read."""
    if frame is None and "PixelData" not in dataset:
        raise InputError(f"{path}: holds no pixel data; export it with its image")
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    if frame is not None and syntax == DeflatedExplicitVRLittleEndian:
        raise InputError(f"{path}: is a deflated multi-frame object; export it uncompressed")
    try:
        return np.asarray(dataset.pixel_array if frame is None else pixel_array(path, index=frame))
    except (RuntimeError, NotImplementedError) as error:  # what pydicom raises without a decoder that succeeds
        raise InputError(
            f"{path}: its pixels are compressed ({one_line(syntax.name)}) and cannot be decoded here; "
            f"{_plugins(syntax)}decompress it first, such as with gdcmconv --raw"
        ) from error


def _plugins(syntax: UID) -> str:
    """Return which packages pydicom would decode a transfer syntax with; empty where it has one, or knows none."""
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        return ""
    needed = [text.partition(" requires ")[2].removeprefix("numpy and ") for text in decoder.missing_dependencies]
    packages = [text for text in needed if not text.startswith("gdcm")]  # whose name differs between channels
    return "" if decoder.is_available or not packages else f"pip install {', or '.join(packages)}, or "


def _without_padding(stored: NDArray[Any], header: DicomHeader) -> NDArray[Any]:
    """Return pixels (rows, columns) whose padding (PixelPaddingValue) is the smallest value of the others."""
    first, last = header.number("PixelPaddingValue"), header.number("PixelPaddingRangeLimit")
    if first is None:
        return stored
    ends = np.asarray([first, first if last is None else last]).astype(np.int64).astype(stored.dtype)  # of either sign
    padding = (stored >= ends.min()) & (stored <= ends.max())
    if padding.all():
        return np.zeros_like(stored)
    return np.where(padding, stored[~padding].min(), stored)
