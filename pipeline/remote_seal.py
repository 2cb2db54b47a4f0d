"""A record as it lies on object storage: what a folder there has to hold before it is taken for a result."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pipeline.record import file_digest


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
        except (ValueError, KeyError, TypeError, AttributeError):
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
