"""Finds and reads studies that have no labels yet: NIfTI volumes, and folders of DICOM slices.

What an image is arranged by: `imaging.orientation.radiological`, unless its affine's directions are plus or minus the
identity. Such an affine says nothing about a short-axis study (EMIDEC's and ACDC's are so), and the stored order is
taken.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imaging.dicom.series import group_by_phase, read_dicom_slices, slice_places
from imaging.dicom.slice_file import DicomSlice
from imaging.dicom.volume import DicomVolume, dicom_volume
from imaging.errors import InputError, one_line
from imaging.nifti import NiftiVolume, read_nifti
from imaging.orientation import AS_STORED
from imaging.source_files import inside
from imaging.study import check_geometry

_NIFTI = re.compile(r"(?P<stem>[^.].*)\.nii(\.gz)?")
_DICOM_SUFFIXES = (".dcm", ".ima")
_DICOM_MAGIC, _DICOM_MAGIC_AT = b"DICM", 128
_STRAIGHT = 1e-4  # of direction cosines


@dataclass(frozen=True)
class FoundStudy:
    """A study as it lies on disk: one NIfTI file, or the DICOM files of one folder.

    Attributes:
        case_id: Name of the file without `.nii.gz`, or of the folder.
        path: The file or the folder.
        root: The folder that was searched, which no link may lead out of; the path itself where that was given.
        files: The DICOM slices; empty for NIfTI.
    """

    case_id: str
    path: Path
    root: Path
    files: tuple[Path, ...] = ()


@dataclass(frozen=True, eq=False)
class NewStudy:
    """One volume to segment.

    Attributes:
        case_id: Its name, with `_frame07` and so on where a series holds several phases.
        path: The file or the folder.
        volume: The image with its geometry, arranged as (S, H, W).
    """

    case_id: str
    path: Path
    volume: NiftiVolume | DicomVolume


@dataclass(frozen=True)
class UnreadStudy:
    """A volume whose header is known; `read` reads its voxels."""

    case_id: str
    path: Path
    slices: tuple[DicomSlice, ...] = ()

    def read(self) -> NewStudy:
        """Read and check the volume.

        Raises:
            InputError: It is unreadable, or has no contrast, or values that are not finite.
        """
        volume = dicom_volume(self.slices) if self.slices else _nifti(self.path)
        _check_image(volume.image, self.path)
        return NewStudy(self.case_id, self.path, volume)


def find_studies(given: Sequence[Path]) -> list[FoundStudy]:
    """Return the studies among files and folders, folders searched to any depth, in the order of names.

    Raises:
        InputError: A path does not exist or holds no study, or two studies have the same name.
    """
    found = [study for path in given for study in _studies_at(path)]
    names: dict[str, FoundStudy] = {}
    for study in found:
        other = names.setdefault(study.case_id, study)
        if other is not study:
            raise InputError(
                f"{other.path} and {study.path} are both called {study.case_id!r}; rename one of them, or give only "
                "the one to be segmented"
            )
    return found


def volumes_of(found: FoundStudy, phase: int | None = None) -> list[UnreadStudy]:
    """Return the volumes of a study: one, or one for each phase of a cine series.

    Args:
        found: The study.
        phase: Only this phase, counted from 1.

    Raises:
        InputError: Its name or a slice is unusable, or the slices do not belong together, or there is no such phase.
    """
    _check_name(found)
    for path in (found.path, *found.files):
        inside(found.root, path)
    if not found.files:
        return [UnreadStudy(found.case_id, found.path)]
    slices = read_dicom_slices(found.files)
    alone = len(set(slice_places(slices).tolist())) == len(slices)  # a place each: one volume, whatever its numbers
    phases = {0: slices} if alone else group_by_phase(slices)
    if len(phases) == 1:
        return [UnreadStudy(found.case_id, found.path, tuple(phase_slices)) for phase_slices in phases.values()]
    numbers = list(phases) if phase is None else [phase - 1]
    if numbers[0] not in phases:
        raise InputError(f"{found.path}: has no phase {phase}; choose one of 1 to {max(phases) + 1}")
    return [UnreadStudy(f"{found.case_id}_frame{n + 1:02d}", found.path, tuple(phases[n])) for n in numbers]


def _studies_at(path: Path) -> list[FoundStudy]:
    if path.is_dir():
        found = list(_studies_below(path))
        if not found:
            raise InputError(
                f"{path}: holds neither NIfTI files nor DICOM slices; give a study, or a folder of studies"
            )
        return found
    stem = _stem(path)
    if not path.exists():
        raise InputError(f"{path}: does not exist; give a NIfTI file, or a folder of DICOM slices")
    if stem is None:
        raise InputError(f"{path}: is no NIfTI file (.nii, .nii.gz); give one, or the folder of all DICOM slices")
    return [FoundStudy(stem, path, path)]


def _studies_below(root: Path) -> Iterator[FoundStudy]:
    for place, folders, names in os.walk(root, onerror=_raise_unlisted):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        folder = Path(place)
        visible = [folder / name for name in sorted(names) if not name.startswith(".")]
        volumes = {path: stem for path in visible if (stem := _stem(path)) is not None}
        yield from (FoundStudy(stem, path, root) for path, stem in volumes.items())
        slices = tuple(path for path in visible if path not in volumes and _is_dicom(path))
        if slices:
            yield FoundStudy(folder.resolve().name, folder, root, slices)


def _stem(path: Path) -> str | None:
    match = _NIFTI.fullmatch(path.name)
    return match["stem"] if match else None


def _raise_unlisted(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be listed ({error.strerror}); correct its permissions") from error


def _check_name(found: FoundStudy) -> None:
    try:
        found.case_id.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{str(found.path)!a}: its name is not UTF-8; rename it") from error
    if one_line(found.case_id) != found.case_id:
        raise InputError(f"{found.path}: its name holds a line break or another control character; rename it")


def _is_dicom(path: Path) -> bool:
    if path.name.upper() == "DICOMDIR":  # a table of contents
        return False
    if path.suffix.lower() in _DICOM_SUFFIXES:
        return True  # reading it will tell what is wrong with it
    try:
        with path.open("rb") as file:
            file.seek(_DICOM_MAGIC_AT)
            return file.read(len(_DICOM_MAGIC)) == _DICOM_MAGIC
    except OSError:
        return False


def _nifti(path: Path) -> NiftiVolume:
    volume = read_nifti(path)
    if not says_nothing(volume.affine) or volume.arrangement == AS_STORED:
        return volume
    zooms = np.empty(3)
    zooms[list(volume.arrangement.axes)] = volume.spacing_mm
    spacing_mm = (float(zooms[2]), float(zooms[1]), float(zooms[0]))
    check_geometry(spacing_mm, volume.affine, str(path))
    stored = AS_STORED.apply(volume.arrangement.undo(volume.data))
    return replace(volume, data=stored, spacing_mm=spacing_mm, arrangement=AS_STORED)


def says_nothing(affine: NDArray[np.float64]) -> bool:
    """Whether the directions of an affine (4, 4) are plus or minus the identity, as where nobody wrote them."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.allclose(np.abs(directions), np.eye(3), atol=_STRAIGHT))


def _check_image(image: NDArray[np.float32], path: Path) -> None:
    bad = int(np.count_nonzero(~np.isfinite(image)))
    if bad:
        raise InputError(f"{path}: {bad} of {image.size} voxels are NaN or infinite; export it again")
    if image.min() == image.max():
        raise InputError(f"{path}: every voxel is {image.flat[0]:g}; export it again")
