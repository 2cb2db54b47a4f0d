"""Files that look like images by their endings and are not read: each is named, so that none is passed over in silence.

Sources name them on the dataset card, a folder of studies or of label maps in the terminal.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

from common.errors import escaped, some_of
from imaging.sources.files import files_below, nifti_stem
from imaging.studies.study import RejectedStudy

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
