"""Finished folders on object storage: what one machine built another fetches, and the workspace is a cache of them.

The folder `<source>/<profile>/<asset>/fold_<K>` lies below `SCARFORGE_REMOTE` as its `record.json` and, beside that, a
folder named for the record's digest which holds the files. The record is written last, so that half an upload is
never taken for a result, and two machines that publish at once never mix their files: the later record holds.
Whatever is fetched is compared with its record's digests before it is put in place. Nothing here locks across
machines: Dagster's pools and partitions keep two of them from building the same asset at once.

A record as it lies on object storage: what a folder there has to hold before it is taken for a result.

The door to object storage: any fsspec address, opened once, with errors that say what to install or mend.
"""

import contextlib
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.parse import urlsplit

import fsspec
from filelock import FileLock
from fsspec.implementations.local import LocalFileSystem

from common.errors import UNFIT, InputError, some_of
from engine.record import RECORD, file_digest, file_digests, recorded_files, replace_folder, swap_lock


class DamagedError(Exception):
    """What the store holds is not what its record says."""


@dataclass(frozen=True)
class Seal:
    """A record as it lies in the store: which files make the result, and what it is the result of."""

    content: bytes
    files: Mapping[str, str] = field(compare=False)
    cache_key: str = field(default="", compare=False)
    attempt: str = field(default="", compare=False)

    @classmethod
    def of(cls, content: bytes | None) -> "Seal | None":
        """Read a record; None where there is none, or not yet all of it."""
        try:
            values = json.loads(content or b"")
            files = {str(name): str(digest) for name, digest in values["files"].items()}
            return cls(content or b"", files, values.get("cache_key", ""), values.get("attempt", ""))
        except UNFIT:
            return None

    @property
    def name(self) -> str:
        """The name of the folder that holds the files."""
        return hashlib.sha256(self.content).hexdigest()[:16]

    def damaged(self, folder: Path) -> list[str]:
        """Return the files that are missing in `folder` or differ from the record."""
        return [name for name, digest in self.files.items() if not _is(folder / name, digest)]

    def require_plain_names(self) -> None:
        """Refuse names that lead out of the folder: the store may be written to by others."""
        for name in self.files:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise DamagedError(f"names the file {name!r}, outside its folder")


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and file_digest(path) == digest


VARIABLE = "SCARFORGE_REMOTE"
_DRIVERS = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
}


class UnreachableError(Exception):
    """The store did not do what was asked of it; the message names the store and its own words."""


class ObjectStore:
    """Files under one prefix of an object store, by relative path.

    Raises:
        InputError: The address is not one, or its driver is not installed.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.name = url.replace(f"{parts.netloc.rpartition('@')[0]}@", "") if "@" in parts.netloc else url
        if not parts.scheme or "://" not in url or not (parts.netloc + parts.path).strip("/"):
            raise InputError(f"{VARIABLE}={self.name!r}: write PROTOCOL://PLACE, such as s3://bucket/prefix")
        self._files, root = _open(parts.scheme, url, self.name)
        self._root = root.rstrip("/")

    def read(self, path: str) -> bytes | None:
        """Return the content of a small file, None where there is none."""
        with self._errors(), contextlib.suppress(FileNotFoundError):
            content: bytes = self._files.cat_file(self._at(path))
            return content
        return None

    def write(self, path: str, content: bytes) -> None:
        """Write a small file; a store of objects shows it whole or not at all."""
        with self._errors():
            self._files.pipe_file(self._at(path), content)

    def upload(self, folder: Path, names: Mapping[str, str], path: str) -> None:
        """Copy the named files of a folder to below `path`."""
        with self._errors():
            for name in names:
                self._files.put_file(str(folder / name), self._at(f"{path}/{name}"))

    def download(self, path: str, names: Mapping[str, str], folder: Path) -> None:
        """Copy the named files from below `path` into a folder; one that is missing there is missing here, too."""
        with self._errors():
            for name in names:
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileNotFoundError):
                    self._files.get_file(self._at(f"{path}/{name}"), str(target))

    def remove(self, path: str) -> None:
        """Remove everything below `path`, if there is anything."""
        with self._errors(), contextlib.suppress(FileNotFoundError):
            self._files.rm(self._at(path), recursive=True)

    def find(self, path: str, name: str) -> list[str]:
        """Return the paths of all files of this name below `path`."""
        with self._errors():
            self._files.invalidate_cache()
            found = [str(file) for file in self._files.find(self._at(path))]
        return sorted(file.removeprefix(f"{self._root}/") for file in found if file.rsplit("/", 1)[-1] == name)

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Every driver has errors of its own, many of them no OSError."""
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:
            raise UnreachableError(f"{self.name}: {type(error).__name__}: {error}") from error


