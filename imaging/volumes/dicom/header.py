"""A DICOM header whose numbers are checked; whatever pydicom raises on the way becomes one line that names the file.

Tells what a DICOM file shows: an MR slice, or a localiser, a screenshot, a presentation and so on.

All lists name what is taken; what stands in none of them is left out by name.
"""

import re
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset, dcmread
from pydicom.config import disable_value_validation
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRColorImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
)

from common.errors import InputError, one_line

# What pydicom raises for an element whose bytes are not what its type says.
_UNDECODABLE = (BytesLengthException, ValueError, TypeError, OverflowError)
# What it raises for files that are cut off, corrupt, or something else altogether.
_UNREADABLE = (
    *_UNDECODABLE,
    *(AttributeError, LookupError, RuntimeError, AssertionError, EOFError, MemoryError),
    *(struct.error, zlib.error),
)


_MOST_INFLATED_BYTES = 2**28  # of a deflated file; a single slice has some megabytes


def read_dataset(path: Path, **options: Any) -> FileDataset:
    """Read a file as `pydicom.dcmread` does; a deflated one, which pydicom inflates whole, only up to a limit.

    Raises:
        ValueError: It inflates to more.
    """
    with path.open("rb") as file:
        read_preamble(file, force=False)
        meta = _read_file_meta_info(file)  # the one way of pydicom's that leaves the file where the content begins
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(), _MOST_INFLATED_BYTES)
            if len(inflated) == _MOST_INFLATED_BYTES:
                raise ValueError(f"it is deflated and inflates to more than {_MOST_INFLATED_BYTES} bytes")
    return dcmread(path, **options)


@dataclass(frozen=True)
class DicomHeader:
    """The elements of a file by keyword; to be used inside `pydicom_on`, since pydicom decodes them when asked.

    Attributes:
        path: The file.
        dataset: Its elements.
        frame: Of a frame of an enhanced object: its own elements, which go before those of the file.
    """

    path: Path
    dataset: Dataset
    frame: Mapping[str, Any] = field(default_factory=dict)

    def text(self, keyword: str) -> str:
        """Return a text, empty where it is absent."""
        return str(self._value(keyword) or "")

    def texts(self, keyword: str) -> tuple[str, ...]:
        """Return the texts of an element that holds several, none where it is absent."""
        value = self._value(keyword)
        if value in (None, ""):
            return ()
        return (value,) if isinstance(value, str) else tuple(str(text) for text in value)

    def storage_class(self) -> str:
        """Return the SOP class of the object, else the one that the file announces, empty where neither is told."""
        meta = getattr(self.dataset, "file_meta", None)
        return self.text("SOPClassUID") or str(getattr(meta, "MediaStorageSOPClassUID", ""))

    def aside(self, keyword: str) -> str:
        """Return a text that only messages tell: empty also where it cannot be decoded."""
        try:
            return self.text(keyword)
        except InputError:
            return ""

    def number_aside(self, keyword: str) -> float | None:
        """Return a number that only messages tell: None also where it is not finite."""
        try:
            return self.number(keyword)
        except InputError:
            return None

    def number(self, keyword: str) -> float | None:
        """Return a finite number; None where it is absent or empty."""
        return None if self._value(keyword) in (None, "") else float(self.numbers(keyword, 1)[0])

    def whole_number(self, keyword: str) -> int | None:
        """Return a whole number; None where it is absent or empty."""
        number = self.number(keyword)
        return None if number is None else round(number)

    def numbers(self, keyword: str, count: int) -> NDArray[np.float64]:
        """Return (count,) finite numbers.

        Raises:
            InputError: They are missing, others in number, or not finite.
        """
        value = self._value(keyword)
        if value in (None, ""):
            raise InputError(f"{self.path}: {keyword} is missing; export the series with its full header")
        try:
            numbers = np.asarray(value, dtype=np.float64).ravel()
        except _UNDECODABLE:
            numbers = np.empty(0)
        if numbers.shape != (count,) or not np.isfinite(numbers).all():
            expected = "a finite number" if count == 1 else f"{count} finite numbers"
            raise InputError(f"{self.path}: {keyword} is {one_line(value)}, not {expected}; correct the header")
        return numbers

    def _value(self, keyword: str) -> Any:
        try:
            return self.frame[keyword] if keyword in self.frame else self.dataset.get(keyword)
        except _UNDECODABLE as error:
            raise InputError(
                f"{self.path}: {keyword} cannot be decoded ({one_line(error)}); correct the header"
            ) from error


