"""Reads EMIDEC's folders, published and region-cropped alike (Lalande et al., Data 2020).

Layout: `Case_P001/Images/Case_P001.nii.gz`, `Case_P001/Contours/Case_P001.nii.gz`, the clinical `Case P001.txt`
beside or inside the patient's folder, and perhaps a `clinical.csv` with a column `case_id`.
"""

import logging
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from imaging.clinical import read_clinical_table, read_clinical_text
from imaging.errors import InputError
from imaging.labels import EMIDEC_LABELS
from imaging.nifti_study import nifti_study
from imaging.own_files import without_own
from imaging.source_files import find_file, inside, source_folder
from imaging.study import RejectedStudy, Study, read_or_reject

_log = logging.getLogger(__name__)


def read_emidec(root: Path) -> Iterator[Study | RejectedStudy]:
    """Yield the studies of an EMIDEC folder in the order of their names, unusable ones as `RejectedStudy`.

    Affines are unit matrices: axes are taken as stored, spacing from the header's pixel dimensions.

    Raises:
        InputError: `root` is no folder, or holds no `Case_*` folder.
    """
    root = source_folder(root, "EMIDEC", "Case_P001 and so on")
    folders = sorted(folder for folder in without_own(root.glob("Case_*")) if folder.is_dir())
    if not folders:
        raise InputError(f"EMIDEC folder {root} holds no Case_* folder; give the folder that holds Case_P001 ...")
    table = _clinical_table(root)
    return (
        read_or_reject(folder.name, folder, partial(_read_study, root, folder, table.get(folder.name, {})))
        for folder in folders
    )


def _read_study(root: Path, folder: Path, table: Mapping[str, str]) -> Study:
    image_path, mask_path = _file_of(root, folder, "Images"), _file_of(root, folder, "Contours")
    clinical = {**table, **_clinical_text(root, folder)}
    return nifti_study(folder.name, image_path, mask_path, EMIDEC_LABELS, as_stored=True, clinical=clinical)


def _file_of(root: Path, folder: Path, part: str) -> Path:
    return find_file(root, *(folder / part / f"{folder.name}{suffix}" for suffix in (".nii.gz", ".nii")))


def _clinical_table(root: Path) -> Mapping[str, Mapping[str, str]]:
    path = root / "clinical.csv"
    if not path.is_file():
        return {}
    try:
        return read_clinical_table(inside(root, path))
    except InputError as error:  # the studies are usable without it
        _log.warning("%s", error)
        return {}


def _clinical_text(root: Path, folder: Path) -> dict[str, str]:
    name = f"{folder.name.replace('_', ' ')}.txt"
    for path in (root / name, folder / name):
        if path.is_file():
            return read_clinical_text(inside(root, path))
    return {}
