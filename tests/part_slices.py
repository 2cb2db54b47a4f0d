"""Slices of a part of a fold, written down by hand."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from imaging.slices.part import PartSlices


def part_slices(
    images: NDArray[np.floating], masks: NDArray[np.uint8], case_ids: Sequence[str] | None = None, slice_index=None
) -> PartSlices:
    """Return slices of these patients (of one where none is named), numbered in order, without frames."""
    names = ["P0"] * len(masks) if case_ids is None else list(case_ids)
    index = np.arange(len(names)) if slice_index is None else slice_index
    return PartSlices(pd.DataFrame({"case_id": names, "frame": "", "slice_index": index}), masks, images)
