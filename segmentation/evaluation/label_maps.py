"""Reads a reference's and a prediction's label map into one arrangement, or says why they do not belong together.

Whether a prediction that fits its reference poorly would fit far better mirrored, turned or reversed.

Finds the label maps in a folder: EMIDEC's or ACDC's layout, or flat files named for their patients.

emidec: `Case_P001/Contours/Case_P001.nii.gz`, or flat `Case_P001.nii.gz`; predictions may also be
`Case_P001/Case_P001_seg.nii.gz`, as MONAI writes them, or flat with that ending.
acdc: `patient001/patient001_frame01_gt.nii.gz` (also in `training` and `testing`; without `_gt` in a patient's folder
that has no such file), or flat `patient001_frame01.nii.gz`, `patient001_01.nii.gz` or `patient001_ED.nii.gz`.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, some_of
from common.guard import guarded
from imaging.dice import dice
from imaging.labels import CINE_LABELS, EMIDEC_LABELS, LabelSet, distinct_values, to_labels
from imaging.sources.acdc import LABELS as ACDC_NUMBERS
from imaging.sources.files import composed, images_below, inside, source_folder, unread_lines
from imaging.sources.nifti_studies import NamedFile, nifti_files, read_clinical_text
from imaging.studies.study import PHASES
from imaging.volumes.nifti import NiftiVolume, read_nifti, read_nifti_on

REFERENCE, PREDICTION = "reference", "prediction"
PROBABILITIES = "probabilities"  # the folder of what `predict` writes beside its label maps


class LabelFormat(NamedTuple):
    """A layout of folders and its numbering: all that `evaluate` knows of a format.

    Attributes:
        name: As the command names it.
        labels: The label set that is scored.
        values: Label value by the number in a file; None where the two are the same.
        example: File names, for messages.
        numbering: What the numbers in a file stand for, for messages.
        files: Yields patient, frame and path of what lies in a folder, and tells it of phases and problems.
        has_phases: Whether frames are those of a cine, among which ED and ES are looked for.
        without_cavity: Told where no prediction holds a cavity.
    """

    name: str
    labels: LabelSet
    values: Mapping[int, int] | None
    example: str
    numbering: str
    files: "Callable[[Path, LabelFolder, str], Iterator[tuple[str, str, Path]]]"
    has_phases: bool = False
    without_cavity: str = ""


_ENDINGS = ("_seg", "_pred", "_label", "_mask")  # of predictions
_FOREIGN = re.compile(r"(_0000|_gt|_seg|_pred|_label|_mask|_prediction|_segmentation)+$")  # the first is nnU-Net's
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

    def only(self, known: Collection[str]) -> "LabelFolder":
        """Return the same without patients who are not among `known`."""
        return replace(self, files={case_id: frames for case_id, frames in self.files.items() if case_id in known})

    def missing(self, study: str, case_id: str, reference: Path, known: Collection[str]) -> str:
        """Return that a study's file is missing, and what is called nearly so among patients who are not `known`."""
        stem = reference.name.split(".nii")[0].removesuffix("_gt")
        asked = {_plain(case_id), _plain(stem)}
        others = [path for name, frames in self.files.items() if name not in known for path in frames.values()]
        near = next((path for path in others if _plain(path.name.split(".nii")[0]) in asked), None)
        remedy = f"rename {near} to {stem}.nii.gz if it is that" if near else "add it"
        return f"{study}: its prediction is missing; {remedy}"

    def name_as(self, known: Collection[str]) -> None:
        """Name each patient as `known` does where an ending such as `_seg`, or how Unicode is composed, differs."""
        by_form = {composed(name): name for name in known}
        for case_id in [name for name in self.files if name not in known]:
            other = by_form.get(composed(case_id)) or by_form.get(composed(_without_ending(case_id)))
            if other is not None and other not in self.files:
                self.files[other] = self.files.pop(case_id)


def _plain(name: str) -> str:
    return _FOREIGN.sub("", composed(name).casefold())


