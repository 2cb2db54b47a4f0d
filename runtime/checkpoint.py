"""Checkpoints of a training: written aside and renamed, read back with `weights_only=True`.

Each knows the configuration and the data that it belongs to; a training of others does not continue it. The last one
stays when the training is over: it goes when everything that is made of the model is sealed with it.
"""

import errno
import hashlib
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from common.config import FrozenConfig
from common.errors import InputError
from common.files import CHECKPOINT, write_atomically
from common.processes import signals_wait

_FILE = "last.pt"
_FORMAT = 2  # raised when a training's state holds other parts


# What PyTorch raises for files that are cut off, corrupt, or something else altogether.
_UNREADABLE = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError, MemoryError),
    *(RuntimeError, TypeError, UnpicklingError, ValueError),
)
Origin = Mapping[str, str | int]
"""What a training is made of besides its configuration: the seed, digests of its data."""


def save_checkpoint(folder: Path, config: FrozenConfig, origin: Origin, state: dict[str, Any]) -> None:
    """Save `state` (tensors, numbers, strings, lists, dicts) with the configuration and origin it belongs to."""
    content = {"format": _FORMAT, "config": config.model_dump(mode="json"), "origin": dict(origin), "state": state}
    write_atomically(folder / _FILE, lambda part: _save(part, content))


def checkpoint_step(folder: Path) -> int | None:
    """Return the step that the checkpoint in `folder` was saved after, None where there is none."""
    path = folder / _FILE
    if not path.exists():
        return None
    return int(_read(path, mmap=True)["state"]["step"])


def delete_checkpoint(model: Path) -> None:
    """Delete the checkpoint of a model folder in which nothing remains to be done."""
    shutil.rmtree(model / CHECKPOINT, ignore_errors=True)


def _save(path: Path, content: dict[str, Any]) -> None:
    with path.open("wb") as file, signals_wait():  # a path would let PyTorch hide that the disk is full
        torch.save(content, file)


def _whole(path: Path) -> Path:
    """Return the path of a checkpoint whose parts fit their checksums, which PyTorch writes and never reads."""
    try:
        with ZipFile(path) as parts:
            packed = any(part.compress_type != ZIP_STORED for part in parts.infolist())  # PyTorch packs none
            damaged = packed or parts.testzip() is not None
    except (BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise _damaged(path) from error
    if damaged:
        raise _damaged(path)
    return path


def _damaged(path: Path) -> InputError:
    return InputError(f"{path}: is damaged or no checkpoint; delete {path.parent} to start again")


def _read(path: Path, mmap: bool = False) -> dict[str, Any]:
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        int(content["state"]["step"])
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place in the file that cannot be; the disk's own faults pass
            raise
        raise _damaged(path) from error
    except _UNREADABLE as error:
        raise _damaged(path) from error
    if content.get("format") != _FORMAT:
        raise InputError(f"{path}: was written by another version; delete {path.parent} to start again")
    return content


def load_checkpoint(folder: Path, config: FrozenConfig, origin: Origin) -> dict[str, Any] | None:
    """Return the saved state, or None where there is none.

    Raises:
        InputError: The checkpoint is damaged, or of another version, configuration or
            origin; the message names the keys that differ.
    """
    path = folder / _FILE
    if not path.exists():
        return None
    content = _read(_whole(path))
    differing = _differences(content["config"], config.model_dump(mode="json"))
    if differing:
        raise InputError(
            f"{path}: was made with another configuration ({'; '.join(differing)}); "
            f"restore those values or delete {folder} to start again"
        )
    others = _differences(content["origin"], dict(origin))
    if others:
        raise InputError(
            f"{path}: belongs to another training ({'; '.join(others)}); "
            f"train on the same data with the same seed, or delete {folder} to start again"
        )
    state: dict[str, Any] = content["state"]
    return state


def digest_of(*arrays: NDArray[Any]) -> str:
    """Return a SHA-256 of the types, shapes and contents of some arrays of numbers or text."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}: {_shown(old, key)} then, {_shown(new, key)} now")
    return found


def _shown(values: dict[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "absent"
