"""From NIfTI files to studies: what lies in a folder, which mask belongs to which image, and the two as one study.

How a volume is read is in `imaging.volumes.nifti`; what the files of a data set are called is in that format's module.

What EMIDEC and ACDC tell about a patient beside the images, as names and values in the source's own words.
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import InputError, some_of
from common.tables import refuse_semicolons
from imaging.labels import LabelSet, patient_group, to_labels
from imaging.sources.files import find_file, listed, nifti_stem, read_text
from imaging.studies.study import Study
from imaging.volumes.nifti import read_nifti_pair

NamedFile = tuple[str, Path]  # what its study is called, and where it lies


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
                names = some_of(found)
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
        clinical: See `Study`.

    Raises:
        InputError: A file is unreadable, or the two do not belong together, or a label is unknown.
    """
    image, mask = read_nifti_pair(image_path, mask_path, spacing_mm)
    drawn = to_labels(mask.data, labels, str(mask_path), values)
    return Study(
        case_id=case_id,
        frame=frame,
        group=patient_group(drawn, labels),
        image=image.image,
        mask=drawn,
        spacing_mm=image.spacing_mm,
        affine=image.affine,
        label_set=labels.name,
        path=str(image_path),
        clinical=clinical or {},
        notes=(*image.notes, *mask.notes),
    )


def nifti_files(folder: Path, own: bool = False) -> list[NamedFile]:
    """Return name without `.nii` or `.nii.gz`, and path, of what a folder holds; nothing where there is no folder.

    Args:
        folder: The folder.
        own: Also what this program wrote there, such as the label maps of `scarforge predict`.

    Raises:
        InputError: The folder cannot be listed.
    """
    return [(stem, path) for path in listed(folder, own) if (stem := nifti_stem(path)) is not None]


def pair_by_name(images: Iterable[NamedFile], masks: Iterable[NamedFile]) -> list[NiftiPair]:
    """Bring the images and masks of each study together, in the order of names."""
    pairs: dict[str, NiftiPair] = {}
    for name, path in images:
        pairs.setdefault(name, NiftiPair(name)).images.append(path)
    for name, path in masks:
        pairs.setdefault(name, NiftiPair(name)).masks.append(path)
    return [pairs[name] for name in sorted(pairs)]


def clinical_name(words: str) -> str:
    """Return a field's name in lower case with underscores: `ECG (ST +)` becomes `ecg_st`."""
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")


def read_clinical_text(path: Path) -> dict[str, str]:
    """Read lines of `name : value`, as EMIDEC's `Case P001.txt` and ACDC's `Info.cfg` hold them.

    Lines without a colon are passed over.

    Raises:
        InputError: It is no text.
    """
    text = read_text(path)
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    values = {clinical_name(name): value.strip() for name, value in pairs}
    return {name: value for name, value in values.items() if name and value}


def read_clinical_table(path: Path) -> Mapping[str, dict[str, str]]:
    """Read a CSV with one row a patient, by its column `case_id`; `Case P001` and `Case_P001` are one patient.

    Raises:
        InputError: The file is unreadable, is separated by semicolons or has no column `case_id`.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path), newline="")))
    except (OSError, csv.Error) as error:
        raise InputError(f"{path}: not a readable CSV ({error}); save it as UTF-8, or remove it") from error
    if not rows:
        return {}
    refuse_semicolons(path, rows[0])
    if "case_id" not in rows[0]:
        raise InputError(f"{path}: has no column 'case_id' but {some_of(rows[0])}; name the column of patients so")
    return {row["case_id"].replace(" ", "_"): _named(row) for row in rows if row["case_id"]}


def _named(row: Mapping[str | None, str | list[str] | None]) -> dict[str, str]:
    cells = {name: value for name, value in row.items() if name and name != "case_id" and isinstance(value, str)}
    return {clinical_name(str(name)): value.strip() for name, value in cells.items() if value and value.strip()}
