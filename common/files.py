"""Files and folders that are either whole or absent: written beside, flushed, then renamed.

Every writer comes through here, whatever fills the file, so that a write that fails is told in one way.

The mark beside what this program writes, so that no walk over a folder of studies takes it for one, is a file called
`.scarforge`. Each of its lines names something beside it, as a pattern of `fnmatch`; a folder that is named is the
program's own with all it holds. What the mark does not name is anybody's.
"""

import errno
import glob
import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from safetensors import SafetensorError

from common.errors import InputError, one_line
from common.progress import track

# A file system's clock ticks every few ms: a file may change twice within a tick and keep its time.
_AT_REST_NS = 2_000_000_000
_known_digests: dict[tuple[int, ...], str] = {}
_CHUNK = 1_000_000
_TIMEOUT_S = 30
CHECKPOINT = "checkpoint"  # the folder, in that of a model, of what its training needs to be continued


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file that takes the place of `path` when it is whole; raises as `written_aside` does."""
    with written_aside(path) as partial:
        write(partial)


@contextmanager
def written_aside(path: Path, suffix: str = "") -> Iterator[Path]:
    """Give the place of a temporary neighbour of `path`, which takes its place unless an error is raised.

    Args:
        path: The file; its folder is made.
        suffix: Ends the temporary name, for a writer that goes by it.

    Raises:
        InputError: The disk is full, or the place cannot be written; what stood at `path` stands there still.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial{suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        put_in_place(partial, path)
    except (OSError, SafetensorError, RuntimeError) as error:
        if _fault_of_writing(error) is None:
            raise
        raise unwritable(path, error) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def free_name(place: Path) -> Path:
    """Return the first free name to keep a folder under whose record tells nothing."""
    number = 1
    while (kept := place.with_name(f".{place.name}.unrecorded_{number}")).exists():
        number += 1
    return kept


def put_in_place(partial: Path, place: Path) -> None:
    """Flush a file, or a folder with its files, to disk and give it its final name; see `move`."""
    if not partial.is_dir():
        give_usual_rights(partial)
    for file in (path for path in partial.rglob("*") if path.is_file()) if partial.is_dir() else (partial,):
        _flush_to_disk(file)
    move(partial, place)


def give_usual_rights(path: Path) -> None:
    """Give what a library has left to its owner alone the rights that the user's umask gives anything new."""
    rights = stat.S_IMODE(path.lstat().st_mode)
    if rights not in (0o600, 0o700):
        return
    umask = os.umask(0o077)
    os.umask(umask)
    with suppress(OSError):  # some network disks know no rights
        path.chmod(((0o777 if path.is_dir() else 0o666) & ~umask) | rights)


def move(source: Path, place: Path) -> None:
    """Rename what is on disk already; a file takes the place of one that is there, a folder must find it free."""
    source.replace(place)
    with suppress(OSError):  # some network disks cannot flush a folder
        _flush_to_disk(place.parent)


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free disk space"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "correct the permissions"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "choose another place: a part of this path is a file"),
    **dict.fromkeys((errno.EIO, errno.ESTALE), "check the disk or the connection"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit of open files (ulimit -n 4096)"),
    errno.EISDIR: "choose another place: a folder is there",
    errno.EROFS: "choose a place on a disk that can be written",
    errno.ENAMETOOLONG: "choose a shorter path",
}
# How HDF5 and Rust quote the system.
_QUOTED_NUMBER = re.compile(r"(?:\[Errno |errno = |os error )(\d+)")


def unwritable(path: Path, error: Exception, then: str = "and run this again") -> InputError:
    """Return what cannot be written, why, and what to do.

    Args:
        path: The file or folder under its final name.
        error: What its writer raised.
        then: What comes after the remedy.
    """
    number = _number_of(error)
    reason = os.strerror(number) if number else one_line(error)
    remedy = _REMEDIES.get(number, "free disk space or correct the permissions")
    return InputError(f"{path}: cannot be written ({reason}); {remedy} {then}. What was there before is kept")


_SAYS_NOTHING_OF_CONTENT = (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EPERM)
_OF_THE_DISK = {number: _REMEDIES[number] for number in _SAYS_NOTHING_OF_CONTENT} | {
    errno.ETIMEDOUT: _REMEDIES[errno.EIO],
    errno.ENOMEM: "end other programs",
}


def of_the_disk(path: Path, error: Exception) -> InputError | None:
    """Return what is told of a file that cannot be read, where that says nothing of its content; else None.

    Args:
        path: The file.
        error: What its reader raised.
    """
    number = _number_of(error)
    if number not in _OF_THE_DISK:
        return None
    return InputError(f"{path}: cannot be read ({os.strerror(number)}); {_OF_THE_DISK[number]} and run this again")


def _fault_of_writing(error: Exception) -> Exception | None:
    """Return the error of the system, None for one that is not about writing."""
    if isinstance(error, RuntimeError) and _QUOTED_NUMBER.search(str(error)):
        return error  # HDF5's, where it closes what it could not write
    cause = error.__context__ if isinstance(error, RuntimeError) else error  # torch.save hides the file's own error
    return cause if isinstance(cause, (OSError, SafetensorError)) else None


def _number_of(error: Exception) -> int:
    """Return the system's number of an error, 0 where it tells none."""
    cause = _fault_of_writing(error) or error
    if isinstance(cause, OSError) and cause.errno:
        return cause.errno
    quoted = _QUOTED_NUMBER.search(str(cause))
    return int(quoted[1]) if quoted else 0


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping as indented JSON, whole or not at all."""
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    write_text(path, text)


def read_json(path: Path, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Read a JSON file.

    Raises:
        OSError: It is not there, or the disk does not give it.
        ValueError: It is no JSON, or nested beyond what Python reads.
    """
    return parsed_json(path.read_text(encoding="utf-8"), object_hook)


def parsed_json(text: str | bytes, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Return what a JSON text says; raises as `read_json` does."""
    try:
        return json.loads(text, object_hook=object_hook)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


_OWN_DIGEST = "sha256_of_the_rest"


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping as `write_json` does, with its own digest, so that `read_sealed` finds a bit that flipped."""
    plain = json.loads(json.dumps(content))
    write_json(path, plain | {_OWN_DIGEST: _digest(plain)})


def read_sealed(path: Path) -> Any:
    """Read what `write_sealed` wrote; a file without a digest, as others wrote it, is taken as it is.

    Raises:
        OSError: It is not there, or the disk does not give it.
        ValueError: It is no JSON, or another content than was written.
    """
    content = read_json(path)
    if isinstance(content, dict) and content.get(_OWN_DIGEST) is not None:
        told = content.pop(_OWN_DIGEST)
        if told != _digest(content):
            raise ValueError("it is not what was written: edited, or damaged")
    return content


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, whole or not at all."""
    write_atomically(path, lambda part: _write_text(part, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def known_digest(path: Path) -> str:
    """Return the SHA-256 of a file, which this process reads once unless the file changes."""
    status = path.stat()
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if identity in _known_digests:
        return _known_digests[identity]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _AT_REST_NS:
        _known_digests[identity] = digest
    return digest


MARK = ".scarforge"
EVERYTHING = "*"
_HEADING = "# Written by ScarForge: what is named here is its own and is never taken for studies."


@dataclass(frozen=True)
class Mark:
    """What one folder's mark names."""

    patterns: tuple[str, ...]

    @classmethod
    def of(cls, folder: Path) -> "Mark":
        """Read the mark of a folder; a folder without one holds nothing of the program's own."""
        try:
            lines = (folder / MARK).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        except OSError:
            return cls(())
        return cls(tuple(line for line in lines if line and line != _HEADING))

    def covers(self, name: str) -> bool:
        """Tell whether what is called `name` in this folder is the program's own."""
        return name == MARK or any(fnmatchcase(name, pattern) for pattern in self.patterns)


def mark_own(folder: Path, names: Iterable[str], patterns: Iterable[str] = ()) -> None:
    """Add to a folder's mark, before they are written, what the program is about to write there.

    Args:
        folder: Is made where it is missing.
        names: Of files and folders.
        patterns: Of names, such as `mlflow.db*`.
    """
    known = Mark.of(folder).patterns
    new = [line for line in (*map(glob.escape, names), *patterns) if line not in known]
    if not new:
        return
    folder.mkdir(parents=True, exist_ok=True)
    lines = new if known else [_HEADING, *new]
    try:
        with (folder / MARK).open("a", encoding="utf-8", errors="surrogateescape") as file:
            file.write("".join(f"{line}\n" for line in lines))
    except OSError as error:
        error.filename = error.filename or str(folder / MARK)  # a full disk tells it when the text is flushed, unnamed
        raise


def without_own(paths: Iterable[Path]) -> Iterator[Path]:
    """Return the paths that are not the program's own, in their order."""
    marks: dict[Path, Mark] = {}
    for path in paths:
        if path.parent not in marks:
            marks[path.parent] = Mark.of(path.parent)
        if not marks[path.parent].covers(path.name):
            yield path


def foreign_files(root: Path) -> Iterator[Path]:
    """Return every file below a folder but the program's own, through links to folders unless they lead back up."""
    for place, folders, names in os.walk(root, followlinks=True):
        mark, here = Mark.of(Path(place)), Path(place).resolve()
        folders[:] = [
            name for name in folders if not mark.covers(name) and not here.is_relative_to((here / name).resolve())
        ]
        files = (Path(place, name) for name in names if not mark.covers(name))
        yield from (path for path in files if path.is_file())


def fetch(given: str, place: Path, most_bytes: int) -> str:
    """Copy a file, or what an address of http or https gives, showing how far it is; return its SHA-256.

    Raises:
        InputError: It cannot be read, or is larger than `most_bytes`.
    """
    digest, size = hashlib.sha256(), 0
    with closing(_opened(given)) as source, place.open("wb") as file:
        announced = getattr(source, "length", None) or 0  # what a server says
        count = (announced + _CHUNK - 1) // _CHUNK or None
        for chunk in track(_chunks(given, source), f"fetching {Path(given).name}, MB", count):
            size += len(chunk)
            if max(size, announced) > most_bytes:
                raise InputError(f"{given}: is larger than {most_bytes / 1e6:.0f} MB, which nothing like it is")
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def _opened(given: str) -> IO[bytes]:
    try:
        if urlsplit(given).scheme in ("https", "http"):
            from urllib.request import urlopen

            opened: IO[bytes] = urlopen(given, timeout=_TIMEOUT_S)  # noqa: S310 # the schemes are those above
            return opened
        if not Path(given).is_file():
            raise InputError(f"{given}: there is no such file; give one that is there, or an https:// address")
        return Path(given).open("rb")
    except (OSError, HTTPException, ValueError) as error:
        raise InputError(
            f"{given}: cannot be read ({one_line(error)}); check the address or the permissions"
        ) from error


def _chunks(given: str, source: IO[bytes]) -> Iterator[bytes]:
    try:
        while chunk := source.read(_CHUNK):
            yield chunk
    except (OSError, HTTPException) as error:
        raise InputError(f"{given}: ended too early ({error}); add it again") from error
