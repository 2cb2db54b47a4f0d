"""Which patients each slice of a folder was made from, as its `donors.csv` tells: no outside generator can be asked.

One line a slice: `slice,donors` and perhaps `recipient`. Donors are joined by `;` or are `unknown`; the recipient is
the patient in whose heart a lesion was painted. `*` stands for all slices without a line, such as those of a network
that was trained on some patients.
"""

import csv
import difflib
import io
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import InputError, some_of
from imaging.sources.files import composed, nifti_stem, read_text

DONORS = "donors.csv"
_EVERY_SLICE = "*"
_UNTOLD = ("", "unknown")
_ENDINGS = (".png", ".tif", ".tiff")


@dataclass(frozen=True)
class Donors:
    """Which patients each slice was made from.

    Attributes:
        named: Recipient and donors of each slice that is named.
        others: The same of all others.
    """

    named: Mapping[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    others: tuple[str, tuple[str, ...]] = ("", ())

    def of(self, name: str) -> tuple[str, tuple[str, ...]]:
        """Return the patient whose heart a slice shows, empty where nobody says, and all donors, none if unknown."""
        return self.named.get(name, self.others)


def read_donors(path: Path, slices: Collection[str], patients: Collection[str] | None = None) -> Donors:
    """Read `donors.csv`: `slice`, `donors` (joined by `;`) and perhaps `recipient`; `*` stands for all other slices.

    Args:
        path: The file, which may be missing.
        slices: Names of the slices there are.
        patients: Of the source; None where they are not known yet.

    Raises:
        InputError: A column is missing, or a line names a slice that is not there or there twice, or an unknown
            patient.
    """
    if not path.is_file():
        return Donors()
    table = list(csv.reader(io.StringIO(read_text(path), newline="")))
    columns = [name.strip().lower() for name in table[0]] if table else []
    if "slice" not in columns or "donors" not in columns:
        raise InputError(f"{path}: has the columns {some_of(columns)}; write slice,donors and perhaps recipient")
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for number, cells in enumerate(table[1:], start=2):
        line = dict(zip(columns, (cell.strip() for cell in cells), strict=False))
        if not any(line.values()):
            continue
        name = _slice_name(line["slice"])
        where = f"{path}, line {number}"
        if name in found:
            raise InputError(f"{where}: names slice {name!r} a second time; keep one line for each slice")
        if name != _EVERY_SLICE and name not in slices:
            raise InputError(f"{where}: there is no slice {name!r}{_likely(name, slices)}; correct the name")
        found[name] = _told(where, line, patients)
    others = found.pop(_EVERY_SLICE, ("", ()))
    return Donors(found, others)


def _slice_name(cell: str) -> str:
    """Return a slice's name from what people write: with or without `images/` and an ending."""
    name = composed(cell).removeprefix("images/")
    path = Path(name)
    stem = nifti_stem(path) or (path.stem if path.suffix.lower() in _ENDINGS else path.name)
    return (path.parent / stem).as_posix()


def _told(where: str, line: Mapping[str, str], patients: Collection[str] | None) -> tuple[str, tuple[str, ...]]:
    recipient = line.get("recipient", "")
    cells = [cell.strip() for cell in line.get("donors", "").split(";")]
    donors = [cell for cell in cells if cell.lower() not in _UNTOLD]
    if len(donors) < len(cells):  # one that is unknown makes all of them so
        donors = []
    elif recipient:
        donors.append(recipient)
    for patient in (*donors, *filter(None, [recipient])):
        if patients is not None and patient not in patients:
            raise InputError(
                f"{where}: {patient!r} is none of the source's {len(patients)} patients{_likely(patient, patients)}; "
                "write patients as studies.csv names them, or unknown"
            )
    return recipient, tuple(sorted(set(donors)))


def _likely(wrong: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(wrong, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
