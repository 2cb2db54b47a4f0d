"""What EMIDEC and ACDC tell about a patient beside the images, as names and values in the source's own words."""

import csv
import re
from collections.abc import Mapping
from pathlib import Path

from imaging.errors import InputError


def clinical_name(words: str) -> str:
    """Return a field's name in lower case with underscores: `ECG (ST +)` becomes `ecg_st`."""
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")


def read_clinical_text(path: Path) -> dict[str, str]:
    """Read lines of `name : value`, as EMIDEC's `Case P001.txt` and ACDC's `Info.cfg` hold them.

    The encoding is UTF-8 or, as EMIDEC's, Latin-1. Lines without a colon are passed over.
    """
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    values = {clinical_name(name): value.strip() for name, value in pairs}
    return {name: value for name, value in values.items() if name and value}


def read_clinical_table(path: Path) -> Mapping[str, dict[str, str]]:
    """Read a CSV with one row a patient, by its column `case_id`; `Case P001` and `Case_P001` are one patient.

    Raises:
        InputError: The file is unreadable or has no column `case_id`.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable CSV ({error}); save it as UTF-8, or remove it") from error
    if not rows:
        return {}
    if "case_id" not in rows[0]:
        raise InputError(f"{path}: has no column 'case_id' but {list(rows[0])}; name the column of patients so")
    return {row["case_id"].replace(" ", "_"): _named(row) for row in rows if row["case_id"]}


def _named(row: Mapping[str | None, str | list[str] | None]) -> dict[str, str]:
    cells = {name: value for name, value in row.items() if name and name != "case_id" and isinstance(value, str)}
    return {clinical_name(str(name)): value.strip() for name, value in cells.items() if value and value.strip()}
