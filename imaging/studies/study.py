"""One study as a source gives it, and the checks that every study passes whatever its format.

A reader yields `Study` or `RejectedStudy`: one bad study never stops the others.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, escaped, some_of
from common.guard import guarded
from common.pages.words import listed
from imaging.labels import LABEL_SETS, PATIENT_GROUPS, LabelSet, numbering_note

# Beyond these a header is in other units (0.14 for 1.4 mm is centimetres) or damaged: cardiac pixels are 0.5 to 3 mm,
# slices 3 to 20 mm apart.
_PLAUSIBLE_PIXEL_MM = (0.2, 10.0)
_PLAUSIBLE_SLICE_MM = (0.1, 50.0)
_NAMED = 5  # slices that are the same, before the others are counted
_DONOR_SEPARATOR = ";"  # between the patients in a store's `donor_ids`

Result = TypeVar("Result")
Frame = TypeVar("Frame", str, int)

ED, ES = PHASES = ("ED", "ES")  # end diastole and end systole, of cine studies


def name_phases(cavities: Mapping[Frame, float], named: Mapping[str, Frame]) -> dict[Frame, str]:
    """Return `ED` and `ES` by frame: as named, else the frames with the largest and the smallest cavity.

    Args:
        cavities: Size of each frame's cavity; of equal ones the first counts as the larger.
        named: Frame by `ED` and `ES`, as far as the source tells; it may lack a drawing.
    """
    phases = {frame: phase for phase, frame in named.items()}
    rest = sorted(cavities.keys() - phases.keys(), key=lambda frame: (-cavities[frame], frame))
    if len(rest) + len(phases) < len(PHASES):  # one frame alone is neither the larger nor the smaller
        return phases
    if ED not in named:
        phases[rest.pop(0)] = ED
    if ES not in named:
        phases[rest.pop()] = ES
    return phases


@dataclass(frozen=True)
class Study:
    """One volume with its label map, in its own grid.

    Attributes:
        case_id: The patient.
        frame: `ED`, `ES` or a frame number for cine; empty for LGE.
        group: One of `imaging.labels.PATIENT_GROUPS`.
        image: (S, H, W), scanner units.
        mask: (S, H, W), values of the label set.
        spacing_mm: (slice, row, column).
        affine: (4, 4), of the file's own voxel order.
        label_set: Name of the label set.
        path: Where it was read, for messages.
        clinical: What the source tells about the patient, in its own words; often empty.
        notes: A sentence for each thing that the files say differently in two places, or that a stack cannot hold.
    """

    case_id: str
    frame: str
    group: str
    image: NDArray[np.float32]
    mask: NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]
    affine: NDArray[np.float64]
    label_set: str
    path: str
    clinical: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RejectedStudy:
    """A study that cannot be used; `reason` is one line that names the file and the remedy."""

    case_id: str
    path: str
    reason: str


def read_or_reject(case_id: str, path: Path, read: Callable[[], Study]) -> Study | RejectedStudy:
    """Return the study that `read` gives, checked, or why it cannot be used.

    Args:
        case_id: The patient.
        path: The file or folder of the study.
        read: Reads it; raises `InputError` for what is wrong with it.
    """

    def read_and_check() -> Study:
        study = read()
        check_study(study)
        faults = (f"{study.path}: {fault}" for fault in stack_faults(study.image))
        return replace(study, notes=(*study.notes, *numbering_note(study.mask, study.path), *faults))

    return attempt(case_id, path, read_and_check)


def attempt(case_id: str, path: Path, read: Callable[[], Result]) -> Result | RejectedStudy:
    """Return what `read` gives, or a rejection of the patient's study with the reason (see `common.guard`).

    Args:
        case_id: The patient.
        path: The file or folder of the study.
        read: Reads something of it, whatever may go wrong.
    """
    reasons: list[str] = []
    with guarded(path, reasons.append):
        return read()
    return RejectedStudy(escaped(case_id), escaped(str(path)), reasons[0])


def check_study(study: Study) -> None:
    """Raise `InputError` when a study cannot be used; the line names the study, the values and the remedy."""
    labels = LABEL_SETS.get(study.label_set)
    if labels is None:
        raise InputError(f"{study.path}: label set {study.label_set!r} is unknown; choose one of {sorted(LABEL_SETS)}")
    if study.group not in PATIENT_GROUPS:
        raise InputError(f"{study.path}: group {study.group!r} is none of {list(PATIENT_GROUPS)}; correct it")
    _check_name(study)
    check_geometry(study.spacing_mm, study.affine, study.path)
    _check_arrays(study)
    labels.check(study.mask, study.path)
    _check_myocardium(study, labels)


def digest_of(values: NDArray[Any]) -> str:
    """Return a SHA-256 of an array's type, shape and content."""
    digest = hashlib.sha256(f"{values.dtype.str}{values.shape}".encode())
    digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def stack_faults(image: NDArray[np.float32]) -> list[str]:
    """Return what no scanner gives in a stack (S, H, W) of slices, a sentence each: repeated ones, blank ones between.

    Blank slices at both ends are padding, and pass.
    """
    return [*_repeated(image), *_blank_between(image)]


