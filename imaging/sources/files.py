"""Finding a source's files safely: none is read that lies outside the given folder, none is passed over unsaid.

A digest of everything a source holds, so that changed data is read again and unchanged data is not.

Files that look like images by their endings and are not read are each named: sources name them on the dataset card, a
folder of studies or of label maps in the terminal.
"""

import codecs
import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import InputError, escaped, some_of
from common.files import foreign_files, without_own
from imaging.studies.study import RejectedStudy

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
    for path in sorted(foreign_files(root)):
        digest.update(os.fsencode(path.relative_to(root)) + b"\0")
        digest.update(_content_digest(path))
    return digest.hexdigest()


def _content_digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return b"unreadable"


_HALVES, _HALF = (".hdr", ".img", ".hdr.gz", ".img.gz"), "half of a pair and not read"
_VOLUMES = (
    *(".nii", ".nii.gz", *_HALVES),
    *(".mha", ".mhd", ".nrrd", ".nhdr", ".mgh", ".mgz", ".mnc", ".gipl", ".gipl.gz", ".par", ".rec"),
    *(".dcm", ".ima"),
)
_PICTURES = (".png", ".jpg", ".jpeg", ".jp2", ".tif", ".tiff", ".bmp", ".gif", ".webp")
_ARRAYS = (".mat", ".npy", ".npz")
_MOST_ALONE = 5  # unread files of one kind that are named one by one


def is_volume(path: Path) -> bool:
    """Whether a file is called as volumes are."""
    return _ending(path, _VOLUMES) is not None


def images_below(roots: Iterable[Path], pictures: bool = True) -> Iterator[Path]:
    """Yield the files below folders that are called as volumes are, without hidden ones, in order.

    Args:
        roots: The folders.
        pictures: Also those called as pictures and arrays.
    """
    endings = (*_VOLUMES, *_PICTURES, *_ARRAYS) if pictures else _VOLUMES
    for root in roots:
        for place, folders, names in os.walk(root):
            folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
            paths = (Path(place, name) for name in sorted(names) if not name.startswith("."))
            yield from (path for path in paths if _ending(path, endings))


def unread_lines(unread: Iterable[Path], remedy: str) -> list[str]:
    """Return one line for each folder of unread files, which names the first of them.

    Args:
        unread: Files that look like images.
        remedy: What to do with them.
    """
    by_folder: dict[Path, list[str]] = {}
    for path in unread:
        by_folder.setdefault(path.parent, []).append(path.name)
    lines = (
        f"{folder / names[0]}: looks like an image and is not read; {remedy}"
        if len(names) == 1
        else f"{folder}: {len(names)} files look like images and are not read: {some_of(names)}; {remedy}"
        for folder, names in by_folder.items()
    )
    return [escaped(line) for line in lines]


def unread_studies(root: Path, folders: Sequence[Path], read: Collection[Path], how: str) -> Iterator[RejectedStudy]:
    """Yield what a source holds that looks like an image and is not read.

    Folders that cannot be listed are the reader's to name.

    Args:
        root: The source.
        folders: Where its studies lie. Many files of one kind are named together, for each of these and the others.
        read: The files that are read, or rejected by name.
        how: What to do with a file, for the message, such as `save it as PNG`.
    """
    kinds: dict[tuple[Path, str], list[Path]] = {}
    for path in files_below(root, refuse=False):
        ending = _ending(path, (*_VOLUMES, *_PICTURES, *_ARRAYS))
        if ending and path not in read:
            place = next((folder for folder in folders if path.is_relative_to(folder)), root)
            kinds.setdefault((place, ending), []).append(path)
    for (place, ending), paths in kinds.items():
        what, remedy = (_HALF, "save the pair as one .nii.gz") if ending in _HALVES else ("not read", how)
        if len(paths) <= _MOST_ALONE:
            reasons = ((path, f"{path}: is {what}; {remedy}, or move it away") for path in paths)
            yield from (RejectedStudy(_stem(path), str(path), reason) for path, reason in reasons)
            continue
        names = some_of(path.name for path in paths)
        reason = f"{place}: {len(paths)} files {ending} ({names}) are {what}; {remedy}, or move them away"
        yield RejectedStudy(some_of(map(_stem, paths)), str(place), reason)


def not_among(read: Collection[Path]) -> Callable[[Path], bool]:
    """Return what tells whether a path is none of those that were read, links followed."""
    known = {path.resolve() for path in read}
    return lambda path: path.resolve() not in known


def _ending(path: Path, endings: Iterable[str]) -> str | None:
    """Return the longest ending of a name, in small letters, that is among some; None where it has none of them."""
    name = path.name.lower()
    found = [ending for ending in endings if name.endswith(ending) and name != ending]
    return max(found, key=len, default=None)


def _stem(path: Path) -> str:
    return nifti_stem(path) or path.stem
