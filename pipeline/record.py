"""The cache of results: a folder is valid when its record says so, and only then is it read.

Dagster never skips work by itself, so each asset keeps a key (code version, versions of what it read, its
configuration). A result with the same key is returned at once; a build that was killed is continued in the
same partial folder by the next attempt with the same key; nothing half-written carries the final name.
"""

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock

from imaging.errors import InputError
from pipeline.outcome import Outcome
from pipeline.waiting_lock import held
from training.files import write_json

RECORD = "record.json"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# These hold timings, run ids or the machine, so that they differ between two equal results.
_VOLATILE = frozenset({"history.csv", "timing.json", "training_result.json", "report.html"})


@dataclass(frozen=True)
class Record:
    """What a finished asset's folder says about itself."""

    asset: str
    cache_key: str
    data_version: str
    files: Mapping[str, str]
    outcome: Outcome
    attempt: str = ""  # of a build that was forced, see `produce`


class Elsewhere(Protocol):
    """Where finished folders lie besides the workspace, for other machines: `pipeline.remote`."""

    def fetch(self, place: Path, key: str, attempt: str, have: bool) -> bool:
        """Put the result of `key` in place where it lies there; where one is here (`have`), only a later one."""

    def publish(self, place: Path, built: bool) -> None:
        """Make a finished folder known there; `built` says that it was made just now."""


def cache_key(code_version: str, parents: Mapping[str, str], config: Any) -> str:
    """Return a hash of the code version, the data versions of what is read, and the configuration."""
    content = {"code_version": code_version, "parents": dict(parents), "config": config}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def produce(
    place: Path,
    asset: str,
    key: str,
    build: Callable[[Path], Outcome],
    attempt: str = "",
    elsewhere: Elsewhere | None = None,
) -> tuple[Record, bool]:
    """Return the record of `place`, built now unless a valid result for `key` is there.

    Args:
        place: The final folder.
        asset: The asset's name, for messages.
        key: From `cache_key`.
        build: Fills the folder it is given, which may hold what an earlier, killed attempt left.
        attempt: Names a forced build: only a result of this attempt is found, any other is built again.
        elsewhere: Where a result is looked for before it is built, and published.

    Returns:
        The record, and whether it was found rather than built.

    Raises:
        InputError: The disk is full; the earlier result stays where it is.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with held(place.with_name(f".{place.name}.lock"), f"another run that makes {asset}"):
        found = _found(place, key, attempt)
        if elsewhere is not None and elsewhere.fetch(place, key, attempt, have=found is not None):
            found = _found(place, key, attempt)
        record = _made(place, asset, key, build, attempt) if found is None else found
        if elsewhere is not None:
            elsewhere.publish(place, built=found is None)
        return record, found is not None


def _found(place: Path, key: str, attempt: str) -> Record | None:
    record = _valid_record(place, key)
    return record if record is not None and attempt in ("", record.attempt) else None


def _made(place: Path, asset: str, key: str, build: Callable[[Path], Outcome], attempt: str) -> Record:
    partial = _partial_folder(place, attempt or key)
    record = _valid_record(partial, key)  # whole, where only its renaming is missing
    if record is None or record.attempt != attempt:
        record = _built(partial, asset, key, build, attempt)
    with FileLock(swap_lock(place)):
        replace_folder(place, partial)
    return record


def _built(partial: Path, asset: str, key: str, build: Callable[[Path], Outcome], attempt: str) -> Record:
    try:
        return _seal(partial, asset, key, build(partial), attempt)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise InputError(
            f"{asset}: {partial} cannot be written ({error.strerror}); free disk space and rematerialise {asset}. "
            "The earlier result, if any, is kept"
        ) from error


def read_record(place: Path, asset: str) -> Record:
    """Read the record of a finished folder.

    Raises:
        InputError: There is none, or it cannot be read.
    """
    path = place / RECORD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Record(
            asset=content["asset"],
            cache_key=content["cache_key"],
            data_version=content["data_version"],
            files=content["files"],
            outcome=Outcome.from_json(content["outcome"]),
            attempt=content.get("attempt", ""),
        )
    except FileNotFoundError as error:
        raise InputError(f"{place}: no finished result; materialise the asset {asset!r} first") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); rematerialise the asset {asset!r}") from error


def partial_name(place: Path, record: Record) -> str:
    """Return the name of the folder in which `record` was built, which is part of its training's `scarforge_key`."""
    return _partial_name(place, record.attempt or record.cache_key)


def is_finished(place: Path) -> bool:
    """Tell whether a finished result lies in `place`."""
    return (place / RECORD).exists()


def _valid_record(place: Path, key: str) -> Record | None:
    if not is_finished(place):
        return None
    try:
        record = read_record(place, place.name)
    except InputError:
        return None  # a damaged record is rebuilt, as a missing one is
    if record.cache_key != key or file_digests(place) != dict(record.files):
        return None
    return record


def file_digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below `folder` but its record, by relative path."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != RECORD:
            digests[path.relative_to(folder).as_posix()] = file_digest(path)
    return digests


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _partial_name(place: Path, key: str) -> str:
    return f".{place.name}.{key[:16]}.partial"


def _partial_folder(place: Path, key: str) -> Path:
    partial = place.with_name(_partial_name(place, key))
    for stale in place.parent.glob(f".{place.name}.*.partial"):
        if stale != partial:
            shutil.rmtree(stale)
    partial.mkdir(exist_ok=True)
    return partial


def _seal(partial: Path, asset: str, key: str, outcome: Outcome, attempt: str) -> Record:
    files = file_digests(partial)
    lasting = {name: digest for name, digest in files.items() if Path(name).name not in _VOLATILE}
    version = hashlib.sha256(json.dumps([asset, lasting], sort_keys=True).encode()).hexdigest()[:20]
    record = Record(asset, key, version, files, outcome, attempt)
    content = {
        "asset": asset,
        "cache_key": key,
        "data_version": version,
        "files": files,
        "outcome": outcome.to_json(),
        "attempt": attempt,
    }
    write_json(partial / RECORD, content)
    return record


def swap_lock(place: Path) -> Path:
    """Return the lock to hold while `place` is replaced, never while something is built."""
    return place.with_name(f".{place.name}.swap.lock")


def replace_folder(place: Path, partial: Path) -> None:
    """Put `partial` in the place of whatever is there; a kill in between leaves the old or the new, or neither."""
    old = place.with_name(f".{place.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    partial.rename(place)
    shutil.rmtree(old, ignore_errors=True)
