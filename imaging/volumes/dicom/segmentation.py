"""Writes a label map as a DICOM segmentation beside the slices it was drawn on, with highdicom (an optional extra)."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread

from common.errors import InputError
from common.pages.words import words
from imaging.labels import LabelSet
from imaging.volumes.dicom.header import pydicom_on
from imaging.volumes.dicom.volume import DicomVolume

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
        segmentation = highdicom.seg.Segmentation(
            source_images=[dcmread(path) for path in dict.fromkeys(one.path for one in volume.slices)],
            plane_positions=_positions(highdicom, volume),
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
    segmentation.save_as(path)


def _positions(highdicom: Any, volume: DicomVolume) -> list[Any] | None:
    """Return where frames of an enhanced object lie, of which only some are segmented; None for files of their own."""
    if all(one.frame is None for one in volume.slices):
        return None
    patient = highdicom.enum.CoordinateSystemNames.PATIENT
    return [highdicom.PlanePositionSequence(patient, one.position_mm.tolist()) for one in volume.slices]


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
