"""Finds the label maps in a folder: EMIDEC's or ACDC's layout, or flat files named for their patients.

emidec: `Case_P001/Contours/Case_P001.nii.gz`, or flat `Case_P001.nii.gz`.
acdc: `patient001/patient001_frame01_gt.nii.gz` (also in `training` and `testing`; without `_gt` in a patient's folder
that has no such file), or flat `patient001_frame01.nii.gz`, `patient001_01.nii.gz` or `patient001_ED.nii.gz`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from imaging.clinical import read_clinical_text
from imaging.errors import InputError
from imaging.labels import CINE_LABELS, EMIDEC_LABELS, CineTissue, LabelSet
from imaging.nifti_study import nifti_files
from imaging.source_files import composed, inside, source_folder

PHASES = ("ED", "ES")


class LabelFormat(NamedTuple):
    """A layout of folders and its numbering.

    Attributes:
        name: As the command names it.
        labels: The label set that is scored.
        values: Label value by the number in a file; None where the two are the same.
        example: File names, for messages.
    """

    name: str
    labels: LabelSet
    values: Mapping[int, int] | None
    example: str


EMIDEC = LabelFormat("emidec", EMIDEC_LABELS, None, "Case_P001/Contours/Case_P001.nii.gz or Case_P001.nii.gz")
ACDC = LabelFormat(
    "acdc",
    CINE_LABELS,
    # 1 is the right ventricle, which is not scored.
    MappingProxyType(
        {0: CineTissue.BACKGROUND, 1: CineTissue.BACKGROUND, 2: CineTissue.MYOCARDIUM, 3: CineTissue.CAVITY}
    ),
    "patient001/patient001_frame01_gt.nii.gz or patient001_frame01.nii.gz",
)
LABEL_FORMATS: Mapping[str, LabelFormat] = MappingProxyType({form.name: form for form in (EMIDEC, ACDC)})

_FRAME = re.compile(r"(?P<case>.+)_(?:(?P<phase>ED|ES)|(?:frame)?(?P<number>[0-9]+))(?P<truth>_gt)?")


@dataclass(frozen=True)
class LabelFolder:
    """What a folder holds.

    Attributes:
        files: Path by frame by patient; the frame is empty (emidec), or `ED`, `ES` or a number such as `01`.
        phases: Number of the frame by `ED` and `ES` by patient, where an `Info.cfg` tells.
        problems: One line for each file that cannot be told apart or named.
    """

    files: dict[str, dict[str, Path]] = field(default_factory=dict)
    phases: dict[str, dict[str, str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, root: Path, case_id: str, frame: str, path: Path) -> None:
        """Take in a file; a link out of `root` is a problem, as is the second of two files for one study."""
        try:
            inside(root, path)
        except InputError as error:
            self.problems.append(str(error))
            return
        first = self.files.setdefault(case_id, {}).setdefault(frame, path)
        if first != path:
            self.problems.append(f"{path}: {first} is the same study; {first.name} was scored, remove one of them")


def find_label_maps(root: Path, form: LabelFormat, what: str) -> LabelFolder:
    """List the label maps of a folder, in the order of names.

    Args:
        root: The folder.
        form: Its layout; nested and flat files may both be there.
        what: `reference` or `prediction`, for messages.

    Raises:
        InputError: `root` is no folder or holds no label map.
    """
    root = source_folder(root, what, form.example)
    found = LabelFolder()
    try:
        for case_id, frame, path in _emidec_files(root) if form is EMIDEC else _acdc_files(root, found):
            found.add(root, case_id, frame, path)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be listed ({error.strerror}); correct its permissions") from error
    if not found.files:
        first = f" ({found.problems[0]})" if found.problems else ""
        raise InputError(f"{what} folder {root} holds no label map of format {form.name}{first}; give {form.example}")
    return found


def _emidec_files(root: Path) -> Iterator[tuple[str, str, Path]]:
    for folder in _folders(root):
        for stem, path in nifti_files(folder / "Contours", own=True):
            if stem == composed(folder.name):
                yield stem, "", path
    for stem, path in nifti_files(root, own=True):
        yield stem, "", path


def _acdc_files(root: Path, found: LabelFolder) -> Iterator[tuple[str, str, Path]]:
    for folder in (folder for place in (root, root / "training", root / "testing") for folder in _folders(place)):
        try:
            found.phases[composed(folder.name)] = _phases(root, folder)
        except InputError as error:
            found.problems.append(str(error))
        yield from (named for named in _frames(folder) if named[0] == composed(folder.name))
    for stem, path in nifti_files(root, own=True):
        if not _FRAME.fullmatch(stem):
            found.problems.append(f"{path}: the name tells no frame; name it as {ACDC.example}")
    yield from _frames(root)


def _frames(folder: Path) -> list[tuple[str, str, Path]]:
    """Return patient, frame and path; where some files are ground truth, only those."""
    matches = [(match, path) for stem, path in nifti_files(folder, own=True) if (match := _FRAME.fullmatch(stem))]
    any_truth = any(match["truth"] for match, _ in matches)
    return [
        (match["case"], match["phase"] or frame_number(match["number"]), path)
        for match, path in matches
        if match["truth"] or not any_truth
    ]


def frame_number(digits: str) -> str:
    """Return a frame's number as ACDC writes it: `01`."""
    return f"{int(digits):02d}"


def _phases(root: Path, folder: Path) -> dict[str, str]:
    path = folder / "Info.cfg"
    if not path.is_file():
        return {}
    info = read_clinical_text(inside(root, path))
    told = {phase: info.get(phase.lower(), "") for phase in PHASES}
    return {phase: frame_number(value) for phase, value in told.items() if value.isascii() and value.isdigit()}


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
