"""What a run has to tell MLflow, kept in the folder of its result, which is the record; MLflow gets a copy.

A folder that a run is told of holds, besides `history.csv` and the other files of its result, a folder `.mlflow`:

    run.json     name, tags, parameters, results, which files belong to the run, how it ended
    system.jsonl what the machine was doing, a line a validation
    files/       copies of files that lie elsewhere
    model/       the exported network
    lock         held by the process whose run this is; the kernel frees it when that process dies
    sent.json    which of this MLflow has, and the id of the run there

This module knows nothing of MLflow.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from common.errors import UNFIT
from common.files import CHECKPOINT, move, parsed_json, read_sealed, write_sealed
from common.tables import read_csv
from engine.workspace import ARTIFACTS
from runtime.report import TIME

OWN = ".mlflow"
_HISTORY, _SYSTEM = "history.csv", "system.jsonl"
_SET_ASIDE = ".untold_"
_WITHOUT_RUNS = frozenset({ARTIFACTS, CHECKPOINT, OWN, "dagster", "locks", "logs"})


@dataclass
class RunNotes:
    """What is said of a run besides its course.

    Attributes:
        key: What makes this run this run (`engine.run_tags.RunIdentity`).
        name: For people.
        tags: What it can be found by.
        params: The resolved configuration, by dotted names.
        parent: `key`, `name` and `stage` of the run that this one is shown under; empty where there is none.
        start_time: In milliseconds, as all times here.
        end_time: None while it goes on, and where it was killed.
        status: As MLflow names it, None while it goes on and where it was killed.
        results: Value and time by name; runs are compared by them.
        datasets: What was read, as MLflow's datasets.
        artifacts: Path in the folder, and where it goes among the run's artifacts.
        model: Name of the exported model, empty where there is none.
        versions: What the model registry is to be told.
    """

    key: str
    name: str
    tags: dict[str, str]
    params: dict[str, str]
    parent: dict[str, str]
    start_time: int
    end_time: int | None = None
    status: str | None = None
    results: dict[str, tuple[float, int]] = field(default_factory=dict)
    datasets: list[dict[str, Any]] = field(default_factory=list)
    artifacts: list[tuple[str, str]] = field(default_factory=list)
    model: str = ""
    versions: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Sent:
    """What MLflow has of a run: its id there, and the digest of what was told."""

    run_id: str
    digest: str


@dataclass(frozen=True)
class Row:
    """Values of one step of a run's course."""

    step: int
    time: int
    metrics: Mapping[str, float]


class RunFolder:
    """A folder whose run MLflow is told of."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.own = folder / OWN

    def notes(self) -> RunNotes | None:
        """Read what is said of the run, None where nothing can be read."""
        try:
            return RunNotes(**read_sealed(self.own / "run.json"))
        except (OSError, *UNFIT):
            return None

    def write(self, notes: RunNotes) -> None:
        """Write what is said of the run."""
        write_sealed(self.own / "run.json", asdict(notes))

    def course(self) -> list[Row]:
        """Return the values of every step: those of the training, and those of the machine."""
        return [*_history(self.folder / _HISTORY), *_system(self.own / _SYSTEM)]

    def note_system(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write down what the machine is doing; half a line that a kill left spoils no other."""
        line = json.dumps({"step": step, "time": int(time.time() * 1000), "metrics": dict(metrics)})
        with (self.own / _SYSTEM).open("a", encoding="utf-8") as file:
            file.write(f"\n{line}")

    def sent(self) -> Sent | None:
        """Return what MLflow has, None where it has nothing."""
        try:
            return Sent(**read_sealed(self.own / "sent.json"))
        except (OSError, *UNFIT):
            return None

    def note_sent(self, sent: Sent) -> None:
        """Write down what MLflow has, unless the folder was moved meanwhile."""
        if self.own.is_dir():
            write_sealed(self.own / "sent.json", asdict(sent))

    def is_sent(self) -> bool:
        """Tell whether MLflow has all that is told here."""
        sent = self.sent()
        return sent is not None and sent.digest == self.digest()

    def digest(self) -> str:
        """Return a digest of what is told; files are written before the run's end is."""
        told = hashlib.sha256()
        for path in (self.own / "run.json", self.folder / _HISTORY, self.own / _SYSTEM):
            told.update(path.read_bytes() if path.is_file() else b"-")
        return told.hexdigest()

    def copied(self, path: Path) -> str:
        """Return the place of a file of the run in the folder; one that lies elsewhere is copied."""
        if path.is_relative_to(self.folder):
            return path.relative_to(self.folder).as_posix()
        target = self.own / "files" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
        return target.relative_to(self.folder).as_posix()

    @contextlib.contextmanager
    def owned(self) -> Iterator[bool]:
        """Be the process that this run is told by; False where another one is."""
        lock = FileLock(self.own / "lock", thread_local=False)
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError):
            yield False
            return
        try:
            yield True
        finally:
            lock.release(force=True)


