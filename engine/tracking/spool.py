"""The spool: what a run has to tell, written to disk first and sent afterwards.

A run has one folder in the spool, named after its `scarforge_key`:

    run.json        name, tags, experiment: enough to create the run later
    events.jsonl    one line an event, in the order in which they happened, with their own timestamps
    sending.jsonl   the events that a sender has taken over
    files/          copies of the artifacts, so that later changes to the originals do not matter
    alive.lock      held by the process that owns the run; the kernel frees it when that process dies
    send.lock       held by the one process that sends

The folder disappears when the run has ended and everything was sent. This module knows nothing of MLflow.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from common.files import CHECKPOINT, write_json

Event = dict[str, Any]

_LINK_FROM_BYTES = 16 * 2**20  # larger files are linked: our writers rename, and never change a file in place
_NOT_COPIED = shutil.ignore_patterns(CHECKPOINT, "*.partial")
_SHORT_LOCK_TIMEOUT_S = 10.0  # held for one write or rename


class RunSpool:
    """The spool folder of one run, shared safely by its owner and by any number of senders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._alive = FileLock(folder / "alive.lock", thread_local=False)

    @classmethod
    def of_key(cls, spool: Path, key: str) -> "RunSpool":
        """Give the folder of the run with this `scarforge_key`, which need not exist yet."""
        digest = hashlib.sha256(key.encode()).hexdigest()[:10]
        readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", key).strip("-.")[:60]
        return cls(spool / f"{readable}-{digest}")

    def open(self, header: Mapping[str, Any], event: Event) -> None:
        """Write the header, take ownership and append the first event, as one step."""
        with self._short_lock():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / "run.json", header)
            with contextlib.suppress(Timeout):  # another process runs the same training: share its spool
                self._alive.acquire(timeout=0)
            self._write(event)

    def append(self, event: Event) -> None:
        """Append an event; it gets the present time in milliseconds and an id unless it has them."""
        with self._short_lock():
            self._write(event)

    def release(self) -> None:
        """Give up ownership: the run has ended."""
        self._alive.release(force=True)

    def header(self) -> dict[str, Any] | None:
        """Read `run.json`; nothing when the folder is gone."""
        try:
            content: dict[str, Any] = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content

    def copy(self, path: Path) -> str:
        """Copy a file or folder into the spool and give its place relative to the run's folder."""
        place = Path("files") / uuid.uuid4().hex[:12] / path.name
        target = self.folder / place
        target.parent.mkdir(parents=True)
        if path.is_dir():
            shutil.copytree(path, target, ignore=_NOT_COPIED, copy_function=_link_or_copy)
        else:
            _link_or_copy(path, target)
        return str(place)

    def size(self, place: str) -> int:
        """Give the bytes of a copy."""
        path = self.folder / place
        files = path.rglob("*") if path.is_dir() else [path]
        return sum(file.stat().st_size for file in files if file.is_file())

    def discard(self, place: str) -> None:
        """Remove a copy that has been sent."""
        if place.startswith("files/"):
            shutil.rmtree((self.folder / place).parent, ignore_errors=True)

    def pending(self) -> int:
        """Count the events that wait."""
        return sum(len(_read(self.folder / name)[0]) for name in ("sending.jsonl", "events.jsonl"))

    @contextlib.contextmanager
    def sending(self) -> Iterator[bool]:
        """Become the only sender; yields False when another process is."""
        if not self.folder.exists():
            yield False
            return
        lock = FileLock(self.folder / "send.lock", thread_local=False)
        try:
            lock.acquire(timeout=0)
        except (Timeout, FileNotFoundError):
            yield False
            return
        try:
            yield (self.folder / "run.json").exists()
        finally:
            lock.release(force=True)

    def claim(self) -> list[Event]:
        """Take over the oldest waiting events; only within `sending`."""
        taken = self.folder / "sending.jsonl"
        with self._short_lock():
            if not taken.exists() and (self.folder / "events.jsonl").exists():
                (self.folder / "events.jsonl").rename(taken)
        events, unreadable = _read(taken)
        for line in unreadable:
            self.reject({"kind": "unreadable", "line": line}, "cut short")
        return events

    def keep(self, remaining: Sequence[Event], ended: bool) -> None:
        """Record which claimed events are still to be sent; an ended run that has told all disappears."""
        taken = self.folder / "sending.jsonl"
        if remaining:
            part = taken.with_suffix(".partial")
            part.write_text("".join(map(_line, remaining)), encoding="utf-8")
            part.replace(taken)
            return
        with self._short_lock():
            if ended and not (self.folder / "events.jsonl").exists():
                self._remove()
            else:
                taken.unlink(missing_ok=True)

    def reject(self, event: Event, reason: str) -> None:
        """Set aside an event that the store refuses for good, beside the run folders."""
        folder = self.folder.parent / "rejected"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{self.folder.name}.jsonl").open("a", encoding="utf-8") as file:
            file.write(_line({**event, "reason": reason}))

    def close_if_abandoned(self) -> None:
        """Append the end of a run whose process was killed before it could."""
        with self._short_lock():
            if not (self.folder / "run.json").exists():
                return
            try:
                self._alive.acquire(timeout=0)
            except Timeout:
                return
            try:
                if not self._ends():
                    self._write({"kind": "end", "status": "KILLED"})
            finally:
                self._alive.release(force=True)

    def _remove(self) -> None:
        rubbish = self.folder.with_name(f".{uuid.uuid4().hex}")
        self.folder.rename(rubbish)  # at once, so that no half of it is ever read
        shutil.rmtree(rubbish, ignore_errors=True)

    def _ends(self) -> bool:
        for name in ("events.jsonl", "sending.jsonl"):
            events, _ = _read(self.folder / name)
            if events:
                return events[-1]["kind"] == "end"
        return False

    def _short_lock(self) -> FileLock:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder.parent / "spool.lock", timeout=_SHORT_LOCK_TIMEOUT_S)

    def _write(self, event: Event) -> None:
        path = self.folder / "events.jsonl"
        stamped = {"time": int(time.time() * 1000), "id": uuid.uuid4().hex, **event}
        with path.open("ab") as file:
            if file.tell() and not _ends_with_newline(path):  # a killed process left half a line
                file.write(b"\n")
            file.write(_line(stamped).encode())


def run_spools(spool: Path) -> Iterable[RunSpool]:
    """Give the runs that have something in the spool, oldest first."""
    aged = []
    for header in spool.glob("[!.]*/run.json"):  # a leading dot: on its way out
        with contextlib.suppress(FileNotFoundError):  # another process has just sent the last of it
            aged.append((header.stat().st_mtime, header.parent))
    return [RunSpool(folder) for _, folder in sorted(aged)]


def pending_events(spool: Path) -> int:
    """Count what waits to be sent, over all runs."""
    return sum(run.pending() for run in run_spools(spool))


def _read(path: Path) -> tuple[list[Event], list[str]]:
    events, unreadable = [], []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return [], []
    for line in filter(None, lines):
        try:
            events.append(json.loads(line))
        except ValueError:
            unreadable.append(line)
    return events, unreadable


def _line(event: Mapping[str, Any]) -> str:
    return json.dumps(event) + "\n"


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _link_or_copy(source: str | Path, target: str | Path) -> None:
    source, target = Path(source), Path(target)
    if source.stat().st_size >= _LINK_FROM_BYTES:
        with contextlib.suppress(OSError):  # another file system
            target.hardlink_to(source)
            return
    shutil.copy2(source, target)
