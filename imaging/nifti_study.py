"""From NIfTI files to studies: what lies in a folder, which mask belongs to which image, and the two as one study.

How a volume is read is in `imaging.nifti`; what the files of a data set are called is in that format's module.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from imaging.errors import InputError
from imaging.label_values import to_labels
from imaging.labels import LabelSet, patient_group
from imaging.nifti import read_nifti_pair
from imaging.source_files import find_file
from imaging.study import Study

NamedFile = tuple[str, Path]  # what its study is called, and where it lies
_NIFTI = re.compile(r"(?P<stem>[^.].*)\.nii(\.gz)?")  # no hidden files: macOS leaves one beside each file


@dataclass(frozen=True)
class NiftiPair:
    """The files found for one study: one image and one mask, or the study is refused when they are asked for."""

    name: str
    images: list[Path] = field(default_factory=list)
    masks: list[Path] = field(default_factory=list)

    @property
    def path(self) -> Path:
        """One of the files, for messages."""
        return (*self.images, *self.masks)[0]

    def files(self, root: Path) -> tuple[Path, Path]:
        """Return image and mask.

        Raises:
            InputError: One of them is missing, or there twice, or leads out of `root`.
        """
        for what, found, other in (("image", self.images, self.masks), ("mask", self.masks, self.images)):
            if not found:
                raise InputError(f"{other[0]}: its {what} is missing; add it, or remove this file")
            if len(found) > 1:
                names = ", ".join(str(path) for path in found)
                raise InputError(f"{names}: {len(found)} files are the {what} of one study; keep one of them")
        return find_file(root, self.images[0]), find_file(root, self.masks[0])


def nifti_study(
    case_id: str,
    image_path: Path,
    mask_path: Path,
    labels: LabelSet,
    *,
    frame: str = "",
    values: Mapping[int, int] | None = None,
    spacing_mm: tuple[float, float, float] | None = None,
    as_stored: bool = False,
    clinical: Mapping[str, str] | None = None,
) -> Study:
    """Read an image and its mask as one study, its group told by the mask.

    Args:
        case_id: The patient.
        image_path: `.nii` or `.nii.gz`.
        mask_path: The same.
        labels: Label set of the mask.
        frame: See `Study`.
        values: Label value by the number in the mask; None where the numbers are the label values.
        spacing_mm: (slice, row, column) instead of the header's.
        as_stored: Take the axes as they are stored, see `read_nifti`.
        clinical: See `Study`.

    Raises:
        InputError: A file is unreadable, or the two do not belong together, or a label is unknown.
    """
    image, mask = read_nifti_pair(image_path, mask_path, as_stored)
    drawn = to_labels(mask.data, labels, str(mask_path), values)
    return Study(
        case_id=case_id,
        frame=frame,
        group=patient_group(drawn, labels),
        image=image.image,
        mask=drawn,
        spacing_mm=spacing_mm or image.spacing_mm,
        affine=image.affine,
        label_set=labels.name,
        path=str(image_path),
        clinical=clinical or {},
    )


def nifti_files(folder: Path) -> list[NamedFile]:
    """Return name without `.nii` or `.nii.gz`, and path, of what a folder holds; nothing where there is no folder.

    Raises:
        InputError: The folder cannot be listed.
    """
    try:
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror}); correct its permissions") from error
    found = ((_NIFTI.fullmatch(path.name), path) for path in paths)
    return [(match["stem"], path) for match, path in found if match]


def pair_by_name(images: Iterable[NamedFile], masks: Iterable[NamedFile]) -> list[NiftiPair]:
    """Bring the images and masks of each study together, in the order of names."""
    pairs: dict[str, NiftiPair] = {}
    for name, path in images:
        pairs.setdefault(name, NiftiPair(name)).images.append(path)
    for name, path in masks:
        pairs.setdefault(name, NiftiPair(name)).masks.append(path)
    return [pairs[name] for name in sorted(pairs)]
