"""Whether a segmenter finds the tissues where the mask put them, and whether synthetic slices teach one to."""

import numpy as np
from numpy.typing import NDArray

from gan.quality.slices import Segment
from gan.quality.table import Figure, Row, over_halves, ratio_of_sums
from imaging.dice import dice_terms
from imaging.labels import LabelSet
from imaging.slices.part import PartSlices


def adherence(
    subject: str, slices: PartSlices, segment: Segment, labels: LabelSet, seed: int, measure: str = "adherence"
) -> list[Row]:
    """Return the Dice of each tissue over all slices between the mask and what a segmenter finds.

    A tissue that is absent from both has no row.
    """
    found = segment(slices.images)
    rows = []
    for value, tissue in labels.foreground:
        numerator, denominator = dice_terms(*areas(slices.masks == value, found == value))
        if denominator.any():
            figure = over_halves(ratio_of_sums(numerator, denominator, empty=1.0), seed, slices.case_ids)
            rows.append(Row(f"{measure}/{tissue}", "ventricle", subject, figure, len(slices)))
    return rows


def utility(validation: PartSlices, real: Segment, synthetic: Segment, labels: LabelSet, seed: int) -> list[Row]:
    """Compare a segmenter trained on synthetic slices only with one trained on real slices only.

    Both are tested on the same real slices of validation patients. `ratio` is synthetic over real.
    """
    rows = adherence("synthetic", validation, synthetic, labels, seed, "utility")
    own = {row.measure: row.figure.value for row in rows}
    judged = adherence("real", validation, real, labels, seed, "utility")
    ratios = [
        Row(row.measure, row.region, "ratio", Figure(own[row.measure] / row.figure.value), row.images)
        for row in judged
        if row.measure in own and row.figure.value > 0
    ]
    return [*rows, *judged, *ratios]


def areas(reference: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Return each slice's shared pixels (N,), those of the reference (N,) and those of the prediction (N,)."""
    return [held.sum(axis=(1, 2), dtype=np.float64) for held in (reference & prediction, reference, prediction)]
