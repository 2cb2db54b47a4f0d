"""Finding a source's files safely: none is read that lies outside the given folder, none is passed over unsaid.

A digest of everything a source holds, so that changed data is read again and unchanged data is not.
"""

import codecs
import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from common import own_files
from common.errors import InputError
from common.own_files import without_own

if TYPE_CHECKING:
    from imaging.phantom import PhantomConfig

_NIFTI = re.compile(r"(?P<stem>.+)\.nii(\.gz)?", re.IGNORECASE | re.DOTALL)


def source_folder(root: Path, what: str, holds: str) -> Path:
    """Return `root`, its own links followed.

    Args:
        root: The folder a user gave.
        what: Name of the format, for the message.
        holds: What the folder should hold, for the message.

    Raises:
        InputError: It is no folder.
    """
    if not root.is_dir():
        raise InputError(f"{what} folder {root} does not exist; give the folder that holds {holds}")
    return root.resolve()


def find_file(root: Path, *candidates: Path) -> Path:
    """Return the first candidate that is a file inside `root`.

    Raises:
        InputError: None is a file, or it is a link to somewhere outside `root`.
    """
    for path in candidates:
        if path.is_file():
            return inside(root, path)
        if path.is_dir():
            raise InputError(
                f"{path} is missing: a folder is called so; put the file in its place, or rename the folder"
            )
    raise InputError(
        f"{candidates[0]} is missing; add the file, or remove the folder of a patient whose studies are not to be used"
    )


def inside(root: Path, path: Path) -> Path:
    """Return `path`, or raise `InputError` where it leads out of `root` by a link."""
    if not path.resolve().is_relative_to(root.resolve()):
        raise InputError(
            f"{path}: leads out of the folder {root} by a symbolic link; copy the file there, "
            "or give the folder that really holds the studies"
        )
    return path


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, in UTF-16 as Windows writes it or, as EMIDEC's, in Latin-1.

    Raises:
        InputError: It is no text.
    """
    raw = path.read_bytes()
    for encoding in _encodings(raw[:2]):
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise InputError(f"{path}: is no text in UTF-8, UTF-16 or Latin-1; save it as UTF-8")


def _encodings(start: bytes) -> tuple[str, ...]:
    if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return ("utf-16",)
    if start[1:] == b"\0":
        return ("utf-16-le",)
    return ("utf-16-be",) if start[:1] == b"\0" else ("utf-8-sig", "latin-1")


def composed(name: str) -> str:
    """Return a name with its accents composed (NFC): some systems write them as letters of their own (NFD)."""
    return unicodedata.normalize("NFC", name)


def nifti_stem(path: Path) -> str | None:
    """Return a name without `.nii` or `.nii.gz` in any case; None of other files and of hidden ones.

    macOS leaves a hidden file beside each file.
    """
    match = _NIFTI.fullmatch(composed(path.name))
    return match["stem"] if match and not path.name.startswith(".") else None


def listed(folder: Path, own: bool = False) -> list[Path]:
    """Return what a folder holds without hidden files, in the order of names; nothing where there is no folder.

    Args:
        folder: The folder.
        own: Also what this program wrote there, such as the label maps of `scarforge predict`.

    Raises:
        InputError: It cannot be listed.
    """
    try:
        paths = list(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror}); correct its permissions") from error
    return sorted(path for path in (paths if own else without_own(paths)) if path.name[0] != ".")


def files_below(folder: Path, refuse: bool = True, within: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yield what lies in a folder and its folders, in the order of names; a folder called like a NIfTI file, too.

    Args:
        folder: Where to begin.
        refuse: Whether a folder that cannot be listed is refused, or passed over.
        within: The folders above, which a link may lead back to.

    Raises:
        InputError: A folder cannot be listed.
    """
    try:
        paths = listed(folder)
    except InputError:
        if refuse:
            raise
        return
    for path in paths:
        own = path.resolve()
        if not path.is_dir() or nifti_stem(path) is not None:
            yield path
        elif own not in within:
            yield from files_below(path, refuse, (*within, own))


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
    for path in sorted(own_files.files_below(root)):
        digest.update(os.fsencode(path.relative_to(root)) + b"\0")
        digest.update(_content_digest(path))
    return digest.hexdigest()


def _content_digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return b"unreadable"
