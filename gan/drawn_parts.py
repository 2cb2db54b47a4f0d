"""What has been drawn of a store so far, kept beside it, so that a killed generation does not draw it again.

What does not live here: the store itself. A slice store is written in one go and is whole or not there.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.files import write_atomically, write_json

_IDENTITY = "drawn_from.json"


class DrawnParts:
    """Batches of drawn images, one file each, that belong to one generation.

    Args:
        store: The store that they will be put into; the folder lies beside it.
        identity: Everything that decides the images. Parts of another identity are deleted.
    """

    def __init__(self, store: Path, identity: Mapping[str, Any]) -> None:
        self.folder = store.with_name(f".{store.name}.parts")
        if self._identity() != identity:
            self.discard()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / _IDENTITY, identity)

    def __contains__(self, start: int) -> bool:
        return self._file(start).exists()

    def write(self, start: int, images: NDArray[np.floating]) -> None:
        """Keep the images (N, H, W) in [0, 1] that begin at position `start`, as float16, as the store does."""
        write_atomically(self._file(start), lambda part: _save(part, images.astype(np.float16)))

    def read(self, start: int) -> NDArray[np.float16]:
        """Return the images (N, H, W) that begin at position `start`."""
        images: NDArray[np.float16] = np.load(self._file(start))
        return images

    def discard(self) -> None:
        """Delete every part."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, start: int) -> Path:
        return self.folder / f"{start:08}.npy"

    def _identity(self) -> dict[str, Any] | None:
        try:
            content: dict[str, Any] = json.loads((self.folder / _IDENTITY).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content


def _save(path: Path, images: NDArray[np.float16]) -> None:
    with path.open("wb") as file:  # np.save would add a suffix to the name
        np.save(file, images)
