"""Reads the two LVQuan challenges: one short-axis slice a patient, filmed over a heart beat of 20 frames.

LVQuan19 (STACOM 2019): one `.mat` a patient with `image`, `endo` and `epi` (row, column, 20) and `pix_spacing` in mm.
LVQuan18 (STACOM 2018): one `.mat` with `images_LV`, `endo_LV` and `epi_LV` (80, 80, 20 frames a patient).
`endo` is the cavity; `epi` is everything inside the outer contour. The indices beside them are not read.

From the areas inside the two contours of a left ventricle to a label map of cine studies.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, some_of
from common.files import without_own
from imaging.labels import CINE_LABELS, CineTissue
from imaging.sources.config import DEFAULT, SourceConfig
from imaging.sources.files import composed, inside, source_folder
from imaging.sources.patient_names import NamedPlace, Place, tell_places
from imaging.studies.study import RejectedStudy, Study, attempt, check_geometry, read_or_reject
from imaging.volumes.matlab import MatFile, open_mat

_MOST_STRAY_PIXELS = 5  # of the cavity outside the outer contour: the roughness of two contours drawn one by one


def ventricle_mask(endo: NDArray[Any], epi: NDArray[Any], source: str) -> NDArray[np.uint8]:
    """Return the label map (values of `CineTissue`) of a cavity and the whole ventricle, all of one shape.

    Args:
        endo: The area inside the inner contour: 0 and one other number.
        epi: The area inside the outer contour, the cavity included.
        source: The file and frame, for messages.

    Raises:
        InputError: One is empty, covers everything or is no mask, or the cavity is not inside the ventricle.
    """
    cavity, whole = _region(endo, f"{source}: endo"), _region(epi, f"{source}: epi")
    stray = int(np.count_nonzero(cavity & ~whole))
    if stray > _MOST_STRAY_PIXELS:
        raise InputError(
            f"{source}: {stray} of {np.count_nonzero(cavity)} pixels of endo lie outside epi; correct the contours "
            "(epi is the whole area inside the outer one)"
        )
    mask = np.zeros(whole.shape, dtype=np.uint8)
    mask[whole] = CineTissue.MYOCARDIUM
    mask[cavity] = CineTissue.CAVITY
    return mask


def _region(mask: NDArray[Any], source: str) -> NDArray[np.bool_]:
    """Return where a mask is set: it holds 0 and one other number, such as 1 or 255."""
    values = np.unique(mask)  # NaN is one of them, and equals nothing
    if len(values) > 2 or not np.isfinite(values).all() or values[0] < 0:
        shown = ", ".join(f"{value:g}" for value in values[:5].tolist())
        raise InputError(f"{source} holds {shown}{' ...' if len(values) > 5 else ''}; give a mask of 0 and 1")
    region: NDArray[np.bool_] = mask > 0
    if not region.any() or region.all():
        raise InputError(f"{source} is {'empty' if values[0] == 0 else 'everywhere'}; draw it or remove the frame")
    return region


_log = logging.getLogger(__name__)
_FRAMES = 20
_MOST_DECODED_FRAMES = 4 * _FRAMES  # for one patient's; a file compressed in larger pieces is decoded once, as a whole
_SLICE_MM = 1.0  # neither challenge tells it
_NAMES19 = ("image", "endo", "epi")
_SPACING19 = "pix_spacing"
_NAMES18 = ("images_LV", "endo_LV", "epi_LV")
_Spacing = tuple[float, float, float]
_Read = Callable[[str, slice], NDArray[Any]]


class _Cine(NamedTuple):
    """The frames of one patient as a file holds them, three arrays (H, W, 20), and (slice, row, column) in mm."""

    image: NDArray[Any]
    endo: NDArray[Any]
    epi: NDArray[Any]
    spacing_mm: _Spacing


def read_lvquan19(root: Path, config: SourceConfig = DEFAULT) -> Iterator[Study | RejectedStudy]:
    """Yield every frame of every patient as a study of one slice, unusable frames and files as `RejectedStudy`.

    The files do not tell the slice spacing. It is set to 1 mm, so that a volume in mm3 is the area in mm2.

    Args:
        root: The folder that holds the patients' files.
        config: What names mean, see `imaging.sources.patient_names`.

    Raises:
        InputError: `root` is no folder, or holds no `.mat` file, or names leave open what is a patient.
    """
    root = source_folder(root, "LVQuan19", "one .mat file a patient")
    paths = _mat_files(root)
    if not paths:
        raise InputError(f"LVQuan19 folder {root} holds no .mat file; give the folder that holds one a patient")
    first = {path.stem: path for path in reversed(paths)}
    named = [NamedPlace(composed(path.stem), path) for path in paths]
    places, left = tell_places(named, config, f"LVQuan19 folder {root}")
    return _studies19(root, places, first, left)


def _studies19(
    root: Path, places: Mapping[Path, Place], first: Mapping[str, Path], left: RejectedStudy | None
) -> Iterator[Study | RejectedStudy]:
    for path, place in places.items():
        yield from _patient19(root, path, place, first[path.stem])
    if left:
        yield left


def read_lvquan18(root: Path, config: SourceConfig) -> Iterator[Study | RejectedStudy]:
    """Yield every frame as a study of one slice; 20 frames in a row are one patient: patient001 and so on.

    The file does not tell the spacing: it is `config.spacing_mm`, else 1 mm in every direction, of which a warning
    is logged. Volumes and distances are then in pixels.

    Args:
        root: The `.mat` file, or the folder that holds it alone.
        config: The spacing.

    Raises:
        InputError: There is not exactly one `.mat` file, or it is unreadable or not LVQuan18's.
    """
    path = _only_file(root)
    if config.spacing_mm is None:
        _log.warning("%s: carries no spacing, 1 mm is assumed; give --set source.spacing_mm=[8,1.4,1.4]", path)
    spacing_mm = config.spacing_mm or (_SLICE_MM, 1.0, 1.0)
    check_geometry(spacing_mm, np.eye(4), "source.spacing_mm")
    file = open_mat(path, _NAMES18)
    count = _cine_shape(file, _NAMES18)[2]
    if count % _FRAMES:
        raise InputError(f"{path}: {count} frames are not {_FRAMES} a patient; give the file as it was published")
    by_patient = all(file.piece(name) <= _MOST_DECODED_FRAMES for name in _NAMES18)
    read = file.read if by_patient else _Whole(file).read
    numbers = range(count // _FRAMES)
    return (study for number in numbers for study in _patient18(path, read, number, spacing_mm))


class _Whole:
    """Arrays that are kept in memory."""

    def __init__(self, file: MatFile) -> None:
        self._arrays = {name: _float32(file.read(name)) for name in _NAMES18}

    def read(self, name: str, last: slice) -> NDArray[Any]:
        """Return a part of the last axis."""
        return self._arrays[name][..., last]


def _patient19(root: Path, path: Path, place: Place, first: Path) -> Iterator[Study | RejectedStudy]:
    cine = attempt(place.patient, path, partial(_first_cine19, root, path, first))
    yield from [cine] if isinstance(cine, RejectedStudy) else _frames(place, str(path), cine)


def _first_cine19(root: Path, path: Path, first: Path) -> _Cine:
    _check_first(path, first)
    return _read_cine19(inside(root, path))


def _check_first(path: Path, first: Path) -> None:
    if path != first:
        raise InputError(f"{path}: patient {path.stem!r} is there already, from {first}; remove one of them")


def _patient18(path: Path, read: _Read, number: int, spacing_mm: _Spacing) -> Iterator[Study | RejectedStudy]:
    case_id = f"patient{number + 1:03d}"
    own = slice(number * _FRAMES, (number + 1) * _FRAMES)
    arrays = attempt(case_id, path, lambda: [read(name, own) for name in _NAMES18])
    if isinstance(arrays, RejectedStudy):
        yield arrays
        return
    image, endo, epi = arrays
    yield from _frames(Place(case_id), f"{path} {case_id}", _Cine(image, endo, epi, spacing_mm))


def _read_cine19(path: Path) -> _Cine:
    file = open_mat(path, (*_NAMES19, _SPACING19))
    shape = _cine_shape(file, _NAMES19)
    if shape[2] != _FRAMES:
        raise InputError(f"{path}: 'image' has shape {shape}; give (row, column, {_FRAMES} frames)")
    spacing_mm = _pixel_spacing(file)
    image, endo, epi = (file.read(name) for name in _NAMES19)
    return _Cine(image, endo, epi, spacing_mm)


def _cine_shape(file: MatFile, names: tuple[str, str, str]) -> tuple[int, ...]:
    shape, *others = (file.shape(name) for name in names)
    if len(shape) != 3 or others != [shape, shape]:
        known = ", ".join(f"{name} {file.shape(name)}" for name in names)
        raise InputError(f"{file.path}: the shapes are {known}; give three arrays (row, column, frame) of one shape")
    return shape


def _pixel_spacing(file: MatFile) -> _Spacing:
    shape = file.shape(_SPACING19)
    if np.prod(shape) != 1:
        raise InputError(f"{file.path}: {_SPACING19!r} has shape {shape}; give one number in mm")
    pixel_mm = float(file.read(_SPACING19).item())
    spacing_mm = (_SLICE_MM, pixel_mm, pixel_mm)
    check_geometry(spacing_mm, np.eye(4), f"{file.path} {_SPACING19!r}")
    return spacing_mm


def _frames(place: Place, where: str, cine: _Cine) -> Iterator[Study | RejectedStudy]:
    for index in range(_FRAMES):
        source = f"{where} frame {index + 1:02d}"
        yield read_or_reject(place.patient, Path(source), partial(_frame, place, index, source, cine))


def _frame(place: Place, index: int, source: str, cine: _Cine) -> Study:
    slice_mm, row_mm, column_mm = cine.spacing_mm
    return Study(
        case_id=place.patient,
        frame=place.frame_of(f"{index + 1:02d}"),
        group="normal",
        image=_float32(cine.image[None, ..., index]),
        mask=ventricle_mask(cine.endo[None, ..., index], cine.epi[None, ..., index], source),
        spacing_mm=cine.spacing_mm,
        affine=np.diag([row_mm, column_mm, slice_mm, 1.0]),  # the arrays are (row, column)
        label_set=CINE_LABELS.name,
        path=source,
    )


def _float32(values: NDArray[Any]) -> NDArray[np.float32]:
    """Values beyond float32 become infinite, which the checks name."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype=np.float32)


def _mat_files(root: Path) -> list[Path]:
    visible = (path for path in without_own(root.glob("*")) if not path.name.startswith("."))
    return sorted(path for path in visible if path.suffix.lower() == ".mat")


def _only_file(root: Path) -> Path:
    if root.is_file():
        return root.resolve()
    root = source_folder(root, "LVQuan18", "the .mat file")
    paths = _mat_files(root)
    if len(paths) != 1:
        names = some_of(path.name for path in paths)
        raise InputError(
            f"LVQuan18 folder {root} should hold one .mat file and holds {names}; give it alone in a folder"
        )
    return inside(root, paths[0])
