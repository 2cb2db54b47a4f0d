"""A digest of everything a source holds, so that changed data is read again and unchanged data is not."""

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import InputError
from common.own_files import files_below

if TYPE_CHECKING:
    from imaging.phantom import PhantomConfig


def source_digest(root: Path | None, phantom: "PhantomConfig") -> str:
    """Return a hash over names and contents of all files under `root`, or over the phantom's configuration.

    Links to folders are followed, as the readers follow them. Files that this program wrote, as where the workspace
    lies there, do not count: no reader takes them. A file that cannot be read counts by its name: the reader will
    reject its study with a reason.

    Raises:
        InputError: `root` is not a folder.
    """
    digest = hashlib.sha256()
    if root is None:
        digest.update(phantom.model_dump_json().encode())
        return digest.hexdigest()
    if root.is_file():  # a challenge in one file, such as LVQuan18
        digest.update(_content_digest(root))
        return digest.hexdigest()
    if not root.is_dir():
        raise InputError(f"{root}: is not a folder; give the folder that holds the studies with --root DIR")
    for path in sorted(files_below(root)):
        digest.update(os.fsencode(path.relative_to(root)) + b"\0")
        digest.update(_content_digest(path))
    return digest.hexdigest()


def _content_digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return b"unreadable"
