"""What the proof of quality says: one table, and what lies behind the copies and the variety."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gan.quality.copies import CopySearch
from gan.quality.slices import Images
from gan.quality.variety import Variety
from imaging.slices.part import PartSlices

# Measures of which pix2pix must have less than mean paint, and those of which it must have more.
_LESS, _MORE = ("frechet", "kernel", "lpips", "patches"), ("ssim", "psnr")


@dataclass(frozen=True)
class Copies:
    """What is behind the shares of copies.

    Attributes:
        search: By appearance, every synthetic slice.
        worst: The closest pairs: `row` of the synthetic store, `case_id` (whose anatomy), `donors`, `nearest_case`,
            `nearest_slice`, `distance`, `ratio`, `feature_distance`, `copied`.
        drawn: (K, H, W) the slices of `worst`.
        found: (K, H, W) the training slices they are nearest to.
    """

    search: CopySearch
    worst: pd.DataFrame
    drawn: PartSlices
    found: PartSlices


@dataclass(frozen=True)
class Beside:
    """Hearts beside themselves: as they are, with what was painted into them, and where (K, H, W)."""

    originals: Images
    drawn: Images
    holes: NDArray[np.uint8]


@dataclass(frozen=True)
class QualityReport:
    """All figures in one table, with what a page shows beside them.

    Attributes:
        table: `measure`, `region` (`whole`, `ventricle`), `subject`, `value`, `low`, `high` (95 %, from random halves
            of the patients, see `gan.quality.table`), `std` (its standard error), `images` (how many; pairs for
            `variety`), `reference_images` (on the other side of a distance), `features` (name of the extractor or
            ""). Measures: `frechet`, `kernel`, `inception_score`, `ssim`, `psnr`, `lpips`, `patches`,
            `adherence/<tissue>`, `utility/<tissue>`, `variety`, `variety_ratio`, `copies/near`, `copies/copied`,
            `auc` (of the two-sample classifier), `refused/<reason>` (share of draws).
            Subjects: `pix2pix` (validation slices drawn again) and `mean_paint` (the yardstick on the same slices),
            both against the validation slices; `synthetic` (the store against training slices); `real` (training
            against validation slices); `real_patients` (one half of the training patients against the other);
            `training` (adherence on real training slices); `same_mask` (variety of drawings from one mask); `ratio`
            (utility: synthetic over real).
        copies: What is behind `copies/*`.
        variety: What is behind `variety`.
        gallery: Images (K, H, W) of the same validation slices, by name: real, drawn, painted.
        counts: How many slices and patients each set holds.
        beside: Repainted hearts beside their originals; None where ventricles were redrawn.
        all_patients: Whether copies were searched among all patients, not those of training alone.
    """

    table: pd.DataFrame
    copies: Copies
    variety: Variety
    gallery: Mapping[str, Images]
    counts: pd.DataFrame
    beside: Beside | None = None
    all_patients: bool = False

    @property
    def redrawn(self) -> bool:
        """Whether a generator was at hand that drew validation slices again."""
        return bool((self.table["subject"] == "pix2pix").any())

    def rows(self, measure: str, region: str, subject: str) -> pd.DataFrame:
        """Return the rows of one figure, one for each extractor, the deciding one first."""
        wanted = pd.Series({"measure": measure, "region": region, "subject": subject})
        return self.table[(self.table[wanted.index] == wanted).all(axis=1)]

    def value(self, measure: str, region: str, subject: str) -> float:
        """Return one figure, of the deciding extractor; KeyError if the table does not hold it."""
        rows = self.rows(measure, region, subject)
        if rows.empty:
            raise KeyError((measure, region, subject))
        return float(rows["value"].iloc[0])

    def yardsticks(self) -> pd.DataFrame:
        """Return each measure beside mean paint's.

        Columns `measure`, `region`, `features`, `pix2pix`, `mean_paint`, `better`.
        """
        keys = ["measure", "region", "features"]
        compared = self.table[self.table["measure"].isin([*_LESS, *_MORE])]
        wide = compared.pivot_table(index=keys, columns="subject", values="value", sort=False).reset_index()
        wide = wide[[*keys, "pix2pix", "mean_paint"]].rename_axis(columns=None)
        sign = wide["measure"].map(dict.fromkeys(_LESS, -1) | dict.fromkeys(_MORE, 1))
        return wide.assign(better=sign * (wide["pix2pix"] - wide["mean_paint"]) > 0)
