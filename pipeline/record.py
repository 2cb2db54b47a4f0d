"""The cache of results: a folder is valid when its record says so, and only then is it read.

Dagster never skips work by itself, so each asset keeps a key (code version, versions of what it read, its
configuration). A result with the same key is returned at once; a build that was killed is continued in the
same partial folder by the next attempt with the same key; nothing half-written carries the final name.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from imaging.errors import InputError
from pipeline.outcome import Outcome
from training.files import write_json

_RECORD = "record.json"
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


def cache_key(code_version: str, parents: Mapping[str, str], config: Any) -> str:
    """Return a hash of the code version, the data versions of what is read, and the configuration."""
    content = {"code_version": code_version, "parents": dict(parents), "config": config}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def produce(
    place: Path, asset: str, key: str, build: Callable[[Path], Outcome], attempt: str = ""
) -> tuple[Record, bool]:
    """Return the record of `place`, built now unless a valid result for `key` is there.

    Args:
        place: The final folder.
        asset: The asset's name, for messages.
        key: From `cache_key`.
        build: Fills the folder it is given, which may hold what an earlier, killed attempt left.
        attempt: Names a forced build: only a result of this attempt is found, any other is built again.

    Returns:
        The record, and whether it was found rather than built.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_name(f".{place.name}.lock")):
        found = _valid_record(place, key)
        if found is not None and attempt in ("", found.attempt):
            return found, True
        partial = _partial_folder(place, attempt or key)
        outcome = build(partial)
        record = _seal(partial, asset, key, outcome, attempt)
        _replace(place, partial)
        return record, False


def read_record(place: Path, asset: str) -> Record:
    """Read the record of a finished folder.

    Raises:
        InputError: There is none, or it cannot be read.
    """
    path = place / _RECORD
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
    return (place / _RECORD).exists()


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
        if path.is_file() and path.name != _RECORD:
            with path.open("rb") as file:
                digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


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
    write_json(partial / _RECORD, content)
    return record


def _replace(place: Path, partial: Path) -> None:
    """Put `partial` in the place of whatever is there; a kill in between leaves the old or the new, or neither."""
    old = place.with_name(f".{place.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    partial.rename(place)
    shutil.rmtree(old, ignore_errors=True)
