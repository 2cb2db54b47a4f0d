"""Writes a label map as a DICOM segmentation beside the slices it was drawn on, with highdicom (an optional extra)."""

from collections.abc import Sequence
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import MRImageStorage

from common.errors import InputError, one_line
from common.pages.words import words
from imaging.labels import LabelSet
from imaging.volumes.dicom.header import FUNCTIONAL_GROUPS, pydicom_on, read_dataset
from imaging.volumes.dicom.slice_file import DicomSlice
from imaging.volumes.dicom.volume import DicomVolume, heights_mm

if TYPE_CHECKING:
    from types import ModuleType

# Category and type of each tissue, from DICOM PS3.16 (SNOMED CT); what has no code there is named by ours.
_STRUCTURE = ("91723000", "SCT", "Anatomical Structure")
_ABNORMAL = ("49755003", "SCT", "Morphologically Abnormal Structure")
_MYOCARDIUM = (_STRUCTURE, ("49848007", "SCT", "Left Ventricle Myocardium"))
_CODES = {
    "cavity": (_STRUCTURE, ("cavity", "99SCARFORGE", "Left ventricular cavity")),
    "normal_myocardium": _MYOCARDIUM,
    "myocardium": _MYOCARDIUM,
    "infarct": (_ABNORMAL, ("22298006", "SCT", "Myocardial infarction")),
    "no_reflow": (_ABNORMAL, ("no_reflow", "99SCARFORGE", "No-reflow (microvascular obstruction)")),
}
_SERIES_NUMBER = 900  # beyond those of scanners


def require_highdicom() -> "ModuleType":
    """Return highdicom.

    Raises:
        InputError: It is not installed.
    """
    try:
        import highdicom  # type: ignore[import-not-found,unused-ignore] # an optional extra
    except ImportError as error:
        raise InputError(
            "DICOM segmentations need highdicom, which is not installed; pip install 'scarforge[dicom]', or leave out "
            "--dicom-seg"
        ) from error
    return highdicom


def write_dicom_segmentation(
    path: Path, mask: NDArray[np.uint8], volume: DicomVolume, labels: LabelSet, algorithm: str
) -> None:
    """Write a label map (S, H, W) as a binary DICOM segmentation, one segment for each tissue that it holds.

    Args:
        path: The file; its folder is made.
        mask: Arranged as the volume's image.
        volume: The slices the label map was drawn on; their files are read again for the headers.
        labels: Names of the tissues.
        algorithm: What drew it, for the header.

    Raises:
        InputError: highdicom is not installed, the label map is empty, or the slices' headers lack what it needs.
    """
    highdicom = require_highdicom()
    present = [(value, tissue) for value, tissue in labels.foreground if (mask == value).any()]
    if not present:
        raise InputError(f"{volume.slices[0].path}: the label map is empty, which DICOM cannot say; see the NIfTI file")
    stack = volume.arrangement.undo(mask).transpose(2, 1, 0)  # (slice, row, column) of the files
    planes = np.stack([stack == value for value, _ in present], axis=-1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with pydicom_on(volume.slices[0].path):
        try:
            sources = sources_of(volume)
            segmentation = highdicom.seg.Segmentation(
                source_images=[one.header for one in sources],
                pixel_array=planes.astype(np.uint8),
                segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=_descriptions(highdicom, [tissue for _, tissue in present], algorithm),
                series_instance_uid=highdicom.UID(),
                series_number=_SERIES_NUMBER,
                sop_instance_uid=highdicom.UID(),
                instance_number=1,
                manufacturer="ScarForge",
                manufacturer_model_name=algorithm,
                software_versions=version("scarforge"),
                device_serial_number="0",
            )
            refer_to_files(segmentation, sources)
        except (AttributeError, ValueError) as error:  # what highdicom says of elements that it needs
            raise InputError(
                f"{volume.slices[0].path}: its headers allow no DICOM segmentation ({one_line(error)}); export the "
                "series with its full header, or leave out --dicom-seg"
            ) from error
    segmentation.save_as(path)


class Source(NamedTuple):
    """A slice for highdicom: its header as that of a file of its own, and what a segmentation refers to instead."""

    header: Dataset
    reference: Dataset


def sources_of(volume: DicomVolume) -> list[Source]:
    """Return every slice as highdicom takes it, frames of enhanced objects as if they were files.

    highdicom takes no two enhanced objects, none that tells the orientation frame by frame, and lets a segment refer to
    all frames at its place, those of other phases, too.
    """
    headers = {path: _header(path) for path in {one.path for one in volume.slices}}
    step_mm = float(np.diff(heights_mm(volume.slices)).mean()) if len(volume.slices) > 1 else None
    sources = []
    for number, one in enumerate(volume.slices, start=1):
        header = deepcopy(headers[one.path])
        reference = _reference(header, one)
        if one.frame is not None:
            _as_a_file(header, one, f"2.25.{number}")
        header.ImageOrientationPatient = volume.slices[0].directions.ravel().tolist()  # others differ by rounding
        header.SliceThickness = one.slab_mm or one.thickness_mm or step_mm
        sources.append(Source(header, reference))
    return sources


def _header(path: Path) -> Dataset:
    """Read what a file tells beside its pixels and its frames."""
    header = read_dataset(path, stop_before_pixels=True)
    for keyword in ("NumberOfFrames", *FUNCTIONAL_GROUPS):
        if keyword in header:
            delattr(header, keyword)
    return header


def _reference(header: Dataset, one: DicomSlice) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    if one.frame is not None:
        reference.ReferencedFrameNumber = one.frame + 1
    return reference


def _as_a_file(header: Dataset, one: DicomSlice, uid: str) -> None:
    """Turn the header of an enhanced object into that of one of its frames."""
    header.SOPClassUID, header.SOPInstanceUID = MRImageStorage, uid
    header.ImagePositionPatient, header.PixelSpacing = one.position_mm.tolist(), list(one.pixel_mm)
    if one.between_mm:
        header.SpacingBetweenSlices = abs(one.between_mm)


def refer_to_files(segmentation: Dataset, sources: Sequence[Source]) -> None:
    """Let a segmentation refer to the objects as they lie on disk, each of its frames to the one it was drawn on."""
    known = {str(one.header.SOPInstanceUID): one.reference for one in sources}
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        for derivation in frame.DerivationImageSequence:
            for item in derivation.SourceImageSequence:
                item.update(known.get(item.ReferencedSOPInstanceUID, {}))  # segments at one place share the item
    whole = {str(one.ReferencedSOPInstanceUID): one for one in map(deepcopy, known.values())}
    for one in whole.values():
        one.pop("ReferencedFrameNumber", None)
    segmentation.SourceImageSequence = list(whole.values())
    segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence = list(map(deepcopy, whole.values()))


def _descriptions(highdicom: Any, tissues: Sequence[str], algorithm: str) -> list[Any]:
    identification = highdicom.AlgorithmIdentificationSequence(
        name=algorithm,
        version=version("scarforge"),
        family=highdicom.sr.CodedConcept("123110", "DCM", "Artificial Intelligence"),
    )
    return [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=words(tissue),
            segmented_property_category=highdicom.sr.CodedConcept(*_CODES[tissue][0]),
            segmented_property_type=highdicom.sr.CodedConcept(*_CODES[tissue][1]),
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=identification,
        )
        for number, tissue in enumerate(tissues, start=1)
    ]
