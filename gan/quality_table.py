"""One figure a row: the table of the proof of quality."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from gan.quality_interval import Figure

COLUMNS = (
    "measure",
    "region",
    "subject",
    "value",
    "low",
    "high",
    "std",
    "images",
    "reference_images",
    "features",
)


_SIGNED = ("kernel", "ssim", "psnr")  # of the others none can be negative
_SHARES = ("adherence/", "utility/", "copies/", "ssim")


@dataclass(frozen=True)
class Row:
    """One figure and what it was measured on; see `QualityReport.table`."""

    measure: str
    region: str
    subject: str
    figure: Figure
    images: int
    reference_images: int = 0
    features: str = ""

    @property
    def is_share(self) -> bool:
        """Whether the figure is a Dice or a share, and cannot be above 1; a ratio of two can."""
        return self.measure.startswith(_SHARES) and self.subject != "ratio"

    def values(self) -> tuple[object, ...]:
        """Return the row in the order of `COLUMNS`."""
        value = self.figure
        low = value.low if self.measure in _SIGNED else max(value.low, 0.0)
        high = min(value.high, 1.0) if self.is_share else value.high
        figures = (value.value, low, high, value.std)
        return (self.measure, self.region, self.subject, *figures, self.images, self.reference_images, self.features)


def as_table(rows: Sequence[Row]) -> pd.DataFrame:
    """Return rows as the report's table."""
    return pd.DataFrame([row.values() for row in rows], columns=list(COLUMNS))
