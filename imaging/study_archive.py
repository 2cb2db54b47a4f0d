"""The archive of prepared studies: one HDF5 file that holds every study on the 1 mm grid.

The file begins with a user block that holds a SHA-256 of everything after it, so that truncation or a single
flipped byte is found on opening, without decompressing anything. It is written aside, by the asset `studies`,
and renamed when complete.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from imaging.errors import InputError
from imaging.labels import LABEL_SETS, PATIENT_GROUPS, LabelSet
from imaging.prepare import resample_image, resample_mask
from imaging.progress import track
from imaging.study import RejectedStudy, Study, check_study

_FORMAT = "scarforge studies 2"
_USER_BLOCK = 512  # bytes; the smallest that HDF5 allows
_READ_BYTES = 1 << 22
_REASONS_SHOWN = 3


@dataclass(frozen=True)
class PreparedStudy:
    """One study on the 1 mm grid, with its label map also on its own grid.

    Attributes:
        case_id: The patient.
        frame: `ED`, `ES` or a frame number for cine; empty for LGE.
        group: One of `imaging.labels.PATIENT_GROUPS`.
        image: (S, H1, W1), scanner units.
        mask: (S, H1, W1).
        native_mask: (S, H, W), the study's own grid.
        spacing_mm: (slice, row, column) of the study's own grid.
        affine: (4, 4), of the file's own voxel order.
    """

    case_id: str
    frame: str
    group: str
    image: NDArray[np.float32]
    mask: NDArray[np.uint8]
    native_mask: NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]
    affine: NDArray[np.float64]


@dataclass(frozen=True)
class ArchiveSummary:
    """What `write_studies` wrote.

    Attributes:
        path: The archive.
        digest: SHA-256 of its content, see `StudyArchive.digest`.
        studies: How many studies it holds.
        patients: How many patients in each group.
        rejected: The studies that could not be used.
    """

    path: Path
    digest: str
    studies: int
    patients: Mapping[str, int]
    rejected: tuple[RejectedStudy, ...]


def prepare_study(study: Study) -> PreparedStudy:
    """Bring a study, without any change to its slices' order or number, onto the 1 mm grid."""
    num_classes = LABEL_SETS[study.label_set].num_classes
    return PreparedStudy(
        case_id=study.case_id,
        frame=study.frame,
        group=study.group,
        image=resample_image(study.image, study.spacing_mm),
        mask=resample_mask(study.mask, study.spacing_mm, num_classes),
        native_mask=study.mask,
        spacing_mm=study.spacing_mm,
        affine=study.affine,
    )


def write_studies(
    path: Path,
    items: Iterable[Study | RejectedStudy],
    label_set: LabelSet,
    source: str,
    minimum_patients: int = 5,
) -> ArchiveSummary:
    """Check, prepare and store studies one by one; memory holds one study at a time.

    Args:
        path: The archive, replaced only when the new one is complete.
        items: What a source yields.
        label_set: The label set that every study must have.
        source: Name of the source.
        minimum_patients: Fewer usable patients than this are refused.

    Raises:
        InputError: Too few patients are usable, or the file cannot be written.
    """
    writer = _ArchiveWriter(Path(path), label_set, source)
    try:
        for item in track(items, f"studies of {source}"):
            writer.add(item)
        writer.check_patients(minimum_patients)
        return writer.finish()
    finally:
        writer.discard()


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
            _verify(path)
            return cls(path, _read_index(path))
        except FileNotFoundError as error:
            raise InputError(f"{path}: there is no study archive; rematerialise `studies`") from error
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            raise _unreadable(path, str(error)) from error

    def __reduce__(self) -> tuple[Callable[..., "StudyArchive"], tuple[Path, str]]:
        return _reopen, (self.path, self.digest)

    def keys(self) -> list[tuple[str, str]]:
        """Return (case_id, frame) of every study, sorted."""
        return sorted(self._entries)

    def groups(self) -> dict[str, str]:
        """Return the group of each patient, by `case_id`; over several frames the worst of them."""
        return _patient_groups(self._entries.values())

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
                arrays = {name: dataset[:] for name, dataset in file[entry["place"]].items()}
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise _unreadable(self.path, str(error)) from error
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


