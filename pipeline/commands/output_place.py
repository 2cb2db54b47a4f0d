"""Where a command writes, checked before its work: hours are not spent on what cannot be saved."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from common.errors import InputError

HOME = "SCARFORGE_HOME"  # the workspace, in messages


def check_folder(path: Path, option: str = "--output") -> None:
    """Raise `InputError` unless `path` is a folder that can be written in, or can be made. Nothing is left behind.

    Args:
        path: The folder; its parents need not exist.
        option: How the user gave it, for the message.
    """
    if os.path.lexists(path) and not path.is_dir():
        raise InputError(f"{option} {path}: is {_what(path)}, not a folder; give a folder")
    _check_writable(path, option)


def check_file(path: Path, option: str) -> None:
    """Raise `InputError` unless `path` is a file that can be written, in a folder that exists.

    Args:
        path: The file, there or not.
        option: How the user gave it, for the message.
    """
    if path.is_dir():
        raise InputError(f"{option} {path}: is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise InputError(f"{option} {path}: there is no folder {path.parent}; make it, or give another place")
    _check_writable(path.parent, option)
    if path.exists() and not os.access(path, os.W_OK):
        raise InputError(f"{option} {path}: cannot be written (Permission denied); give another place")


def _check_writable(folder: Path, option: str) -> None:
    """Make and remove a file in the nearest folder that exists: permissions alone do not tell of what is read-only."""
    try:
        place = next(each for each in (folder, *folder.absolute().parents) if os.path.lexists(each))
        if not place.is_dir():
            raise InputError(f"{option} {folder}: {place} is {_what(place)}, not a folder; give another place")
        with tempfile.TemporaryFile(dir=place), suppress(FileNotFoundError):
            folder.lstat()  # fails where the name is too long
    except OSError as error:
        raise InputError(
            f"{option} {folder}: cannot be written ({error.strerror}); correct its permissions, or give another place"
        ) from error


def _what(path: Path) -> str:
    return "a file" if path.exists() else "a link that leads nowhere"
