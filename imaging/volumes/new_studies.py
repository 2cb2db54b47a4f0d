"""Finds and reads studies that have no labels yet: NIfTI volumes, and folders of DICOM slices."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, escaped, some_of
from common.files import Mark
from imaging.sources.files import inside, nifti_stem
from imaging.volumes.dicom.folder import DicomSeries, read_folder
from imaging.volumes.dicom.slice_file import DicomSlice
from imaging.volumes.dicom.volume import DicomVolume, check_together, dicom_volume, group_by_phase, slice_places
from imaging.volumes.nifti import NiftiVolume, read_nifti

_DICOM_SUFFIXES = (".dcm", ".ima")
_DICOM_MAGIC, _DICOM_MAGIC_AT = b"DICM", 128
_MOST_LABELS = 10  # different values; images hold hundreds
_SOME_VOXELS = 10_000  # looked at first


@dataclass(frozen=True)
class FoundStudy:
    """A study as it lies on disk: one NIfTI file, or the DICOM files of one folder.

    Attributes:
        case_id: Name of the file without `.nii.gz`, or of the folder; see `_named_apart` for several DICOM folders.
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
        case_id: Its name, with `_series10` and so on where a folder holds several series, and `_frame07` and so on
            where a series holds several phases.
        path: The file or the folder.
        volume: The image with its geometry, arranged as (S, H, W).
        twin: That another study has the same voxels; empty where none is known.
    """

    case_id: str
    path: Path
    volume: NiftiVolume | DicomVolume
    twin: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence for each thing that the files say differently in two places, or that was decided about them."""
        return (*self.volume.notes, self.twin) if self.twin else self.volume.notes


@dataclass(frozen=True)
class UnreadStudy:
    """A volume whose header is known; `read` reads its voxels.

    Attributes:
        case_id: As in `NewStudy`.
        path: The file or the folder.
        slices: Those of DICOM; empty for NIfTI.
        notes: What the user should know of the folder's files, a phrase each.
        problem: Why it cannot be read, where that is known already; `read` raises it.
    """

    case_id: str
    path: Path
    slices: tuple[DicomSlice, ...] = ()
    notes: tuple[str, ...] = ()
    problem: str = ""

    def read(self) -> NewStudy:
        """Read and check the volume.

        Raises:
            InputError: It is unreadable, a label map, or has no contrast, or values that are not finite.
        """
        if self.problem:
            raise InputError(self.problem)
        volume = self._dicom() if self.slices else read_nifti(self.path)
        _check_image(volume.image, self.path)
        return NewStudy(self.case_id, self.path, volume)

    def _dicom(self) -> DicomVolume:
        try:
            return dicom_volume(self.slices, self.notes)
        except InputError as error:
            raise InputError(_besides(error, self.notes)) from error


def _besides(error: InputError, notes: Sequence[str]) -> str:
    """Return why a series is refused, with what was decided about its files, which may be the cause."""
    return f"{error} (besides: {'; '.join(notes)})" if notes else str(error)


def find_studies(given: Sequence[Path]) -> list[FoundStudy]:
    """Return the studies among files and folders, folders searched to any depth, in the order of names.

    In folders, what this program wrote is passed over, and so are label maps that are called as an image is; a file
    that is named is taken, whoever wrote it. What is given twice, or below a folder that is given too, is one study.

    Raises:
        InputError: A path does not exist or holds no study, or two studies have the same name.
    """
    once: dict[Path, FoundStudy] = {}
    for study in (study for path in given for study in _studies_at(path)):
        once.setdefault(study.path.absolute(), study)
    found = _without_label_maps(_named_apart(list(once.values())))
    names: dict[str, FoundStudy] = {}
    for study in found:
        other = names.setdefault(study.case_id, study)
        if other is not study:
            raise InputError(
                f"{other.path} and {study.path} are both called {study.case_id!r}; rename one of them, or give only "
                "the one to be segmented"
            )
    return found


def _without_label_maps(found: Sequence[FoundStudy]) -> list[FoundStudy]:
    """Leave out the label maps in searched folders that another study is called as; both stay where all are such."""
    times = Counter(study.case_id for study in found)
    maps = {study.path for study in found if times[study.case_id] > 1 and _is_label_map(study)}
    named_by_images = {study.case_id for study in found if study.path not in maps}
    return [study for study in found if study.path not in maps or study.case_id not in named_by_images]


def _is_label_map(study: FoundStudy) -> bool:
    if study.files or study.path == study.root:
        return False
    try:
        return len(_few_values(read_nifti(study.path).data)) > 1
    except InputError:
        return False  # told where it is read


def volumes_of(found: FoundStudy, phase: int | None = None) -> list[UnreadStudy]:
    """Return the volumes of a study: one, or one for each series of a folder and each phase of a cine series.

    Args:
        found: The study.
        phase: Only this phase of a cine, counted from 1.

    Raises:
        InputError: Its name or a slice is unusable, or the slices do not belong together, or there is no such phase.
    """
    _check_name(found)
    for path in (found.path, *found.files):
        inside(found.root, path)
    if not found.files:
        return [UnreadStudy(found.case_id, found.path)]
    series = read_folder(found.path, found.files)
    if len(series) == 1:
        return _volumes_of_series(found, series[0], phase)
    return [volume for one in series for volume in _volumes_or_problem(found, one, phase)]