class _ArchiveWriter:
    """Fills the file under a temporary name, study by study."""

    def __init__(self, path: Path, label_set: LabelSet, source: str) -> None:
        self._path = path
        self._label_set = label_set
        self._source = source
        self._entries: list[dict[str, Any]] = []
        self._digests: list[str] = []
        self._rejected: list[RejectedStudy] = []
        self._seen: dict[tuple[str, str], str] = {}
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        with self._writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            # HDF5 1.10's format: modification times stay out, so that the same content gives the same bytes.
            self._disk = _SteadyFile(self._partial)
            self._file = h5py.File(self._disk, "w", userblock_size=_USER_BLOCK, libver=("v110", "v110"))

    def add(self, item: Study | RejectedStudy) -> None:
        if isinstance(item, RejectedStudy):
            self._rejected.append(item)
            return
        try:
            self._check(item)
        except InputError as error:
            self._rejected.append(RejectedStudy(item.case_id, item.path, str(error)))
            return
        self._seen[item.case_id, item.frame] = item.path
        self._store(prepare_study(item), item.clinical)

    def check_patients(self, minimum: int) -> None:
        patients = {entry["case_id"] for entry in self._entries}
        if len(patients) >= minimum:
            return
        reasons = [item.reason for item in self._rejected]
        shown = "; ".join(reasons[:_REASONS_SHOWN])
        more = f"; and {len(reasons) - _REASONS_SHOWN} more" if len(reasons) > _REASONS_SHOWN else ""
        because = f" ({len(reasons)} rejected: {shown}{more})" if reasons else ""
        raise InputError(
            f"source {self._source!r} has {len(patients)} usable patients, at least {minimum} are needed"
            f"{because}; correct these studies or add patients"
        )

    def finish(self) -> ArchiveSummary:
        digest = self._digest()
        order = sorted(self._entries, key=lambda entry: (entry["case_id"], entry["frame"]))
        index = {
            "label_set": self._label_set.name,
            "source": self._source,
            "digest": digest,
            "studies": order,
            "rejected": [asdict(item) for item in self._rejected],
        }
        with self._writing():
            text = np.frombuffer(json.dumps(index).encode(), dtype=np.uint8)
            self._file.create_dataset("index", data=text, track_times=False)
            self._file.attrs["digest"] = digest
            self._file.close()
            self._disk.raise_failure()
            _seal(self._partial)
            self._partial.replace(self._path)
        patients = Counter(_patient_groups(order).values())
        counts = {group: patients[group] for group in PATIENT_GROUPS}
        return ArchiveSummary(self._path, digest, len(order), counts, tuple(self._rejected))

    def discard(self) -> None:
        """Remove what was not finished."""
        self._file.close()
        self._disk.close()
        self._partial.unlink(missing_ok=True)

    def _check(self, study: Study) -> None:
        if study.label_set != self._label_set.name:
            raise InputError(
                f"{study.path}: its label set is {study.label_set!r}, that of source {self._source!r} is "
                f"{self._label_set.name!r}; choose the matching source"
            )
        check_study(study)
        first = self._seen.get((study.case_id, study.frame))
        if first is not None:
            raise InputError(
                f"{study.path}: patient {study.case_id!r}, frame {study.frame!r} is there already, "
                f"from {first}; remove one of them"
            )

    def _store(self, study: PreparedStudy, clinical: Mapping[str, str]) -> None:
        arrays: dict[str, NDArray[Any]] = {
            "image": study.image,
            "mask": study.mask,
            "native_mask": study.native_mask,
        }
        place = f"studies/{len(self._entries):06d}"
        voxels = np.bincount(study.native_mask.ravel(), minlength=self._label_set.num_classes)
        entry = {
            "case_id": study.case_id,
            "frame": study.frame,
            "group": study.group,
            "slices": study.mask.shape[0],
            "spacing_mm": list(study.spacing_mm),
            "affine": study.affine.tolist(),
            "voxels": voxels.tolist(),
            "clinical": dict(clinical),
        }
        with self._writing():
            for name, values in arrays.items():
                self._file.create_dataset(
                    f"{place}/{name}",
                    data=values,
                    chunks=(1, *values.shape[1:]),
                    compression="gzip",  # LZF takes half the time, but its bytes differ from run to run
                    compression_opts=1,  # higher levels take twice the time for 3 % less
                    shuffle=True,
                    track_times=False,
                )
            self._disk.raise_failure()
        self._digests.append(_study_digest(entry, arrays))
        self._entries.append(entry | {"place": place})

    def _digest(self) -> str:
        content = [_FORMAT, self._label_set.name, self._source, *sorted(self._digests)]
        return hashlib.sha256("\n".join(content).encode()).hexdigest()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"{self._path}: cannot be written ({reason}); free disk space or correct the permissions, "
                "then run again"
            ) from error


