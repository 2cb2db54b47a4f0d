"""The archive of prepared studies: one HDF5 file that holds every study on the 1 mm grid.

It is written by the asset `studies` (`imaging.studies.archive_writer`). It begins with a user block that holds a
SHA-256 of everything after it, so that truncation or a single flipped byte is found on opening, without decompressing
anything.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.errors import InputError, one_line
from common.files import of_the_disk
from imaging.labels import LABEL_SETS, LabelSet
from imaging.studies.preparation import PreparedStudy, patient_groups
from imaging.studies.study import RejectedStudy

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

FORMAT = "scarforge studies 2"
USER_BLOCK = 512  # bytes; the smallest that HDF5 allows
_READ_BYTES = 1 << 22
_MOST_BYTES = 1 << 28  # of an array, whatever the few bytes of it say


def seal(path: Path) -> None:
    """Write the checksum of everything after the user block into it."""
    block = _user_block(path)
    with path.open("r+b") as file:
        file.write(block)


def verify(path: Path) -> None:
    """Raise `ValueError` unless the file is an archive whose bytes match its checksum."""
    with path.open("rb") as file:
        found = file.read(USER_BLOCK)
    if not found.startswith(FORMAT.encode()):
        raise ValueError(f"it does not begin with {FORMAT!r}")
    if found != _user_block(path):
        raise ValueError("its bytes do not match its checksum")


def _user_block(path: Path) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(USER_BLOCK)
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return f"{FORMAT} sha256 {digest.hexdigest()}\n".encode().ljust(USER_BLOCK, b"\0")


class SteadyFile(FileIO):
    """The file that HDF5 writes through: it keeps the first failure for `raise_failure` instead of raising it.

    HDF5 writes late, also while objects are freed, where an error such as that of a full disk cannot be
    raised: it would be printed and forgotten.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self._failure: OSError | None = None

    def raise_failure(self) -> None:
        """Raise the first `OSError`, if there was one."""
        if self._failure is not None:
            raise self._failure

    def write(self, data: "Buffer") -> int:
        """Write all of `data`, or keep the failure."""
        rest = whole = memoryview(data)
        try:
            while rest and self._failure is None:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self._failure = error
        return len(whole)

    def truncate(self, size: int | None = None) -> int:
        """Set the size in bytes, or keep the failure."""
        try:
            return super().truncate(size)
        except OSError as error:
            self._failure = self._failure or error
            return size or 0


def check_compressed(datasets: Iterable[h5py.Dataset]) -> None:
    """Raise `MemoryError` where a chunk was stored as it is: HDF5 does so, and says nothing, when memory runs out.

    The values are right then, but the same content has other bytes. The datasets were closed since they were written.
    """
    for dataset in datasets:
        skipped: list[int] = []
        dataset.id.chunk_iter(lambda chunk, skipped=skipped: skipped.append(chunk.filter_mask))
        if any(skipped):
            raise MemoryError("HDF5 could not compress a part of a file")


