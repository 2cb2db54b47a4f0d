"""Reads the LGE studies of MS-CMRSeg (Zhuang, IEEE TPAMI 2019).

Layout: `images/subject1_DE.nii.gz` and `labels/subject1_DE_manual.nii.gz`, or the challenge's own names
`patient1_LGE.nii.gz` and `patient1_LGE_manual.nii.gz`; both may lie in one folder. Other sequences (C0, T2) are not
read. Scar is not drawn: it is part of the myocardium.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from common.errors import InputError
from imaging.labels import CINE_LABELS, CineTissue
from imaging.sources.config import DEFAULT, SourceConfig
from imaging.sources.files import listed, nifti_stem, source_folder, unread_studies
from imaging.sources.nifti_studies import NamedFile, NiftiPair, nifti_files, nifti_study, pair_by_name
from imaging.sources.patient_names import FileName, Place, tell_patients, unmatched
from imaging.studies.study import RejectedStudy, Study, read_or_reject

_HOLDS = "images/subject1_DE.nii.gz, labels/subject1_DE_manual.nii.gz and so on"
_NAME = re.compile(r"(?P<case>.+)_(DE|LGE)(?P<manual>_manual)?")
_OTHER_SEQUENCE = re.compile(r".+_(C0|T2)(_manual)?")
_LABELS = {
    0: CineTissue.BACKGROUND,
    1: CineTissue.BACKGROUND,  # right ventricle
    2: CineTissue.MYOCARDIUM,
    3: CineTissue.CAVITY,
    # The challenge's own numbers.
    600: CineTissue.BACKGROUND,  # right ventricle
    200: CineTissue.MYOCARDIUM,
    500: CineTissue.CAVITY,
}


def read_mscmr_lge(root: Path, config: SourceConfig = DEFAULT) -> Iterator[Study | RejectedStudy]:
    """Yield the LGE studies of an MS-CMRSeg folder in the order of patients' names.

    Args:
        root: The folder that holds the files, or `images` and `labels`.
        config: What names mean, see `imaging.sources.patient_names`.

    Raises:
        InputError: `root` is no folder, or holds no file that is named so, or names leave open what is a patient.
    """
    root = source_folder(root, "MS-CMRSeg", _HOLDS)
    pairs = _pairs(root)
    if not pairs:
        raise InputError(f"MS-CMRSeg folder {root} holds no LGE files; give the folder that holds {_HOLDS}")
    names = [FileName(pair.name, is_volume=True, has_image=bool(pair.images)) for pair in pairs]
    return _studies(root, pairs, tell_patients(names, config, f"MS-CMRSeg folder {root}"))


def _studies(root: Path, pairs: Sequence[NiftiPair], places: Mapping[str, Place]) -> Iterator[Study | RejectedStudy]:
    for pair in (pair for pair in pairs if pair.name in places):
        place = places[pair.name]
        yield read_or_reject(place.patient, pair.path, partial(_read_study, root, pair, place))
    if left := unmatched(pairs, places):
        yield left
    named = ((nifti_stem(path), path) for place in _places(root) for path in listed(place))
    read = {path for stem, path in named if stem and (_NAME.fullmatch(stem) or _OTHER_SEQUENCE.fullmatch(stem))}
    yield from unread_studies(root, (), read, f"call it as in {_HOLDS}")


def _places(root: Path) -> tuple[Path, ...]:
    return root, root / "images", root / "labels"


def _pairs(root: Path) -> list[NiftiPair]:
    images: list[NamedFile] = []
    masks: list[NamedFile] = []
    for folder in _places(root):
        for stem, path in nifti_files(folder):
            if match := _NAME.fullmatch(stem):
                (masks if match["manual"] else images).append((match["case"], path))
    return pair_by_name(images, masks)


def _read_study(root: Path, pair: NiftiPair, place: Place) -> Study:
    image_path, mask_path = pair.files(root)
    return nifti_study(place.patient, image_path, mask_path, CINE_LABELS, frame=place.frame, values=_LABELS)