class _SteadyFile:
    """The file that HDF5 writes through: it keeps the first failure for `raise_failure` instead of raising it.

    HDF5 writes late, also while objects are freed, where an error such as that of a full disk cannot be
    raised: it would be printed and forgotten.
    """

    def __init__(self, path: Path) -> None:
        self._raw = path.open("w+b", buffering=0)
        self._failure: OSError | None = None

    def raise_failure(self) -> None:
        """Raise the first `OSError`, if there was one."""
        if self._failure is not None:
            raise self._failure

    def write(self, data: bytes) -> int:
        rest = memoryview(data)
        try:
            while rest and self._failure is None:
                rest = rest[self._raw.write(rest) :]
        except OSError as error:
            self._failure = error
        return len(data)

    def truncate(self, size: int) -> int:
        try:
            return self._raw.truncate(size)
        except OSError as error:
            self._failure = self._failure or error
            return size

    def read(self, size: int = -1) -> bytes:  # by this name h5py knows that it is given a file
        return self._raw.read(size) or b""

    def readinto(self, target: bytearray) -> int:
        return self._raw.readinto(target) or 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        return self._raw.tell()

    def flush(self) -> None:
        self._raw.flush()

    def close(self) -> None:
        self._raw.close()


def _study_digest(entry: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256(json.dumps(entry, sort_keys=True).encode())
    for name, values in arrays.items():
        digest.update(f"{name}{values.dtype.str}{values.shape}".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def _patient_groups(entries: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    groups: dict[str, str] = {}
    for entry in entries:
        candidates = (groups.get(entry["case_id"], PATIENT_GROUPS[0]), entry["group"])
        groups[entry["case_id"]] = max(candidates, key=PATIENT_GROUPS.index)
    return dict(sorted(groups.items()))


def _seal(path: Path) -> None:
    """Write the checksum of everything after the user block into it, and flush the file to disk."""
    block = _user_block(path)
    with path.open("r+b") as file:
        file.write(block)
        file.flush()
        os.fsync(file.fileno())


def _verify(path: Path) -> None:
    """Raise `ValueError` unless the file is an archive whose bytes match its checksum."""
    with path.open("rb") as file:
        found = file.read(_USER_BLOCK)
    if not found.startswith(_FORMAT.encode()):
        raise ValueError(f"it does not begin with {_FORMAT!r}")
    if found != _user_block(path):
        raise ValueError("its bytes do not match its checksum")


def _user_block(path: Path) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(_USER_BLOCK)
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return f"{_FORMAT} sha256 {digest.hexdigest()}\n".encode().ljust(_USER_BLOCK, b"\0")


def _read_index(path: Path) -> dict[str, Any]:
    with h5py.File(path, "r", locking=False) as file:
        return json.loads(file["index"][:].tobytes())


def _reopen(path: Path, digest: str) -> StudyArchive:
    """Open an archive that another process has verified."""
    try:
        archive = StudyArchive(path, _read_index(path))
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise _unreadable(path, str(error)) from error
    if archive.digest != digest:
        raise _replaced(path)
    return archive


def _replaced(path: Path) -> InputError:
    return InputError(f"{path}: was replaced while in use; start again, so that one content is used throughout")


def _unreadable(path: Path, reason: str) -> InputError:
    detail = " ".join(reason.split())
    return InputError(
        f"{path}: is not a readable study archive ({detail}): truncated, corrupt, of another version "
        "or written by another program; rematerialise `studies`"
    )


def _triple(values: Iterable[float]) -> tuple[float, float, float]:
    slice_mm, row_mm, column_mm = values
    return slice_mm, row_mm, column_mm