def find_label_maps(root: Path, form: LabelFormat, what: str) -> LabelFolder:
    """List the label maps of a folder, in the order of names.

    Args:
        root: The folder.
        form: Its layout; nested and flat files may both be there.
        what: `REFERENCE` or `PREDICTION`.

    Raises:
        InputError: `root` is no folder or holds no label map.
    """
    root = source_folder(root, what, form.example)
    found = LabelFolder()
    try:
        for case_id, frame, path in form.files(root, found, what):
            found.add(root, case_id, frame, path)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be listed ({error.strerror}); correct its permissions") from error
    found.problems.extend(_unread(root, found, form))
    if not found.files:
        first = f" ({found.problems[0]})" if found.problems else ""
        raise InputError(f"{what} folder {root} holds no label map of format {form.name}{first}; give {form.example}")
    return found


def _emidec_files(root: Path, found: LabelFolder, what: str) -> Iterator[tuple[str, str, Path]]:
    for folder in _folders(root):
        name = composed(folder.name)
        named = [path for stem, path in _label_files(folder / "Contours", found) if stem == name]
        if not named and what == PREDICTION:
            named = [path for stem, path in _label_files(folder, found) if _without_ending(stem) == name]
        yield from ((name, "", path) for path in named)
    for stem, path in _label_files(root, found):
        yield stem, "", path


def _label_files(folder: Path, found: LabelFolder) -> Iterator[NamedFile]:
    """Yield the NIfTI files of a folder; of a folder that is called as a file, the file of that name in it."""
    for stem, path in nifti_files(folder, own=True):
        if not path.is_dir():
            yield stem, path
        elif within := [inner for name, inner in nifti_files(path, own=True) if name == stem and not inner.is_dir()]:
            yield stem, within[0]
        else:
            found.problems.append(f"{path}: is a folder and holds no file called so; put the file itself in its place")


def _without_ending(name: str) -> str:
    return next((name.removesuffix(ending) for ending in _ENDINGS if name.endswith(ending)), name)


def _unread(root: Path, found: LabelFolder, form: LabelFormat) -> list[str]:
    """Return a line for each folder without a label map that was taken in, if it holds files that look like images."""
    read = [path for frames in found.files.values() for path in frames.values()]
    served = {_owner(root, path) for path in read} - {root}
    stems = {path.with_name(path.name.split(".")[0]) for path in read}  # probabilities lie beside a map, called alike
    others = [
        path
        for path in images_below([root], pictures=False)
        if not (
            path.parent.name == PROBABILITIES
            or _owner(root, path) in served
            or path.with_name(path.name.split(".")[0]) in stems
        )
        and not any(problem.startswith(f"{path}: ") for problem in found.problems)
    ]
    return unread_lines(others, f"name label maps as {form.example}")


def _owner(root: Path, path: Path) -> Path:
    """Return the patient's folder that a file lies in, or `root`."""
    parts = path.relative_to(root).parts[:-1]
    while parts[:1] and parts[0] in ("training", "testing"):
        root, parts = root / parts[0], parts[1:]
    return root / parts[0] if parts else root


def _acdc_files(root: Path, found: LabelFolder, _what: str) -> Iterator[tuple[str, str, Path]]:
    for folder in (folder for place in (root, root / "training", root / "testing") for folder in _folders(place)):
        with guarded(folder, found.problems.append):
            found.phases[composed(folder.name)] = _phases(root, folder)
        yield from (named for named in _frames(folder, found) if named[0] == composed(folder.name))
    for stem, path in nifti_files(root, own=True):
        if not _FRAME.fullmatch(stem):
            found.problems.append(f"{path}: the name tells no frame; name it as {ACDC.example}")
    yield from _frames(root, found)


def _frames(folder: Path, found: LabelFolder) -> list[tuple[str, str, Path]]:
    """Return patient, frame and path; where some files are ground truth, only those."""
    matches = [(match, path) for stem, path in _label_files(folder, found) if (match := _FRAME.fullmatch(stem))]
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
    """Return the folders in a folder, without those that are called as files."""
    files = {path for _, path in nifti_files(root)}
    return sorted(path for path in root.iterdir() if path.is_dir() and path not in files) if root.is_dir() else []