def blank_slices(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Tell which slices of (S, H, W) hold one value only."""
    return np.asarray(image.min(axis=(1, 2)) == image.max(axis=(1, 2)))


def _repeated(image: NDArray[np.float32]) -> Iterator[str]:
    places: dict[str, list[str]] = defaultdict(list)
    for place in np.flatnonzero(~blank_slices(image)):
        places[digest_of(image[place])].append(str(place + 1))
    same = [listed(twins) if len(twins) <= _NAMED else some_of(twins) for twins in places.values() if len(twins) > 1]
    if same:
        yield f"slices {some_of(same, between='; ')} are the same, voxel for voxel; export the study again"


def _blank_between(image: NDArray[np.float32]) -> Iterator[str]:
    blank = blank_slices(image)
    drawn = np.flatnonzero(~blank)
    between = [str(place + 1) for place in np.flatnonzero(blank) if len(drawn) and drawn[0] < place < drawn[-1]]
    if between:
        what, is_blank = ("slice", "is blank") if len(between) == 1 else ("slices", "are blank")
        yield f"{what} {some_of(between)} of {len(image)} {is_blank}; export the study again"


def check_geometry(spacing_mm: tuple[float, ...], affine: NDArray[np.float64], source: str) -> None:
    """Raise `InputError` unless the spacing (slice, row, column) is plausible and the affine invertible."""
    limits = (_PLAUSIBLE_SLICE_MM, _PLAUSIBLE_PIXEL_MM, _PLAUSIBLE_PIXEL_MM)
    plausible = all(low <= value <= high for value, (low, high) in zip(spacing_mm, limits, strict=True))
    if not plausible:  # NaN compares false and lands here
        values = " x ".join(f"{value:g}" for value in spacing_mm)
        wrong = "it" if source.startswith(("source.", "synthesis.")) else "the header"
        raise InputError(
            f"{source}: spacing {values} mm (slice, row, column) is not plausible; correct {wrong} "
            f"(pixels {_PLAUSIBLE_PIXEL_MM[0]:g} to {_PLAUSIBLE_PIXEL_MM[1]:g} mm, "
            f"slices up to {_PLAUSIBLE_SLICE_MM[1]:g} mm)"
        )
    check_affine(affine, source)


def check_affine(affine: NDArray[np.float64], source: str) -> None:
    """Raise `InputError` unless the affine is an invertible (4, 4) matrix."""
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or np.linalg.det(affine[:3, :3]) == 0:
        raise InputError(
            f"{source}: the affine is not an invertible 4 x 4 matrix of finite numbers; correct the header"
        )


def _check_name(study: Study) -> None:
    try:
        f"{study.case_id} {study.frame}".encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{study.path!a}: its name is not UTF-8; rename it") from error
    found = next((each for each in study.case_id if each == _DONOR_SEPARATOR or escaped(each) != each), "")
    if found:
        raise InputError(f"{study.path}: patient {study.case_id!r} has {found!r} in the name; rename the files")


def _check_arrays(study: Study) -> None:
    image, mask = study.image, study.mask
    if image.ndim != 3 or 0 in image.shape:
        raise InputError(f"{study.path}: the image has shape {image.shape}; give a volume of at least one slice")
    if image.shape != mask.shape:
        raise InputError(
            f"{study.path}: image {image.shape} and mask {mask.shape} (slice, row, column) differ in shape; "
            "give the mask that was drawn on this image"
        )
    bad = int(np.count_nonzero(~np.isfinite(image)))
    if bad:
        raise InputError(
            f"{study.path}: {bad} of {image.size} voxels of the image are NaN or infinite; export it again"
        )
    if image.min() == image.max():
        raise InputError(f"{study.path}: every voxel of the image is {image.flat[0]:g}; export it again")


def _check_myocardium(study: Study, labels: LabelSet) -> None:
    if not np.isin(study.mask, labels.official_groups["myocardium"]).any():
        raise InputError(f"{study.path}: no voxel of the mask is myocardium; draw the contours or remove the study")
