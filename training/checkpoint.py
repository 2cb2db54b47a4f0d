"""Checkpoints of an unfinished training: written aside and renamed, read back with `weights_only=True`."""

from pathlib import Path
from typing import Any

import torch

from imaging.config import FrozenConfig
from imaging.errors import InputError
from training.files import write_atomically

_FILE = "last.pt"


def save_checkpoint(folder: Path, config: FrozenConfig, state: dict[str, Any]) -> None:
    """Save `state` (tensors, numbers, strings, lists, dicts) with the configuration it belongs to."""
    content = {"config": config.model_dump(mode="json"), "state": state}
    write_atomically(folder / _FILE, lambda part: torch.save(content, part))


def load_checkpoint(folder: Path, config: FrozenConfig) -> dict[str, Any] | None:
    """Return the saved state, or None where there is none.

    Raises:
        InputError: The checkpoint was made with another configuration; the message names the keys that differ.
    """
    path = folder / _FILE
    if not path.exists():
        return None
    content = torch.load(path, map_location="cpu", weights_only=True)
    differing = _differences(content["config"], config.model_dump(mode="json"))
    if differing:
        raise InputError(
            f"{path}: was made with another configuration ({'; '.join(differing)}); "
            f"restore those values or delete {folder} to start again"
        )
    state: dict[str, Any] = content["state"]
    return state


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}: {before!r} then, {after!r} now")
    return found
