"""Finding a source's files safely: none is read that lies outside the folder that was given."""

from pathlib import Path

from imaging.errors import InputError


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