EMIDEC = LabelFormat(
    "emidec",
    EMIDEC_LABELS,
    None,
    "Case_P001/Contours/Case_P001.nii.gz or Case_P001.nii.gz",
    "1 cavity, 2 normal myocardium, 3 infarct, 4 no-reflow",
    _emidec_files,
)
ACDC = LabelFormat(
    "acdc",
    CINE_LABELS,
    ACDC_NUMBERS,
    "patient001/patient001_frame01_gt.nii.gz or patient001_frame01.nii.gz",
    "1 right ventricle, 2 myocardium, 3 cavity",  # the right ventricle is not scored
    _acdc_files,
    has_phases=True,
    without_cavity="no prediction holds a 3, ACDC's number of the cavity; if they number it 1, renumber them",
)
_TABLE = {form.name: form for form in (EMIDEC, ACDC)}
LABEL_FORMATS: Mapping[str, LabelFormat] = MappingProxyType(_TABLE)


_SPACING_TOLERANCE = 0.01


@dataclass(frozen=True)
class LabelMap:
    """A label map (S, H, W) as its reference is arranged.

    Attributes:
        mask: Its labels.
        spacing_mm: (slice, row, column).
        numbers: The numbers that the file holds, of the same shape.
        notes: A sentence for each thing that the files say differently in two places.
    """

    mask: NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]
    numbers: NDArray[np.uint8]
    notes: tuple[str, ...] = ()


def read_reference(path: Path, form: LabelFormat) -> tuple[LabelMap, NiftiVolume]:
    """Read a reference, and the volume that predictions are laid upon.

    Raises:
        InputError: The file is unreadable, or a label is unknown.
    """
    volume = read_nifti(path)
    return _label_map(volume, path, form), volume


def read_prediction(path: Path, form: LabelFormat, reference: NiftiVolume) -> LabelMap:
    """Read a prediction in the arrangement of its reference, see `imaging.volumes.nifti.read_nifti_on`.

    Raises:
        InputError: The file is unreadable, a label is unknown, or shape, spacing or place are not the reference's.
    """
    volume, apart_mm = read_nifti_on(path, reference, "prediction")
    _check_grid(path, volume.data.shape, volume.spacing_mm, reference)
    if apart_mm is not None:
        raise InputError(
            f"{path}: the prediction's affine puts it elsewhere than its reference; save it with the affine of the "
            "image it was made from"
        )
    return _label_map(volume, path, form)


def _label_map(volume: NiftiVolume, path: Path, form: LabelFormat) -> LabelMap:
    _check_numbers(volume.data, path, form)
    mask = to_labels(volume.data, form.labels, str(path), form.values)
    numbers = mask if form.values is None else np.rint(volume.data).astype(np.uint8)
    return LabelMap(mask, volume.spacing_mm, numbers, volume.notes)


def _check_numbers(data: NDArray[np.float64], path: Path, form: LabelFormat) -> None:
    """Raise `InputError` with a remedy that `evaluate` has where a whole number stands for no tissue."""
    if not np.isfinite(data).all():
        odd = np.count_nonzero(~np.isfinite(data))
        raise InputError(f"{path}: {odd} voxels are NaN or infinite, no label values; save the label map again")
    known = set(form.values or range(form.labels.num_classes))
    unknown = sorted(set(distinct_values(np.rint(data).astype(np.int64))) - known)
    if unknown:
        raise InputError(
            f"{path}: label values [{some_of(unknown)}] stand for no tissue of format {form.name} (0 background, "
            f"{form.numbering}); correct the label map, or choose another --format"
        )


def _check_grid(
    path: Path, shape: tuple[int, ...], spacing_mm: tuple[float, float, float], reference: NiftiVolume
) -> None:
    if shape != reference.data.shape:
        raise InputError(
            f"{path}: the prediction has shape {shape}, its reference {reference.data.shape} (slice, row, column); "
            "save it in the grid of the image it was made from"
        )
    if not np.allclose(spacing_mm, reference.spacing_mm, rtol=_SPACING_TOLERANCE):
        raise InputError(
            f"{path}: the prediction's spacing is {_mm(spacing_mm)}, its reference's {_mm(reference.spacing_mm)} "
            "(slice, row, column); correct the header"
        )


