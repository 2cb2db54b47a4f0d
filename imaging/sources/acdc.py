"""Reads ACDC's cine studies at end diastole (ED) and end systole (ES) (Bernard et al., IEEE TMI 2018).

Layout: `patient001/patient001_frame01.nii.gz`, `patient001_frame01_gt.nii.gz` and perhaps `Info.cfg`, directly in the
folder or in its `training` and `testing`. The whole cine, `patient001_4d.nii.gz`, has no ground truth and is not read.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.files import without_own
from imaging.labels import CINE_LABELS, CineTissue
from imaging.sources.config import DEFAULT, SourceConfig
from imaging.sources.files import composed, files_below, inside, nifti_stem, source_folder, unread_studies
from imaging.sources.nifti_studies import (
    NamedFile,
    NiftiPair,
    nifti_files,
    nifti_study,
    pair_by_name,
    read_clinical_text,
)
from imaging.sources.patient_names import NamedPlace, Place, tell_places
from imaging.studies.study import ED, PHASES, RejectedStudy, Study, attempt, name_phases, read_or_reject

LABELS = {
    0: CineTissue.BACKGROUND,
    1: CineTissue.BACKGROUND,  # right ventricle
    2: CineTissue.MYOCARDIUM,
    3: CineTissue.CAVITY,
}


def read_acdc(root: Path, config: SourceConfig = DEFAULT) -> Iterator[Study | RejectedStudy]:
    """Yield the studies of an ACDC folder, patient by patient in the order of names, frames in that of numbers.

    `Info.cfg` tells which frames are `ED` and `ES`; where it does not, those with the largest and the smallest cavity
    are. Other frames with ground truth carry their number, as does a frame that nothing can be compared with.

    Args:
        root: The folder that holds the patients' folders.
        config: What names mean, see `imaging.sources.patient_names`.

    Raises:
        InputError: `root` is no folder, or holds no `patient*` folder, or names leave open what is a patient.
    """
    root = source_folder(root, "ACDC", "patient001 and so on")
    parts = (root, root / "training", root / "testing")
    folders = [path for part in parts for path in without_own(part.glob("patient*")) if path.is_dir()]
    if not folders:
        raise InputError(
            f"ACDC folder {root} holds no patient* folder, nor do its training and testing; "
            "give the folder that holds patient001 ..."
        )
    folders.sort(key=lambda folder: (folder.name, folder))
    named = [NamedPlace(composed(folder.name), folder) for folder in folders]
    places, left = tell_places(named, config, f"ACDC folder {root}")
    return _studies(root, folders, places, left)


def _studies(
    root: Path, folders: Sequence[Path], places: Mapping[Path, Place], left: RejectedStudy | None
) -> Iterator[Study | RejectedStudy]:
    for folder, place in places.items():
        yield from _read_patient(root, folder, place)
    if left:
        yield left
    read = {path for folder in folders for path in files_below(folder, refuse=False) if _is_named(folder, path)}
    yield from unread_studies(root, (), read, "call it as in patient001/patient001_frame01.nii.gz")


def _read_patient(root: Path, folder: Path, place: Place) -> Iterator[Study | RejectedStudy]:
    listed = attempt(place.patient, folder, partial(_list_patient, root, folder))
    if isinstance(listed, RejectedStudy):
        yield listed
        return
    info, named, frames = listed
    read = {
        frame.name: read_or_reject(place.patient, frame.path, partial(_read_frame, root, place.patient, frame, info))
        for frame in frames
    }
    cavities = {number: _cavity_ml(study) for number, study in read.items() if isinstance(study, Study)}
    phases = name_phases(cavities, named)
    for number, study in read.items():
        frame = place.frame_of(phases.get(number, number))
        yield replace(study, frame=frame) if isinstance(study, Study) else study
    for phase, number in named.items():
        if number not in read:
            yield _absent(folder, place.patient, phase, number)


def _list_patient(root: Path, folder: Path) -> tuple[dict[str, str], dict[str, str], list[NiftiPair]]:
    """Return what `Info.cfg` tells, the numbers of `ED` and `ES` as far as it does, and the frames."""
    info = _info(inside(root, folder))
    return info, _named_phases(folder, info), _frames(folder)


def _read_frame(root: Path, case_id: str, frame: NiftiPair, info: Mapping[str, str]) -> Study:
    image_path, mask_path = frame.files(root)
    return nifti_study(case_id, image_path, mask_path, CINE_LABELS, values=LABELS, clinical=info)


def _frames(folder: Path) -> list[NiftiPair]:
    """Return the files of each frame, named by its number as ACDC writes it: `01`."""
    images: list[NamedFile] = []
    masks: list[NamedFile] = []
    for stem, path in nifti_files(folder):
        if (match := _file_name(folder).fullmatch(stem)) and match["number"]:
            (masks if match["truth"] else images).append((_number(match["number"]), path))
    if not images and not masks:
        raise InputError(f"{folder} holds no {folder.name}_frame01.nii.gz or other frame; add them, or remove it")
    return pair_by_name(images, masks)


def _file_name(folder: Path) -> re.Pattern[str]:
    """Return what a patient's files are called: frames with their ground truth, and the whole cine, which has none."""
    return re.compile(rf"{re.escape(composed(folder.name))}_(frame(?P<number>[0-9]+)(?P<truth>_gt)?|4d)")


def _is_named(folder: Path, path: Path) -> bool:
    return path.parent == folder and bool(_file_name(folder).fullmatch(nifti_stem(path) or ""))


def _number(digits: str) -> str:
    return f"{int(digits):02d}"


def _info(folder: Path) -> dict[str, str]:
    path = folder / "Info.cfg"
    try:
        return read_clinical_text(inside(folder, path)) if path.is_file() else {}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); correct it and run again") from error


def _named_phases(folder: Path, info: Mapping[str, str]) -> dict[str, str]:
    """Return the frame's number by `ED` and `ES`, as far as `Info.cfg` tells them."""
    told = {phase: info[phase.lower()] for phase in PHASES if phase.lower() in info}
    for phase, value in told.items():
        if not re.fullmatch("[0-9]+", value):
            raise InputError(f"{folder / 'Info.cfg'}: {phase} is {value!r}; write the number of a frame")
    named = {phase: _number(value) for phase, value in told.items()}
    if len(set(named.values())) < len(named):
        raise InputError(f"{folder / 'Info.cfg'}: ED and ES are both frame {named[ED]}; correct one of them")
    return named


def _cavity_ml(study: Study) -> float:
    return np.count_nonzero(study.mask == CineTissue.CAVITY) * prod(study.spacing_mm) / 1000


def _absent(folder: Path, patient: str, phase: str, number: str) -> RejectedStudy:
    file = folder / f"{folder.name}_frame{number}.nii.gz"
    return RejectedStudy(
        patient, str(folder), f"{file} is missing, which Info.cfg names as {phase}; add it, or correct Info.cfg"
    )
