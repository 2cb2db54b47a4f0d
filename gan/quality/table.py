"""One figure a row: the table of the proof of quality.

How sure a figure is: the same figure measured again on random halves of the patients.

Slices of one patient resemble each other, so patients are halved and never slices.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.seeds import random_generator

HALVES = 20
_FEWEST_PATIENTS = 4
_NORMAL_95 = 1.96
Statistic = Callable[..., float]
Cases = NDArray[np.str_]


@dataclass(frozen=True)
class Figure:
    """A figure with its standard error; NaN where there are too few patients to tell."""

    value: float
    std: float = float("nan")

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.value - _NORMAL_95 * self.std

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.value + _NORMAL_95 * self.std


def over_halves(statistic: Statistic, seed: int, *cases: Cases, mean_of_halves: bool = False) -> Figure:
    """Measure a figure and its standard error.

    The error is the deviation of the figure over random halves of the patients, the delete-half jackknife: with
    half of the units left out its scaling factor is 1 (Shao & Wu 1989). It holds for figures whose bias depends on
    the number of images, such as the Fréchet distance, whose mean over halves does not estimate the value.

    Args:
        statistic: Takes one array of rows for each set in `cases`, returns the figure.
        seed: Seed of the halves.
        *cases: The patient of each row, of each set. Sets of the same patients are halved alike.
        mean_of_halves: The value is the mean over the halves, as is usual for the kernel distance.
    """
    value = statistic(*(np.arange(len(own)) for own in cases))
    if min(len(np.unique(own)) for own in cases) < _FEWEST_PATIENTS:
        return Figure(value)
    values = np.array([statistic(*_halves(cases, seed, draw)) for draw in range(HALVES)])
    if not np.isfinite(values).all():
        return Figure(value)
    return Figure(float(values.mean()) if mean_of_halves else value, float(values.std(ddof=1)))


def between_halves(statistic: Statistic, seed: int, cases: Cases) -> Figure:
    """Return the mean and deviation of a figure between one half of the patients and the other.

    Args:
        statistic: Takes the rows of either half.
        seed: Seed of the halves.
        cases: The patient of each row; NaN is returned for fewer than four.
    """
    if len(np.unique(cases)) < _FEWEST_PATIENTS:
        return Figure(float("nan"))
    halves = [_halves([cases], seed, draw)[0] for draw in range(HALVES)]
    values = [statistic(rows, np.setdiff1d(np.arange(len(cases)), rows)) for rows in halves]
    return Figure(float(np.mean(values)), float(np.std(values, ddof=1)))


def ratio_of_sums(
    parts: NDArray[np.floating],
    wholes: NDArray[np.floating],
    finish: Callable[[float], float] = float,
    empty: float = float("nan"),
) -> Statistic:
    """Return the statistic `finish(sum of parts / sum of wholes)` over rows; `empty` where the wholes sum to 0."""

    def statistic(rows: NDArray[np.integer]) -> float:
        whole = float(wholes[rows].sum())
        return finish(float(parts[rows].sum()) / whole) if whole else empty

    return statistic


def _halves(cases: "list[Cases] | tuple[Cases, ...]", seed: int, draw: int) -> list[NDArray[np.intp]]:
    """Return the rows of half of the patients of each set, patients ranked by one lottery for all sets."""
    patients = np.unique(np.concatenate(cases))
    ticket = dict(zip(patients, random_generator(seed, "quality halves", draw).permutation(len(patients)), strict=True))
    rows = []
    for own in cases:
        ranked = sorted(set(own.tolist()), key=ticket.__getitem__)
        rows.append(np.flatnonzero(np.isin(own, ranked[: -(-len(ranked) // 2)])))
    return rows


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
_SHARES = ("adherence/", "utility/", "copies/", "refused/", "ssim", "auc")


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