def metric_name(name: str) -> str:
    """Return a name as MLflow takes it for a metric."""
    return re.sub(r"[^\w/.: -]", "_", name, flags=re.ASCII)


def _system(path: Path) -> Iterator[Row]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for line in filter(None, lines):
        with contextlib.suppress(*UNFIT):
            yield Row(**parsed_json(line))


def _history(path: Path) -> Iterator[Row]:
    try:
        table = read_csv(path)
    except (OSError, ValueError):  # none yet, or without columns
        return
    if not {"step", TIME} <= set(table.columns):
        return
    # A value that the disk has changed is left out.
    numbers = pd.DataFrame({name: pd.to_numeric(table[name], errors="coerce") for name in table})
    for row in numbers.loc[np.isfinite(numbers[["step", TIME]].to_numpy(np.float64)).all(axis=1)].to_dict("records"):
        values = {metric_name(str(name)): float(value) for name, value in row.items() if name not in ("step", TIME)}
        known = {name: value for name, value in values.items() if not pd.isna(value)}
        yield Row(int(row["step"]), round(row[TIME] * 1000), known)


def run_folders(home: Path) -> list[RunFolder]:
    """Return the folders of a workspace whose runs MLflow is told of, the earliest first."""
    found = []
    for place, inside, _ in os.walk(home):
        if OWN in inside and (notes := RunFolder(Path(place)).notes()) is not None:
            found.append((notes.start_time, Path(place)))
        inside[:] = [name for name in inside if name not in _WITHOUT_RUNS]
    return [RunFolder(place) for _, place in sorted(found)]


def spool_folder(spool: Path, key: str) -> Path:
    """Return the folder of a run that no asset's folder holds; it goes when MLflow has it."""
    return spool / hashlib.sha256(key.encode()).hexdigest()[:16]


def discard(folder: Path) -> None:
    """Delete a folder; while MLflow lacks a run in it, it is kept beside, under a name with a dot."""
    if not folder.is_dir() or is_told(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    for checkpoint in folder.rglob(CHECKPOINT):
        shutil.rmtree(checkpoint, ignore_errors=True)
    number = 1
    while (kept := folder.with_name(f".{folder.name.strip('.')}{_SET_ASIDE}{number}")).exists():
        number += 1
    move(folder, kept)


def drop_when_told(run: RunFolder, spool: Path) -> None:
    """Delete the folder of a run that MLflow has, where it was kept for that alone."""
    for folder in (run.folder, *run.folder.parents):
        if (folder.parent == spool or _SET_ASIDE in folder.name) and is_told(folder):
            shutil.rmtree(folder, ignore_errors=True)


def is_told(folder: Path) -> bool:
    """Tell whether MLflow has every run of a folder."""
    return all(RunFolder(own.parent).is_sent() for own in folder.rglob(OWN) if (own / "run.json").exists())