def _mm(spacing_mm: tuple[float, ...]) -> str:
    return " x ".join(f"{value:g}" for value in spacing_mm) + " mm"


ENOUGH = 50  # voxels, below which an overlap says nothing
FITS = 0.6  # agreement of what is told to fit better, at least
_GOOD = 0.9  # agreement beyond which nothing fits far better
_FAR_BETTER = 0.6  # of what disagrees as it lies, and moved upon its reference, is left at most
_TURNS = {  # by whether rows and columns are exchanged, and then by the steps along both
    (False, 1, 1): "",
    (False, -1, 1): "mirrored top to bottom",
    (False, 1, -1): "mirrored left to right",
    (False, -1, -1): "turned by 180 degrees",
    (True, 1, 1): "with rows and columns exchanged",
    (True, -1, 1): "turned by 90 degrees",
    (True, 1, -1): "turned by 270 degrees",
    (True, -1, -1): "with rows and columns exchanged and turned by 180 degrees",
}
_REVERSED = "with the slices in the other order"

Coordinates = tuple[NDArray[np.intp], ...]  # slice, row and column of each voxel of a reference


Mask = NDArray[np.integer]


class BetterFit(NamedTuple):
    """Where a prediction fits far better than where it lies."""

    where: str
    agreement: float
    own: float


def better_turned(reference: Mask, prediction: Mask) -> BetterFit | None:
    """Return how a prediction (S, H, W) fits its reference far better: mirrored, turned, or with its slices reversed.

    All labels are judged together, since the whole ventricle is nearly round. A prediction that is merely moved fits
    no better turned than moved back.
    """
    at = np.nonzero(reference)
    enough = len(at[0]) >= ENOUGH and np.count_nonzero(prediction) >= ENOUGH
    if not enough or (own := agreement(reference, prediction, at)) > _GOOD:
        return None
    fits = [
        BetterFit(words, agreement(reference, turned, at), own)
        for words, turned in _arrangements(prediction)
        if turned.shape == reference.shape
    ]
    best = max(fits, key=lambda fit: fit.agreement)
    moved_back = agreement_moved_back(reference, prediction, at)
    fits_far_better = 1 - best.agreement <= _FAR_BETTER * (1 - max(own, moved_back))
    return best if fits_far_better and best.agreement >= FITS else None


def _arrangements(mask: Mask) -> Iterator[tuple[str, Mask]]:
    """Yield the other arrangements of a label map (S, H, W), by what was done to it."""
    for slices, in_plane in product((1, -1) if len(mask) > 1 else (1,), _TURNS):
        exchanged, rows, columns = in_plane
        turned = mask[::slices].swapaxes(1, 2) if exchanged else mask[::slices]
        words = " and ".join(filter(None, (_TURNS[in_plane], _REVERSED if slices < 0 else "")))
        if words:
            yield words, turned[:, ::rows, ::columns]


def agreement(reference: Mask, prediction: Mask, at: Coordinates) -> float:
    """Return the Dice of all labels together, 0 to 1: twice the voxels that agree by the sum of both foregrounds.

    Args:
        reference: (S, H, W).
        prediction: (S, H, W).
        at: Where the reference is not background.
    """
    equal = np.count_nonzero(reference[at] == prediction[at])
    return float(dice(equal, len(at[0]), np.count_nonzero(prediction)))


def agreement_moved_back(reference: Mask, prediction: Mask, at: Coordinates) -> float:
    """Return the agreement after the prediction was moved in the plane, its centre upon the reference's."""
    drawn = np.nonzero(prediction)
    shift = [round(float(drawn[axis].mean()) - float(at[axis].mean())) for axis in (1, 2)]
    moved = [at[axis] + pixels for axis, pixels in zip((1, 2), shift, strict=True)]
    inside = np.logical_and.reduce([(m >= 0) & (m < n) for m, n in zip(moved, prediction.shape[1:], strict=True)])
    found = prediction[at[0][inside], moved[0][inside], moved[1][inside]]
    equal = np.count_nonzero(reference[at][inside] == found)
    return float(dice(equal, len(at[0]), len(drawn[0])))
