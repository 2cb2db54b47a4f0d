"""Files that look like images and are not read: each is named, so that none is passed over in silence."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from common.errors import escaped, some_of

_VOLUMES = (
    *(".nii", ".nii.gz", ".hdr", ".img", ".img.gz", ".hdr.gz"),
    *(".mha", ".mhd", ".nrrd", ".nhdr", ".mgh", ".mgz", ".mnc", ".gipl", ".gipl.gz", ".par", ".rec"),
    *(".dcm", ".ima"),
)
_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp")


def is_volume(path: Path) -> bool:
    """Whether a file is called as volumes are."""
    return path.name.lower().endswith(_VOLUMES)


def images_below(roots: Iterable[Path], pictures: bool = True) -> Iterator[Path]:
    """Yield the files below folders that are called as volumes or pictures are, without hidden ones, in order."""
    endings = _VOLUMES + _PICTURES if pictures else _VOLUMES
    for root in roots:
        for place, folders, names in os.walk(root):
            folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
            yield from (
                Path(place, name)
                for name in sorted(names)
                if name.lower().endswith(endings) and not name.startswith(".")
            )


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


def not_among(read: Collection[Path]) -> Callable[[Path], bool]:
    """Return what tells whether a path is none of those that were read, links followed."""
    known = {path.resolve() for path in read}
    return lambda path: path.resolve() not in known
