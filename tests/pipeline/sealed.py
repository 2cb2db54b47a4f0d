"""Folders that tests fill by hand, finished as an asset would finish them."""

from pathlib import Path

from common.files import write_json
from engine.outcome import Outcome
from engine.record import FORMAT, RECORD, file_digests, read_record


def seal(folder: Path, asset: str, data_version: str = "") -> Path:
    """Write the record of a folder as it lies there."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"format": FORMAT, "asset": asset, "cache_key": "", "data_version": data_version}
    content |= {"files": file_digests(folder)}
    write_json(folder / RECORD, content | {"outcome": Outcome({}).to_json(), "attempt": ""})
    return folder


def reseal(folder: Path) -> None:
    """Bring the digests of a record to what lies in its folder: another result of the same key."""
    record = read_record(folder, folder.name)
    content = {
        "format": FORMAT,
        "asset": record.asset,
        "cache_key": record.cache_key,
        "data_version": record.data_version,
    }
    content |= {"files": file_digests(folder), "outcome": record.outcome.to_json(), "attempt": record.attempt}
    write_json(folder / RECORD, content)
