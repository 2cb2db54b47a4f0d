"""Opening what is finished: a file is handed out only while it is the one that its folder's record names.

Every reader of a finished folder comes through here. Files that the record does not name are not looked at.
"""

from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError
from common.files import known_digest
from engine.record import RECORD, Record, read_record

_OF_A_MODEL = ("config.json", "model_card.json")


@dataclass(frozen=True)
class Finished:
    """A finished folder and its record."""

    folder: Path
    record: Record

    @classmethod
    def open(cls, folder: Path, asset: str) -> "Finished":
        """Open the folder of an asset.

        Raises:
            InputError: It is not finished, or its record cannot be read.
        """
        return cls(folder, read_record(folder, asset))

    def holds(self, name: str) -> bool:
        """Tell whether the asset wrote a file of this name."""
        return name in self.record.files

    def file(self, name: str) -> Path:
        """Return a file after comparing it with the record; in one process, an untouched file is read once.

        Raises:
            InputError: The asset wrote no such file, or it is missing or another one; the message names the asset.
        """
        path, recorded = self.folder / name, self.record.files.get(name)
        if recorded is None:
            raise self._refusal(path, "is none of the files it wrote")
        if not path.is_file():
            raise self._refusal(path, "is missing")
        if known_digest(path) != recorded:
            raise self._refusal(path, "is not the file it wrote: edited, cut short or exchanged")
        return path

    def model(self) -> Path:
        """Return a model folder after comparing weights, configuration and card with the record.

        Raises:
            InputError: One of them is missing or another one.
        """
        weights = [name for name in self.record.files if "/" not in name and name.endswith(".safetensors")]
        for name in (*_OF_A_MODEL, *(weights or ["weights.safetensors"])):
            self.file(name)
        return self.folder

    def _refusal(self, path: Path, fault: str) -> InputError:
        asset = self.record.asset
        if (self.folder / RECORD).is_file() and read_record(self.folder, asset) != self.record:
            return InputError(f"{path}: was replaced while in use; start again, so that one content is used throughout")
        return InputError(f"{path}: {fault}, says the record of {asset!r}; rematerialise the asset {asset!r}")


def checked_file(path: Path) -> Path:
    """Return a file that was named by its path, compared with the record beside it where that names it.

    Raises:
        InputError: It is not the recorded one.
    """
    if not (path.parent / RECORD).is_file():
        return path
    finished = Finished.open(path.parent, path.parent.name)
    return finished.file(path.name) if finished.holds(path.name) else path


def checked_model(folder: Path) -> Path:
    """Return a model folder that was named by its path, compared with its record where one came along.

    A folder without a record is taken as it is; `read_weights` then compares the digest in its card, if there is one.

    Raises:
        InputError: A file is missing or not the recorded one.
    """
    if not (folder / RECORD).is_file():
        return folder
    return Finished.open(folder, folder.name).model()
