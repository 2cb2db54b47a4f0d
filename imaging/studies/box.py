"""A rectangle around the left ventricle, in pixels of the 1 mm grid."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from common.errors import InputError, one_line
from common.files import of_the_disk
from common.tables import read_csv


class Box(NamedTuple):
    """Edges in 1 mm pixels: pixel `i` covers [i, i + 1), so `bottom` and `right` are exclusive."""

    top: float
    left: float
    bottom: float
    right: float

    @property
    def centre(self) -> tuple[float, float]:
        """The middle as (row, column), on the same edge coordinates as the sides."""
        return (self.top + self.bottom) / 2, (self.left + self.right) / 2

    @property
    def height(self) -> float:
        """Extent along the rows."""
        return self.bottom - self.top

    @property
    def width(self) -> float:
        """Extent along the columns."""
        return self.right - self.left


def boxes_digest(boxes: Mapping[tuple[str, str], Box]) -> str:
    """Return a SHA-256 of boxes by (case_id, frame), to the last bit."""
    content = sorted([*key, *map(float.hex, map(float, box))] for key, box in boxes.items())
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def read_boxes(path: Path) -> dict[tuple[str, str], Box]:
    """Read the table of predicted boxes (`case_id, frame, top, left, bottom, right`) by case and frame.

    Raises:
        InputError: The table cannot be read.
    """
    try:
        table = read_csv(path, dtype={"case_id": str, "frame": str}, keep_default_na=False)
        return {
            (str(row["case_id"]), str(row["frame"])): Box(*(float(row[side]) for side in Box._fields))
            for row in table.to_dict("records")
        }
    except (OSError, ValueError, KeyError) as error:
        raise of_the_disk(path, error) or InputError(
            f"{path}: cannot be read ({one_line(error)}); rematerialise the asset 'lv_localiser'"
        ) from error
