"""Files that are either whole or absent: written beside, flushed, then renamed.

A file of one piece that is whole or absent: written beside its place, then renamed.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from common.errors import InputError

# A file system's clock ticks every few ms: a file may change twice within a tick and keep its time.
_AT_REST_NS = 2_000_000_000
_known_digests: dict[tuple[int, ...], str] = {}
CHECKPOINT = "checkpoint"  # the folder, in that of a model, of what its training needs to be continued


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary neighbour of `path`, flush it to disk and rename it to `path`.

    Raises:
        InputError: The disk is full, or the place cannot be written; what stood at `path` stands there still.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError, RuntimeError) as error:
        fault = _fault_of_writing(error)
        if fault is None:
            raise
        remedy = "correct the permissions" if isinstance(error, PermissionError) else "free disk space"
        raise InputError(f"{path}: cannot be written ({fault}); {remedy}. What was there before is kept") from error
    finally:
        temporary.unlink(missing_ok=True)


def _fault_of_writing(error: Exception) -> str | None:
    """Return the system's own words, None for an error that is not about writing."""
    cause = error.__context__ if isinstance(error, RuntimeError) else error  # torch.save hides the file's own error
    if isinstance(cause, OSError):
        return cause.strerror or str(cause)
    return str(error) if isinstance(error, SafetensorError) else None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping as indented JSON, whole or not at all."""
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    write_atomically(path, lambda part: _write_text(part, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


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


@contextmanager
def written_aside(path: Path, suffix: str = "") -> Iterator[Path]:
    """Give the place of a temporary neighbour of `path`, which takes its place unless an error is raised.

    Args:
        path: The file; its folder is made.
        suffix: Ends the temporary name, for a writer that goes by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial{suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
