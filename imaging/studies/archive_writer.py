"""Writes the archive of prepared studies: checked, brought onto the 1 mm grid and stored one by one.

The file is written aside and renamed when complete; `imaging.studies.archive` reads it.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, some_of
from common.files import put_in_place, unwritable
from common.processes import signals_wait
from common.progress import track
from imaging.labels import PATIENT_GROUPS, LabelSet
from imaging.studies.archive import FORMAT, USER_BLOCK, SteadyFile, check_compressed, seal
from imaging.studies.preparation import PreparedStudy, patient_groups, prepare_study
from imaging.studies.study import RejectedStudy, Study, attempt, check_study

_REASONS_SHOWN = 3


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
            self._disk = SteadyFile(self._partial)
            self._file = h5py.File(self._disk, "w", userblock_size=USER_BLOCK, libver=("v110", "v110"))

    def add(self, item: Study | RejectedStudy) -> None:
        if isinstance(item, RejectedStudy):
            self._rejected.append(item)
            return
        prepared = attempt(item.case_id, Path(item.path), lambda: self._prepare(item))
        if isinstance(prepared, RejectedStudy):
            self._rejected.append(prepared)
            return
        self._seen[item.case_id, item.frame] = item.path
        self._store(prepared, item)

    def check_patients(self, minimum: int) -> None:
        patients = {entry["case_id"] for entry in self._entries}
        if len(patients) >= minimum:
            return
        reasons = [item.reason for item in self._rejected]
        because = f" ({len(reasons)} rejected: {some_of(reasons, _REASONS_SHOWN, '; ')})" if reasons else ""
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
            seal(self._partial)
            put_in_place(self._partial, self._path)
        patients = Counter(patient_groups(order).values())
        counts = {group: patients[group] for group in PATIENT_GROUPS}
        return ArchiveSummary(self._path, digest, len(order), counts, tuple(self._rejected))

    def discard(self) -> None:
        """Remove what was not finished."""
        with signals_wait():
            self._file.close()
            self._disk.close()
        self._partial.unlink(missing_ok=True)

    def _prepare(self, study: Study) -> PreparedStudy:
        self._check(study)
        return prepare_study(study)

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

    def _store(self, study: PreparedStudy, read: Study) -> None:
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
            "clinical": dict(read.clinical),
            **({"notes": list(read.notes)} if read.notes else {}),
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
            check_compressed(self._file[f"{place}/{name}"] for name in arrays)
        self._digests.append(_study_digest(entry, arrays))
        self._entries.append(entry | {"place": place})

    def _digest(self) -> str:
        content = [FORMAT, self._label_set.name, self._source, *sorted(self._digests)]
        return hashlib.sha256("\n".join(content).encode()).hexdigest()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with signals_wait():
                yield
        except OSError as error:
            raise unwritable(self._path, error) from error


def _study_digest(entry: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256(json.dumps(entry, sort_keys=True).encode())
    for name, values in arrays.items():
        digest.update(f"{name}{values.dtype.str}{values.shape}".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()
