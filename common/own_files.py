"""The mark beside what this program writes, so that no walk over a folder of studies takes it for one.

The mark is a file called `.scarforge`. Each of its lines names something beside it, as a pattern of `fnmatch`; a folder
that is named is the program's own with all it holds. What the mark does not name is anybody's.
"""

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

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


def files_below(root: Path) -> Iterator[Path]:
    """Return every file below a folder but the program's own, through links to folders unless they lead back up."""
    for place, folders, names in os.walk(root, followlinks=True):
        mark, here = Mark.of(Path(place)), Path(place).resolve()
        folders[:] = [
            name for name in folders if not mark.covers(name) and not here.is_relative_to((here / name).resolve())
        ]
        files = (Path(place, name) for name in names if not mark.covers(name))
        yield from (path for path in files if path.is_file())
