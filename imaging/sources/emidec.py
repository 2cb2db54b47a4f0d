"""Reads EMIDEC's folders, published and region-cropped alike (Lalande et al., Data 2020).

Layout: `Case_P001/Images/Case_P001.nii.gz`, `Case_P001/Contours/Case_P001.nii.gz`, the clinical `Case P001.txt`
beside or inside the patient's folder, and perhaps a `clinical.csv` with a column `case_id`.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from common.errors import InputError
from common.files import without_own
from imaging.labels import EMIDEC_LABELS
from imaging.sources.config import DEFAULT, SourceConfig
from imaging.sources.files import composed, files_below, find_file, inside, nifti_stem, source_folder, unread_studies
from imaging.sources.nifti_studies import nifti_files, nifti_study, read_clinical_table, read_clinical_text
from imaging.sources.patient_names import NamedPlace, Place, tell_places
from imaging.studies.study import RejectedStudy, Study, read_or_reject

_PARTS = ("Images", "Contours")
_log = logging.getLogger(__name__)


def read_emidec(root: Path, config: SourceConfig = DEFAULT) -> Iterator[Study | RejectedStudy]:
    """Yield the studies of an EMIDEC folder in the order of their names, unusable ones as `RejectedStudy`.

    Affines are unit matrices: axes are taken as stored, spacing from the header's pixel dimensions.

    Args:
        root: The folder that holds the patients' folders.
        config: What names mean, see `imaging.sources.patient_names`.

    Raises:
        InputError: `root` is no folder, or holds no `Case_*` folder, or names leave open what is a patient.
    """
    root = source_folder(root, "EMIDEC", "Case_P001 and so on")
    folders = sorted(folder for folder in without_own(root.glob("Case_*")) if folder.is_dir())
    if not folders:
        raise InputError(f"EMIDEC folder {root} holds no Case_* folder; give the folder that holds Case_P001 ...")
    named = [NamedPlace(composed(folder.name), folder) for folder in folders]
    places, left = tell_places(named, config, f"EMIDEC folder {root}")
    return _studies(root, folders, places, left)


def _studies(
    root: Path, folders: Sequence[Path], places: Mapping[Path, Place], left: RejectedStudy | None
) -> Iterator[Study | RejectedStudy]:
    table = _clinical_table(root)
    for folder, place in places.items():
        read = partial(_read_study, root, folder, place, table.get(composed(folder.name), {}))
        yield read_or_reject(place.patient, folder, read)
    if left:
        yield left
    named = ((path, folder) for folder in folders for path in files_below(folder, refuse=False))
    known = {path for path, folder in named if path.parent.name in _PARTS and _is_named(path, folder)}
    yield from unread_studies(root, (), known, "call it as in Case_P001/Images/Case_P001.nii.gz")


def _read_study(root: Path, folder: Path, place: Place, table: Mapping[str, str]) -> Study:
    image_path, mask_path = (find_file(root, _file_of(folder, part)) for part in _PARTS)
    clinical = {**table, **_clinical_text(root, folder)}
    return nifti_study(place.patient, image_path, mask_path, EMIDEC_LABELS, frame=place.frame, clinical=clinical)


def _file_of(folder: Path, part: str) -> Path:
    """Return the file called as the patient, `.nii.gz` first; where there is none, the one that should be there."""
    found = [path for _, path in nifti_files(folder / part) if _is_named(path, folder)]
    return found[-1] if found else folder / part / f"{folder.name}.nii.gz"


def _is_named(path: Path, folder: Path) -> bool:
    return nifti_stem(path) == composed(folder.name)


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