@contextmanager
def pydicom_on(path: Path) -> Iterator[None]:
    """Let pydicom pass over invalid values that nothing here needs, and turn what it raises into `InputError`."""
    with disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid UIDs and the like are common in real exports
        try:
            yield
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise InputError(f"{path}: cannot be read ({reason}); give a readable DICOM file") from error
        except InvalidDicomError as error:
            raise InputError(
                f"{path}: not a DICOM file, which would start with 128 bytes and 'DICM'; give the original file"
            ) from error
        except _UNREADABLE as error:
            raise InputError(
                f"{path}: not a readable DICOM file ({one_line(error)}); export or copy it again"
            ) from error


_MULTI_FRAME = (EnhancedMRImageStorage, EnhancedMRColorImageStorage, LegacyConvertedEnhancedMRImageStorage)
FUNCTIONAL_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
# An element of the functional groups (DICOM PS3.3 C.7.6.16.2 and C.8.13.5), and that of a single slice which says it.
_OF_A_FRAME = {
    **{name: name for name in ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices", "RescaleSlope")},
    **{name: name for name in ("RescaleIntercept", "ImagePositionPatient", "ImageOrientationPatient")},
    **{name: name for name in ("ComplexImageComponent", "TemporalPositionIndex")},
    "FrameType": "ImageType",
    "NominalCardiacTriggerDelayTime": "TriggerTime",
    "EffectiveEchoTime": "EchoTime",
    "InversionTimes": "InversionTime",
}
_SINGLE_FRAME = ("", MRImageStorage)  # some exports leave the class out
_GREYSCALE = "MONOCHROME2"
IMAGES_IN_MOSAIC = 0x0019100A  # Siemens' private NumberOfImagesInMosaic, which only mosaics carry

# Third value of ImageType (DICOM PS3.3 C.8.3.1.1.1) of plain, magnitude, phase, real and imaginary images, as vendors
# write it: M (Siemens), M_IR and CR_IR (Philips), OTHER and CARDIAC (GE).
_PLAIN = re.compile(
    r"(M|P|R|I|CR|CI)(_\w+)?|MAG|MAGNITUDE|PHASE|PHASE MAP|REAL|IMAGINARY|PSIR|MAG[ _]?IR|MOCO|MEAN|IMAGE ADDITION|"
    r"CARDIAC|OTHER|NONE|ND|NORM|DIS2D|DIS3D"
)
# The same of a frame of an enhanced object (C.8.16.1.3 and C.8.13.3.1.1), whose fourth value tells how it was derived.
_FLAVOUR = re.compile(
    r"CARDIAC_GATED|CARDRESP_GATED|RESP_GATED|CINE|DYNAMIC|MOTION|PERFUSION|PRE_CONTRAST|POST_CONTRAST|REST|STRESS|"
    r"STATIC|VOLUME|PARALLEL|NON_PARALLEL|REALTIME|PROTON_DENSITY|STIR|T1|T2"
)
_AS_ACQUIRED = ("", "NONE", "ADDITION", "MEAN")
# Further values that make something else of a plain image.
_REWORKED = re.compile(
    r"LOCALI[SZ]ER|SCOUT|MOSAIC|MPR|CSA MPR|CPR|MIP|MINIP|(MAX|MIN)[ _]?IP|PROJECTION IMAGE|"
    r"(T1|T2|T2[ _]?STAR|ECV)[ _]MAP|SCREEN ?(SHOT|SAVE|CAPTURE)"
)


class NotASliceError(InputError):
    """A DICOM file that is no slice of an MR volume; `what` says in a few words what it is."""

    def __init__(self, message: str, what: str) -> None:
        super().__init__(message)
        self.what = what


def check_kind(header: DicomHeader) -> None:
    """Raise `NotASliceError` unless a header is that of a single greyscale MR image.

    Raises:
        InputError: The header does not say the modality.
    """
    _check_class(header)
    _check_single(header)
    _check_greyscale(header)


def is_enhanced(header: DicomHeader) -> bool:
    """Tell whether a file is an enhanced MR object: many frames, each with its own place, time and kind."""
    return header.storage_class() in _MULTI_FRAME


def frames_of(header: DicomHeader) -> list[DicomHeader]:
    """Return the header of each frame of an enhanced object, as if it were a slice of its own.

    Where frames tell no trigger time, the index of their time stands as InstanceNumber of a cine of so many phases.

    Raises:
        InputError: It does not describe each frame that it announces.
    """
    shared, each = (header.dataset.get(name) or [] for name in FUNCTIONAL_GROUPS)
    announced = header.whole_number("NumberOfFrames") or 1
    if len(each) != announced:
        raise InputError(
            f"{header.path}: announces {announced} frames and describes {len(each)} of them; export it again"
        )
    common = _elements(shared)
    frames = [common | _elements([groups]) for groups in each]
    times = [one.get("TemporalPositionIndex") for one in frames]
    told = all(times) and not all("TriggerTime" in one for one in frames)
    phases = max(int(time) for time in times if time) if told else None
    return [
        replace(header, frame=one | {"InstanceNumber": time if told else number, "CardiacNumberOfImages": phases})
        for number, (one, time) in enumerate(zip(frames, times, strict=True), start=1)
    ]


def _elements(groups: Iterable[Dataset]) -> dict[str, Any]:
    """Return what functional groups say, under the names that a single slice gives it."""
    macros = (macro.value[0] for group in groups for macro in group if macro.VR == "SQ" and macro.value)
    found = {
        name: value
        for macro in macros
        for keyword, name in _OF_A_FRAME.items()
        if (value := macro.get(keyword)) not in (None, "")
    }
    kind, component = found.get("ImageType", ()), found.pop("ComplexImageComponent", None)
    return found | {"ImageType": [*kind, component]} if kind and component else found


def image_type(header: DicomHeader) -> tuple[str, ...]:
    """Return the values of ImageType in capitals, `ORIGINAL`, `PRIMARY`, `M` and so on."""
    return tuple(one_line(value).upper() if value.strip() else "" for value in header.texts("ImageType"))


def check_scanned(header: DicomHeader) -> None:
    """Raise `NotASliceError` where ImageType is none of a slice as scanned; images that carry none are taken."""
    values = image_type(header)
    origin, role, shows = (*values, "", "", "")[:3]
    known = origin in ("", "ORIGINAL", "DERIVED") and role in ("", "PRIMARY", "SECONDARY")
    plain = bool(_PLAIN.fullmatch(shows)) if shows else role != "SECONDARY"
    if header.frame:
        plain = (plain or bool(_FLAVOUR.fullmatch(shows))) and (*values, *[""] * 4)[3] in _AS_ACQUIRED
    if not known or not plain or any(_REWORKED.fullmatch(value) for value in values[2:]):
        what = f"ImageType {type_text(values)}"
        raise NotASliceError(
            f"{header.path}: its {what} is not that of a scanned slice; give the original images", what
        )


def type_text(values: tuple[str, ...]) -> str:
    """Return an ImageType as it is written in DICOM, for messages."""
    return one_line("\\".join(values) or "none")


def multi_frame(header: DicomHeader) -> NotASliceError:
    """Return the refusal of a file of several frames where a single slice is read."""
    return NotASliceError(
        f"{header.path}: is a multi-frame (enhanced) MR object; export it as one file a slice, "
        "such as with dcm4che's emf2sf",
        "multi-frame MR",
    )


def _check_class(header: DicomHeader) -> None:
    path, modality, storage = header.path, header.text("Modality"), header.storage_class()
    name = one_line(UID(storage).name).removesuffix(" Storage")
    if modality not in ("MR", ""):
        what = name if storage not in _SINGLE_FRAME else f"modality {one_line(modality)}"
        raise NotASliceError(
            f"{path}: modality is {one_line(modality)}, not MR; give the files of a cardiac MR series", what
        )
    if storage not in (*_SINGLE_FRAME, *_MULTI_FRAME):
        raise NotASliceError(f"{path}: is a {name}, not an MR image; give the files of a cardiac MR series", name)
    if not modality:
        raise InputError(f"{path}: modality is missing, not MR; give the files of a cardiac MR series")


def _check_single(header: DicomHeader) -> None:
    path = header.path
    if (header.whole_number("NumberOfFrames") or 1) != 1 and not is_enhanced(header):
        raise multi_frame(header)
    if not header.number("Rows"):
        raise NotASliceError(f"{path}: holds no image; give the files of a cardiac MR series", "no image")
    if "MOSAIC" in image_type(header) or header.dataset.get(IMAGES_IN_MOSAIC) is not None:
        raise NotASliceError(
            f"{path}: is a mosaic (ImageType {type_text(image_type(header))}), a whole stack as tiles of one image; "
            "export it as one file a slice",
            "mosaic",
        )


def _check_greyscale(header: DicomHeader) -> None:
    path, kind = header.path, header.text("PhotometricInterpretation")
    colours = header.whole_number("SamplesPerPixel") or 1
    if colours == 1 and kind == "MONOCHROME1":
        raise NotASliceError(
            f"{path}: is MONOCHROME1, in which large values are dark; convert it to {_GREYSCALE}, or export it again",
            kind,
        )
    if colours != 1 or kind != _GREYSCALE:
        raise NotASliceError(
            f"{path}: {colours} values a pixel in {one_line(kind or 'an unknown order')} are not greyscale "
            f"({_GREYSCALE}); give the original images",
            one_line(kind or "unknown colours"),
        )