def _volumes_or_problem(found: FoundStudy, series: DicomSeries, phase: int | None) -> list[UnreadStudy]:
    """Return the volumes of one series among several: what is wrong with one is told when it is read."""
    try:
        return _volumes_of_series(found, series, phase)
    except InputError as error:
        return [UnreadStudy(_joined(found.case_id, series.name), found.path, problem=_besides(error, series.notes))]


def _volumes_of_series(found: FoundStudy, series: DicomSeries, phase: int | None) -> list[UnreadStudy]:
    slices, case_id = series.slices, _joined(found.case_id, series.name)
    check_together(slices)
    alone = len(set(slice_places(slices).tolist())) == len(slices)  # a place each: one volume, whatever its numbers
    phases = {0: list(slices)} if alone else group_by_phase(slices)
    if len(phases) == 1:
        return [UnreadStudy(case_id, found.path, tuple(one), series.notes) for one in phases.values()]
    numbers = list(phases) if phase is None else [phase - 1]
    if numbers[0] not in phases:
        raise InputError(
            f"{found.path}: has no phase {phase}; choose one of {some_of(number + 1 for number in phases)}"
        )
    return [UnreadStudy(f"{case_id}_frame{n + 1:02d}", found.path, tuple(phases[n]), series.notes) for n in numbers]


def _joined(*names: str) -> str:
    return "_".join(name for name in names if name)


def _named_apart(found: Sequence[FoundStudy]) -> list[FoundStudy]:
    """Return studies whose DICOM folders, where there are several, are named by what tells their paths apart.

    `PAT1/DICOM/SE1` and `PAT2/DICOM/SE1` are `PAT1` and `PAT2`; with a `PAT1/DICOM/SE2`, `PAT1_SE1` and so on.
    """
    folders = [study for study in found if study.files]
    if len({study.path.resolve() for study in folders}) < 2:
        return list(found)
    below = [_parts_below(study) for study in folders]
    whole = [study.path.resolve().parts for study in folders]
    names = next((names for parts in (below, whole) if len(set(names := _telling(parts))) == len(names)), None)
    renamed = {} if names is None else {id(study): name for study, name in zip(folders, names, strict=True)}
    return [replace(study, case_id=renamed.get(id(study), study.case_id)) for study in found]


def _parts_below(study: FoundStudy) -> tuple[str, ...]:
    """Return the folders from the searched one to a study, the study's own at least."""
    return study.path.relative_to(study.root).parts or (study.path.resolve().name,)


def _telling(paths: Sequence[tuple[str, ...]]) -> list[str]:
    """Return for each path the names at the depths where not all paths have the same."""
    depth = max(map(len, paths))
    padded = [(*parts, *[""] * (depth - len(parts))) for parts in paths]
    kept = [at for at in range(depth) if len({parts[at] for parts in padded}) > 1]
    return [_joined(*(parts[at] for at in kept)) for parts in padded]


def _studies_at(path: Path) -> list[FoundStudy]:
    if path.is_dir():
        found = list(_studies_below(path))
        if not found:
            raise InputError(
                f"{path}: holds neither NIfTI files nor DICOM slices (ScarForge's own results do not count); "
                "give a study, or a folder of studies"
            )
        return found
    stem = nifti_stem(path)
    if not path.exists():
        raise InputError(f"{path}: does not exist; give a NIfTI file, or a folder of DICOM slices")
    if stem is None:
        raise InputError(f"{path}: is no NIfTI file (.nii, .nii.gz); give one, or the folder of all DICOM slices")
    return [FoundStudy(stem, path, path)]


def _studies_below(root: Path) -> Iterator[FoundStudy]:
    for place, folders, names in os.walk(root, onerror=_raise_unlisted):
        folder = Path(place)
        mark = Mark.of(folder)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not mark.covers(name))
        visible = [folder / name for name in sorted(names) if not name.startswith(".") and not mark.covers(name)]
        volumes = {path: stem for path in visible if (stem := nifti_stem(path)) is not None}
        yield from (FoundStudy(stem, path, root) for path, stem in volumes.items())
        slices = tuple(path for path in visible if path not in volumes and _is_dicom(path))
        if slices:
            yield FoundStudy(folder.resolve().name, folder, root, slices)


def _raise_unlisted(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be listed ({error.strerror}); correct its permissions") from error


def _check_name(found: FoundStudy) -> None:
    try:
        found.case_id.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{str(found.path)!a}: its name is not UTF-8; rename it") from error
    if escaped(found.case_id) != found.case_id:
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


def _check_image(image: NDArray[np.float32], path: Path) -> None:
    bad = int(np.count_nonzero(~np.isfinite(image)))
    if bad:
        raise InputError(f"{path}: {bad} of {image.size} voxels are NaN or infinite; export it again")
    if image.min() == image.max():
        raise InputError(f"{path}: every voxel is {image.flat[0]:g}; export it again")
    if values := _few_values(image):
        known = some_of((f"{value:g}" for value in values), _MOST_LABELS)
        raise InputError(f"{path}: all voxels are one of {known}: a label map and no image; give the image")


def _few_values(image: NDArray[np.floating]) -> list[float]:
    """Return the values of an image that has no more than a label map; none of another."""
    flat = image.ravel()
    for step in (max(1, flat.size // _SOME_VOXELS), 1):
        if len(values := np.unique(flat[::step])) > _MOST_LABELS:
            return []
    return [float(value) for value in values]