def _open(protocol: str, url: str, name: str) -> tuple[fsspec.AbstractFileSystem, str]:
    try:
        kind = fsspec.get_filesystem_class(protocol)
        options = {"auto_mkdir": True} if issubclass(kind, LocalFileSystem) else {}
        files, root = fsspec.url_to_fs(url, **options)
    except ImportError as error:
        remedy = f"run `pip install {_DRIVERS[protocol]}`" if protocol in _DRIVERS else str(error)
        raise InputError(f"{VARIABLE}={name!r}: the driver of {protocol}:// is not installed; {remedy}") from error
    except ValueError as error:
        known = "s3, gs, abfs, file, memory"
        raise InputError(f"{VARIABLE}={name!r}: {error}; fsspec's protocols are {known} and others") from error
    return files, str(root)


_logger = logging.getLogger(__name__)
_PAUSE_S = 60.0  # a store that is away costs each of its calls a time-out
_T = TypeVar("_T")


class Remote:
    """The finished folders of a workspace on object storage.

    Args:
        url: Any fsspec address.
        home: The workspace.

    Raises:
        InputError: The address is wrong, or its driver is missing.
    """

    def __init__(self, url: str, home: Path) -> None:
        self._store = ObjectStore(url)
        self._home = home
        self._looked_at: set[Path] = set()
        self._away_until = 0.0

    @classmethod
    def of(cls, home: Path, environ: Mapping[str, str]) -> "Remote | None":
        """Return what `SCARFORGE_REMOTE` names, None where it is not set."""
        url = environ.get(VARIABLE, "").strip()
        return cls(url, home) if url else None

    def fetch(self, place: Path, key: str, attempt: str, have: bool) -> bool:
        """Fetch the result of `key` before it is built here.

        Args:
            place: The final folder.
            key: The wanted cache key.
            attempt: Of a forced build: only its result is wanted.
            have: A result of `key` lies here; only one that was published after it is fetched.

        Returns:
            Whether the folder was put in place.
        """

        def wanted() -> Seal | None:
            seal = self._seal(place)
            if seal is None or seal.cache_key != key or attempt not in ("", seal.attempt):
                return None
            return None if have and not self._moved_on(place, seal) else seal

        return self._unless_away(lambda: self._bring(place, wanted), False)

    def refresh(self, place: Path) -> None:
        """Fetch a folder that is read, where it is missing here or another machine has published a later one."""
        if place not in self._looked_at:
            self._looked_at.add(place)
            self._unless_away(lambda: self._bring(place, lambda: self._later(place)), False)

    def refresh_below(self, place: Path) -> None:
        """Fetch every finished folder below `place`, as `refresh` does."""
        nothing: list[str] = []
        for path in self._unless_away(lambda: self._store.find(self._path(place), RECORD), nothing):
            self.refresh(self._home / PurePosixPath(path).parent)

    def publish(self, place: Path, built: bool) -> None:
        """Upload a finished folder unless it is there; where that fails, the next run does it.

        Args:
            place: The final folder.
            built: It was made just now, so that what the store holds may be damaged.
        """
        seal = Seal.of((place / RECORD).read_bytes())
        assert seal is not None, f"{place} has no record"
        try:
            self._require_near()
            with FileLock(swap_lock(place)):
                self._upload(place, seal, anew=built)
        except (UnreachableError, FileNotFoundError) as error:
            self._note_away()
            _logger.warning("%s is not published (%s); it stays here, and the next run publishes it", place, error)

    def pull_state(self, folder: Path) -> None:
        """Bring a folder that grows with every run, such as the champions', to what was published last.

        Raises:
            InputError: The store cannot be reached, or holds something damaged: to go on would be to begin anew.
        """
        try:
            seal = self._seal(folder)
            if seal is not None and self._mark(folder) != self._mark_of(seal):
                with FileLock(swap_lock(folder)):
                    self._download(folder, seal, state=True)
        except UnreachableError as error:
            raise InputError(f"{folder}: {error}; run this step again when the store can be reached") from error
        except DamagedError as error:
            place = f"{self._store.name}/{self._path(folder)}"
            raise InputError(f"{place}: {error}; restore it, or remove it there to begin anew") from error

    def push_state(self, folder: Path) -> None:
        """Publish a folder that grows with every run; a store that is away is a warning."""
        seal = Seal.of(json.dumps({"files": file_digests(folder)}, indent=2, sort_keys=True).encode())
        assert seal is not None, "a manifest that was written here can be read"
        try:
            self._upload(folder, seal, anew=False)
        except UnreachableError as error:
            _logger.warning("%s is not published (%s)", folder, error)

    def _upload(self, place: Path, seal: Seal, anew: bool) -> None:
        path, before = self._path(place), self._seal(place)
        if anew or before != seal:
            self._store.upload(place, seal.files, f"{path}/{seal.name}")
            self._store.write(f"{path}/{RECORD}", seal.content)
            if before is not None and before != seal:
                self._store.remove(f"{path}/{before.name}")
        self._set_mark(place, seal)

    def _bring(self, place: Path, wanted: Callable[[], Seal | None]) -> bool:
        """Download what `wanted` names, once more where another machine replaced it meanwhile."""
        refused: Seal | None = None
        while (seal := wanted()) is not None:
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                with FileLock(swap_lock(place)):
                    if (seal := wanted()) is not None:  # unless another process brought it while this one waited
                        self._download(place, seal)
                    return True
            except DamagedError as error:
                if seal == refused:
                    _logger.warning("%s/%s: %s; not taken", self._store.name, self._path(place), error)
                    return False
                refused = seal
        return False

    def _download(self, place: Path, seal: Seal, state: bool = False) -> None:
        seal.require_plain_names()
        aside = place.with_name(f".{place.name}.fetched")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        try:
            self._store.download(f"{self._path(place)}/{seal.name}", seal.files, aside)
            if damaged := seal.damaged(aside):
                raise DamagedError(f"{some_of(damaged)} missing there or unlike the record's digest")
            if not state:
                (aside / RECORD).write_bytes(seal.content)
            replace_folder(place, aside, _files_of_state if state else recorded_files)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        self._set_mark(place, seal)

    def _later(self, place: Path) -> Seal | None:
        """Return what lies in the store and not here, None where this folder was never published: it may be later."""
        seal = self._seal(place)
        if seal is None or not (place / RECORD).exists():
            return seal
        return seal if self._moved_on(place, seal) else None

    def _moved_on(self, place: Path, seal: Seal) -> bool:
        """Tell whether the store holds another result than the one here, which was published before."""
        here = Seal.of((place / RECORD).read_bytes())
        return here is not None and here != seal and self._mark(place) == self._mark_of(here)

    def _seal(self, place: Path) -> Seal | None:
        return Seal.of(self._store.read(f"{self._path(place)}/{RECORD}"))

    def _path(self, place: Path) -> str:
        return place.relative_to(self._home).as_posix()

    def _mark(self, place: Path) -> str:
        """Return what this folder was last known to share with the store."""
        path = _mark_file(place)
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def _mark_of(self, seal: Seal) -> str:
        return f"{self._store.name} {seal.name}"

    def _set_mark(self, place: Path, seal: Seal) -> None:
        _mark_file(place).write_text(self._mark_of(seal), encoding="utf-8")

    def _unless_away(self, action: Callable[[], _T], otherwise: _T) -> _T:
        if time.monotonic() < self._away_until:
            return otherwise
        try:
            return action()
        except UnreachableError as error:
            self._note_away()
            _logger.warning("%s; going on with what is in the workspace", error)
            return otherwise

    def _require_near(self) -> None:
        if time.monotonic() < self._away_until:
            raise UnreachableError(f"{self._store.name} could not be reached a moment ago")

    def _note_away(self) -> None:
        self._away_until = time.monotonic() + _PAUSE_S


def _files_of_state(folder: Path) -> Container[str]:
    """Return this program's files in a folder without a record: it writes tables and JSON there."""
    return [name for name in file_digests(folder) if PurePosixPath(name).suffix in (".csv", ".json")]


def _mark_file(place: Path) -> Path:
    return place.with_name(f".{place.name}.published")
