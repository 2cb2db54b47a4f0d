"""Opening what is finished: a file is handed out only while it is the one that its folder's record names.

Every reader of a finished folder comes through here. Files that the record does not name are not looked at.

An asset depends on its nearest inputs; what it reads from further up has to be what they were made of.
"""

from collections.abc import Callable, Mapping
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


class Inputs:
    """What one result may be made of: its nearest inputs, and all that stands behind them as their records tell.

    Args:
        reader: The asset that reads, for messages.
        nearest: Records of its nearest inputs, by place in the workspace (`real_slices/fold_0`).
        present: Gives the record of what lies in a place, None where nothing lies there.

    Attributes:
        known: Data version of each place that may be read.
        behind: The same of those that were read, and of all that stands behind these.
    """

    def __init__(self, reader: str, nearest: Mapping[str, Record], present: Callable[[str], Record | None]) -> None:
        self.reader, self._nearest = reader, nearest
        self.known = {place: version for record in nearest.values() for place, version in record.behind.items()}
        self.known |= {place: record.data_version for place, record in nearest.items()}
        self.behind: dict[str, str] = {}
        lying = {place: present(place) for place in self.known}
        self._lying = {place: record for place, record in lying.items() if record is not None}

    def outdated(self) -> tuple[str, str] | None:
        """Return the first place, from the studies on, that was made of another content than lies there, and of which.

        What does not lie in this workspace is compared when it is read.
        """
        for place, record in sorted(self._lying.items(), key=lambda item: len(item[1].behind)):
            for source, version in record.behind.items():
                if source in self._lying and self._lying[source].data_version != version:
                    return place, source
        return self._at_odds()

    def require_current(self) -> None:
        """Compare what lies there with what the inputs record.

        Raises:
            InputError: An input was made of another content than lies there; the message names what to make again.
        """
        if found := self.outdated():
            raise self._refusal(*found)

    def note(self, place: str, record: Record) -> None:
        """Note that a place is read.

        Raises:
            InputError: It holds another content than the nearest inputs were made of.
        """
        assert place in self.known, f"{self.reader} reads {place}, which stands behind none of its dependencies"
        if record.data_version != self.known[place]:
            makers = [name for name, nearest in self._nearest.items() if place in nearest.behind]
            raise self._refusal(makers[0] if makers else place, place)
        self.behind |= {**record.behind, place: record.data_version}

    def _at_odds(self) -> tuple[str, str] | None:
        """Return the nearest input that was made of another content of some place than another one."""
        for name, record in self._nearest.items():
            for source, version in record.behind.items():
                if self.known[source] != version:
                    return name, source
        return None

    def _refusal(self, place: str, source: str) -> InputError:
        made, of = _asset(place), _asset(source)
        return InputError(
            f"{self.reader}: {made} was made of another {of} than lies there; rematerialise the asset {made!r} and "
            "what follows from it"
        )


def _asset(place: str) -> str:
    return place.partition("/")[0]


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
