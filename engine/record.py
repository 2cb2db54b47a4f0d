"""The cache of results: a folder is valid when its record says so, and only then is it read.

Dagster never skips work by itself, so each asset keeps a key (code version, versions of what it read, its
configuration). A result with the same key is returned at once; a build that was killed is continued in the
same partial folder by the next attempt with the same key; nothing half-written carries the final name.
A record names the data versions of all that a result was made of, up to the studies, and they are part of its own: so a
key that holds the versions of the nearest inputs holds those of everything behind them.

The files that a record names make the result. What else lies in its folder (a note, a `.DS_Store`) is other people's:
it decides nothing, and it stays where it is when the result is made again.

Why a result is made again, in words for the step's log: what it was made of beside what it would be made of.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock

from common.errors import UNFIT, InputError, one_line
from common.files import CHECKPOINT, free_name, move, put_in_place, read_json, read_sealed, unwritable, write_sealed
from engine.locks import held
from engine.outcome import Outcome
from engine.tracking.run_folder import OWN, discard

_SHOWN = 5  # differences; the line stays one that can be read
_LONGEST = 60  # characters of a value
_ABSENT = object()


def differences(before: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return how two results differ in code, inputs and settings.

    Args:
        before: `code_version`, `parents` (data versions of what was read) and `config` of the result that is there;
            empty where its record does not tell.
        wanted: The same of the result that is wanted.
    """
    wanted = json.loads(json.dumps(wanted))  # as a record gives it back
    if not before or before.keys() != wanted.keys():
        return "it was made by other code, of other inputs or with other settings; its record does not tell which"
    found = [*_code(before, wanted), *_inputs(before["parents"], wanted["parents"])]
    found += _settings(before["config"], wanted["config"])
    more = [f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    return "; ".join([*found[:_SHOWN], *more])


def _code(before: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    old, new = before["code_version"], wanted["code_version"]
    if old != new:
        yield f"code version {old} -> {new}"


def _inputs(before: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(before.keys() | wanted.keys()):
        old, new = before.get(name), wanted.get(name)
        if old != new:
            yield f"input {name} {'is new' if old is None else 'is left out' if new is None else 'changed'}"


def _settings(before: Any, wanted: Any, name: str = "") -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(wanted, Mapping):
        for key in sorted(before.keys() | wanted.keys()):
            below = f"{name}.{key}" if name else str(key)
            yield from _settings(before.get(key, _ABSENT), wanted.get(key, _ABSENT), below)
    elif before is not wanted and before != wanted:
        yield f"the setting {name} changed from {_text(before)} to {_text(wanted)}"


def _text(value: Any) -> str:
    text = "not given" if value is _ABSENT else repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


RECORD = "record.json"
FORMAT = 2  # of records, and the code version of whatever all assets share: raised, no earlier result is used
_BEGUN = ".begun.json"  # in an unfinished folder: what it is built for
_NO_FILE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# These hold timings, run ids or the machine, so that they differ between two equal results, or show what others hold.
_VOLATILE = frozenset(
    {"history.csv", "timing.json", "training_result.json", "report.html", "overview.png", "validation.png"}
)
_OF_THE_DESKTOP = frozenset({"Thumbs.db", "desktop.ini"})  # Windows writes these; macOS's begin with a dot


@dataclass(frozen=True)
class Record:
    """What a finished asset's folder says about itself."""

    asset: str
    cache_key: str
    data_version: str
    files: Mapping[str, str]
    outcome: Outcome
    attempt: str = ""  # of a build that was forced, see `produce`
    made_of: Mapping[str, Any] = field(default_factory=dict)  # what `cache_key` was formed of

    @property
    def behind(self) -> Mapping[str, str]:
        """Data versions of all it was made of, up to the studies, by place in the workspace."""
        return self.outcome.behind


def _not_told(line: str) -> None:
    """Keep a line to itself."""


class Elsewhere(Protocol):
    """Where finished folders lie besides the workspace, for other machines: `engine.remote`."""

    def fetch(self, place: Path, key: str, attempt: str, have: bool) -> bool:
        """Put the result of `key` in place where it lies there; where one is here (`have`), only a later one."""

    def publish(self, place: Path, built: bool) -> None:
        """Make a finished folder known there; `built` says that it was made just now."""


@dataclass(frozen=True)
class Neighbours:
    """Folders of the same disk in which a result may lie already, such as other arms of an experiment.

    Attributes:
        places: Gives the folders to look into for what belongs into a place.
        beyond: Where to look after them.
    """

    places: Callable[[Path], Iterable[Path]]
    beyond: Elsewhere | None = None

    def fetch(self, place: Path, key: str, attempt: str, have: bool) -> bool:
        """Take over the first neighbour's result of `key` that is whole."""
        if not have and not attempt and any(_taken_over(place, other, key) for other in self.places(place)):
            return True
        return self.beyond is not None and self.beyond.fetch(place, key, attempt, have)

    def publish(self, place: Path, built: bool) -> None:
        """Make it known beyond the neighbours, who look for themselves."""
        if self.beyond is not None:
            self.beyond.publish(place, built)


def _taken_over(place: Path, other: Path, key: str) -> bool:
    """Put a finished folder's files in place, too, without taking up the disk twice where links can be made."""
    if not is_finished(other):
        return False
    aside = place.with_name(f".{place.name}.taken")
    shutil.rmtree(aside, ignore_errors=True)
    with FileLock(swap_lock(other)):
        record, _ = _found(other, key, "", {})
        if record is None:
            return False
        for name in (*record.files, RECORD):
            _link(other / name, aside / name)
    with FileLock(swap_lock(place)):
        replace_folder(place, aside)
    return True


def _link(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.hardlink_to(file)
    except OSError:  # another disk, or a file system without links
        shutil.copy2(file, target)


def versions_of(parents: Mapping[str, Record | str]) -> dict[str, str]:
    """Return the versions of what is read, as a cache key holds them."""
    return {name: one.data_version if isinstance(one, Record) else one for name, one in parents.items()}


def cache_key(code_version: str, parents: Mapping[str, str], config: Any) -> str:
    """Return a hash of the code version, the data versions of what is read, and the configuration."""
    content = {"format": FORMAT, "code_version": code_version, "parents": dict(parents), "config": config}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def produce(
    place: Path,
    asset: str,
    key: str,
    build: Callable[[Path], Outcome],
    attempt: str = "",
    elsewhere: Elsewhere | None = None,
    made_of: Mapping[str, Any] | None = None,
    tell: Callable[[str], None] = _not_told,
) -> tuple[Record, bool]:
    """Return the record of `place`, built now unless a valid result for `key` is there.

    Args:
        place: The final folder.
        asset: The asset's name, for messages.
        key: From `cache_key`.
        build: Fills the folder it is given, which may hold what an earlier, killed attempt left.
        attempt: Names a forced build: only a result of this attempt is found, any other is built again.
        elsewhere: Where a result is looked for before it is built, and published.
        made_of: What `key` was formed of, for the record.
        tell: Hears in one line why a result that is there is made again.

    Returns:
        The record, and whether it was found rather than built.

    Raises:
        InputError: The disk is full, or an earlier ScarForge made what lies there; it stays where it is.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with held(place.with_name(f".{place.name}.lock"), f"another run that makes {asset}"):
        found, why = _found(place, key, attempt, made_of or {})
        if elsewhere is not None and elsewhere.fetch(place, key, attempt, have=found is not None):
            found, why = _found(place, key, attempt, made_of or {})
        if why:
            tell(f"{asset} is made again: {why}")
        record = _made(place, asset, key, build, attempt, made_of or {}) if found is None else found
        if elsewhere is not None:
            elsewhere.publish(place, built=found is None)
        return record, found is not None


def _found(place: Path, key: str, attempt: str, made_of: Mapping[str, Any]) -> tuple[Record | None, str]:
    """Return the record of the wanted result, or None and why what lies in `place` is not it."""
    if not is_finished(place):
        return None, "its folder holds no record.json, and is kept beside it" if place.exists() else ""
    require_present_format(place)
    try:
        record = read_record(place, place.name)
    except InputError:  # a damaged record is rebuilt, as a missing one is
        return None, "record.json cannot be read; its folder is kept beside it"
    if record.cache_key != key:
        return None, differences(record.made_of, made_of)
    if attempt not in ("", record.attempt):
        return None, "this run forces it"
    why = "; ".join(faults(place, record.files))
    return (None, why) if why else (record, "")


def faults(folder: Path, files: Mapping[str, str]) -> list[str]:
    """Return which of the recorded files (digests by relative path) are missing in `folder` or differ."""
    kept = {name: digest for name, digest in files.items() if _is_result(name)}
    return [
        f"{name} {'differs from its record' if (folder / name).is_file() else 'is missing'}"
        for name, digest in kept.items()
        if not (folder / name).is_file() or file_digest(folder / name) != digest
    ]


def _made(
    place: Path, asset: str, key: str, build: Callable[[Path], Outcome], attempt: str, made_of: Mapping[str, Any]
) -> Record:
    partial = _partial_folder(place, attempt or key)
    record, _ = _found(partial, key, attempt, made_of)  # whole, where only its renaming is missing
    if record is None:
        record = _built(partial, asset, key, build, attempt, made_of)
    _drop_unfinished(partial)
    with FileLock(swap_lock(place)):
        replace_folder(place, partial)
    return record


def _built(
    partial: Path, asset: str, key: str, build: Callable[[Path], Outcome], attempt: str, made_of: Mapping[str, Any]
) -> Record:
    try:
        write_sealed(partial / _BEGUN, {"asset": asset, "key": attempt or key})
        return _seal(partial, asset, key, build(partial), attempt, made_of)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise unwritable(partial, error, f"and rematerialise {asset}") from error


def is_of_present_format(place: Path) -> bool:
    """Tell whether this version can use a folder's result: False where an earlier ScarForge finished it."""
    try:
        return bool(read_json(place / RECORD).get("format", 1) == FORMAT)
    except (*_NO_FILE, *UNFIT):  # none, or damaged: nothing tells who made it
        return True


def require_present_format(place: Path) -> None:
    """Raise `InputError` where an earlier ScarForge finished a folder: its results are neither used nor replaced."""
    if not is_of_present_format(place):
        raise InputError(
            f"{place}: this workspace was made by ScarForge 0.1.0, whose results this version cannot use; choose "
            "another SCARFORGE_HOME, or move the old one away"
        )


def read_record(place: Path, asset: str) -> Record:
    """Read the record of a finished folder.

    Raises:
        InputError: There is none, it is damaged, or an earlier ScarForge wrote it.
        OSError: The disk does not give it.
    """
    require_present_format(place)
    path = place / RECORD
    try:
        content = read_sealed(path)
        return Record(
            asset=content["asset"],
            cache_key=content["cache_key"],
            data_version=content["data_version"],
            files=content["files"],
            outcome=Outcome.from_json(content["outcome"]),
            attempt=content.get("attempt", ""),
            made_of=dict(content.get("made_of", {})),
        )
    except FileNotFoundError as error:
        raise InputError(f"{place}: no finished result; materialise the asset {asset!r} first") from error
    except (*_NO_FILE, *UNFIT) as error:  # none of the disk's, which says nothing of the content
        raise InputError(f"{path}: cannot be read ({one_line(error)}); rematerialise the asset {asset!r}") from error


def built_for(folder: Path) -> tuple[str, str]:
    """Return what a folder is built for while it is built: asset and cache key, or attempt where the build is forced.

    A folder inside it is named after the asset, such as `synthesis_quality/utility`.
    """
    for place in (folder, *folder.parents):
        if (place / _BEGUN).is_file():
            begun = read_sealed(place / _BEGUN)
            return "/".join([begun["asset"], *folder.relative_to(place).parts]), begun["key"]
    raise ValueError(f"{folder}: nothing is built here")


def is_finished(place: Path) -> bool:
    """Tell whether a finished result lies in `place`."""
    return (place / RECORD).exists()


def file_digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below `folder` that can be a result's, by relative path.

    Its record is none, nor is a checkpoint, nor what begins with a dot: half a file, or a desktop's.
    """
    names = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    return {name: file_digest(folder / name) for name in names if _is_result(name)}


def _is_result(name: str) -> bool:
    parts = Path(name).parts
    hidden = any(part.startswith(".") for part in parts) or parts[-1] in _OF_THE_DESKTOP
    return not hidden and parts[-1] != RECORD and CHECKPOINT not in parts[:-1]


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _partial_folder(place: Path, key: str) -> Path:
    partial = place.with_name(f".{place.name}.{key[:16]}.partial")
    for stale in place.parent.glob(f".{place.name}.*.partial"):
        if stale != partial:
            discard(stale)
    partial.mkdir(exist_ok=True)
    return partial


def _drop_unfinished(folder: Path) -> None:
    """Delete the checkpoints of a sealed result, and what a kill left half written."""
    (folder / _BEGUN).unlink(missing_ok=True)
    for path in sorted(folder.rglob(CHECKPOINT)):
        if path.is_dir():
            shutil.rmtree(path)
    for path in sorted(folder.rglob(".*.partial*")):
        if path.is_file():
            path.unlink()


def _seal(partial: Path, asset: str, key: str, outcome: Outcome, attempt: str, made_of: Mapping[str, Any]) -> Record:
    files = file_digests(partial)
    lasting = {name: digest for name, digest in files.items() if Path(name).name not in _VOLATILE}
    content_and_origin = json.dumps([asset, lasting, dict(outcome.behind)], sort_keys=True)
    version = hashlib.sha256(content_and_origin.encode()).hexdigest()[:20]
    record = Record(asset, key, version, files, outcome, attempt, made_of)
    told: dict[str, Any] = {"format": FORMAT, "outcome": outcome.to_json(), "made_of": dict(made_of)}
    told |= {"asset": asset, "cache_key": key, "data_version": version, "files": files, "attempt": attempt}
    write_sealed(partial / RECORD, told)
    return record


def swap_lock(place: Path) -> Path:
    """Return the lock to hold while `place` is replaced, never while something is built."""
    return place.with_name(f".{place.name}.swap.lock")


def recorded_files(place: Path) -> Container[str] | None:
    """Return the files that the record in `place` names, None where it tells nothing."""
    try:
        return read_record(place, place.name).files
    except InputError:
        return None


def replace_folder(
    place: Path, partial: Path, own_files: Callable[[Path], Container[str] | None] = recorded_files
) -> None:
    """Put `partial` in the place of whatever is there; a kill in between leaves the old or the new, or neither.

    Args:
        place: The final folder.
        partial: The folder that takes its place.
        own_files: Gives the relative paths of the files that make up what is there; others are taken along. None where
            nothing tells: the folder is then kept beside, under a name with a dot.
    """
    old = place.with_name(f".{place.name}.old")
    if old.exists() and not place.exists():  # a kill came between the two renamings
        move(old, place)
    discard(old)
    if place.exists():
        own = own_files(place)
        if own is not None:
            _take_along(place, partial, own)
        move(place, free_name(place) if own is None else old)
    put_in_place(partial, place)
    discard(old)


def _take_along(place: Path, partial: Path, own: Container[str]) -> None:
    """Copy the files of `place` that are not its own into `partial`, unless it has one of that name."""
    for name in _entries(place):
        if name != RECORD and name not in own and not os.path.lexists(partial / name):
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(place / name, partial / name, follow_symlinks=False)


def _entries(folder: Path) -> Iterable[str]:
    """Give the files and links below `folder` by relative path, without checkpoints."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if (path.is_file() or path.is_symlink()) and not {CHECKPOINT, OWN} & set(name.parts[:-1]):
            yield name.as_posix()