class StudyArchive:
    """A complete archive, opened for reading with `StudyArchive.open`.

    The file is opened anew for each `load`, so an archive may be pickled and used from several processes.

    Attributes:
        path: The file.
        label_set: Of every mask.
        source: Name of the source.
        digest: SHA-256 of the studies' content; the same for the same content, wherever it was read.
        rejected: The studies that could not be used.
    """

    def __init__(self, path: Path, index: Mapping[str, Any]) -> None:
        self.path = path
        self.label_set: LabelSet = LABEL_SETS[index["label_set"]]
        self.source: str = index["source"]
        self.digest: str = index["digest"]
        self.rejected = [RejectedStudy(**entry) for entry in index["rejected"]]
        self._entries = {(entry["case_id"], entry["frame"]): entry for entry in index["studies"]}

    @classmethod
    def open(cls, path: Path) -> "StudyArchive":
        """Open an archive after comparing all its bytes with its checksum.

        Raises:
            InputError: The file is missing, truncated, corrupt, or no archive of this version.
        """
        path = Path(path)
        try:
            verify(path)
            return cls(path, _read_index(path))
        except FileNotFoundError as error:
            raise InputError(f"{path}: there is no study archive; rematerialise `studies`") from error
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            raise _unreadable(path, error) from error

    def __reduce__(self) -> tuple[Callable[..., "StudyArchive"], tuple[Path, str]]:
        return _reopen, (self.path, self.digest)

    def keys(self) -> list[tuple[str, str]]:
        """Return (case_id, frame) of every study, sorted."""
        return sorted(self._entries)

    def groups(self) -> dict[str, str]:
        """Return the group of each patient, by `case_id`; over several frames the worst of them."""
        return patient_groups(self._entries.values())

    def table(self) -> pd.DataFrame:
        """Return one row a study, volumes in mL being measured on the study's own grid.

        Columns: case_id, frame, group, slices, row_mm, column_mm, slice_mm and ml_<tissue> for every tissue.
        """
        return pd.DataFrame([self._row(self._entries[key]) for key in self.keys()])

    def clinical(self) -> pd.DataFrame:
        """Return one row a patient with `case_id` and what the source tells beside the images; text, often empty."""
        rows = {
            entry["case_id"]: {"case_id": entry["case_id"], **entry["clinical"]} for entry in self._entries.values()
        }
        return pd.DataFrame([rows[case_id] for case_id in sorted(rows)]).fillna("")

    def notes(self) -> list[str]:
        """Return what the files of the studies say differently in two places, a sentence each."""
        return [note for key in self.keys() for note in self._entries[key].get("notes", [])]

    def load(self, case_id: str, frame: str) -> PreparedStudy:
        """Read one study.

        Raises:
            InputError: There is no such study, or the file has been replaced since it was opened.
        """
        entry = self._entries.get((case_id, frame))
        if entry is None:
            raise InputError(f"{self.path}: there is no study of patient {case_id!r}, frame {frame!r}")
        try:
            with h5py.File(self.path, "r", locking=False) as file:
                if file.attrs["digest"] != self.digest:
                    raise _replaced(self.path)
                group = _own_group(file, entry["place"])
                arrays = {name: read_own(group, name, _MOST_BYTES) for name in group}
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise _unreadable(self.path, error) from error
        return PreparedStudy(
            case_id=case_id,
            frame=frame,
            group=entry["group"],
            spacing_mm=_triple(entry["spacing_mm"]),
            affine=np.asarray(entry["affine"], dtype=np.float64),
            **arrays,
        )

    def _row(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        slice_mm, row_mm, column_mm = entry["spacing_mm"]
        row = {name: entry[name] for name in ("case_id", "frame", "group", "slices")}
        row |= {"row_mm": row_mm, "column_mm": column_mm, "slice_mm": slice_mm}
        voxel_ml = slice_mm * row_mm * column_mm / 1000
        return row | {f"ml_{tissue}": entry["voxels"][value] * voxel_ml for value, tissue in self.label_set.foreground}


def _own_group(file: h5py.File, place: str) -> h5py.Group:
    group = file[place]
    if group.file.filename != file.filename:
        raise ValueError(f"{place} leads into another file")
    return group


def own_dataset(group: h5py.Group, name: str) -> h5py.Dataset:
    """Return a dataset that lies in the file of its group.

    Raises:
        ValueError: It is a link, no dataset, or its content lies elsewhere.
        KeyError: There is none of this name.
    """
    link = group.get(name, getlink=True)
    if link is None:
        raise KeyError(f"it holds no {name!r}")
    found = group[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(found, h5py.Dataset) or found.external or found.is_virtual:
        raise ValueError(f"{name} is no dataset of this file")
    return found


def read_own(group: h5py.Group, name: str, most_bytes: int) -> NDArray[Any]:
    """Read a dataset whole.

    Raises:
        ValueError: As `own_dataset`, or it announces more bytes than `most_bytes`.
        KeyError: There is none of this name.
    """
    dataset = own_dataset(group, name)
    if dataset.shape is None or dataset.nbytes > most_bytes:
        raise ValueError(f"{name} announces {0 if dataset.shape is None else dataset.nbytes} bytes")
    return np.asarray(dataset[()])


def _read_index(path: Path) -> dict[str, Any]:
    with h5py.File(path, "r", locking=False) as file:
        return json.loads(read_own(file, "index", _MOST_BYTES).tobytes())


def _reopen(path: Path, digest: str) -> StudyArchive:
    """Open an archive that another process has verified."""
    try:
        archive = StudyArchive(path, _read_index(path))
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise _unreadable(path, error) from error
    if archive.digest != digest:
        raise _replaced(path)
    return archive


def _replaced(path: Path) -> InputError:
    return InputError(f"{path}: was replaced while in use; start again, so that one content is used throughout")


def _unreadable(path: Path, error: Exception) -> InputError:
    detail = one_line(error)
    return of_the_disk(path, error) or InputError(
        f"{path}: is not a readable study archive ({detail}): truncated, corrupt, of another version "
        "or written by another program; rematerialise `studies`"
    )


def _triple(values: Iterable[float]) -> tuple[float, float, float]:
    slice_mm, row_mm, column_mm = values
    return slice_mm, row_mm, column_mm
