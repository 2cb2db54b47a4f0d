"""Leaves out lesions too small to believe: a study's infarct, and its no-reflow, below a share of the tissue around it.

A segmenter draws a few pixels of infarct in almost every healthy heart, and the official rule scores each such patient
0 in place of 1. One limit for a whole study answers what no pixel can: is there an infarct at all? The validation
patients choose the limits; `post_processing` holds the corrections of single slices.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imaging.labels import LabelSet, Tissue
from segmentation.overlap import Counts
from segmentation.validation import ValidationData, positive_dice

Masks = NDArray[np.uint8]

LIMITS_FILE = "small_lesions.json"  # beside a model's scores

_INFARCT_SHARES = (0.0, 0.01, 0.02, 0.03, 0.05)
_NO_REFLOW_SHARES = (0.0, 0.02, 0.04, 0.06)
_DEAREST = 0.02  # positive Dice of a lesion that the limits may cost the patients who have it


class LesionLimits(NamedTuple):
    """The smallest lesions that are believed, as shares; 0 believes all.

    Attributes:
        infarct: Infarct with no-reflow, as a share of the study's whole myocardium.
        no_reflow: No-reflow, as a share of the study's infarct with no-reflow.
    """

    infarct: float = 0.0
    no_reflow: float = 0.0


NO_LIMITS = LesionLimits()


def without_small_lesions(masks: Masks, case_ids: NDArray[np.str_], labels: LabelSet, limits: LesionLimits) -> Masks:
    """Return label maps (N, H, W) in which each study's infarct and no-reflow are left out where below the limits.

    No-reflow becomes infarct, infarct becomes normal myocardium. Label sets without lesions are left as they are.

    Args:
        masks: (N, H, W) label values, slices of equal pixel size.
        case_ids: (N,) the study of each slice.
        labels: What the values mean.
        limits: The smallest shares.
    """
    if not labels.has_lesions or limits == NO_LIMITS:
        return masks
    result = masks.copy()
    for case in np.unique(case_ids):
        result[case_ids == case] = _corrected(masks[case_ids == case], limits)
    return result


def choose_limits(validation: ValidationData, prediction: Masks, labels: LabelSet) -> dict[str, Any]:
    """Choose the limits with which the lesions of the validation patients score best under the official rule.

    Limits that cost a lesion more than 0.02 of its Dice under the `positive` rule are left aside, and so is every limit
    on a lesion that no validation patient has, since none could tell its cost. Of equally good ones the smallest win.

    Args:
        validation: Slices of the validation patients.
        prediction: (N, H, W) what the model draws on them.
        labels: A label set with lesions.

    Returns:
        What is recorded: `limits`, and the lesions' mean official and each one's positive Dice as drawn (`before`) and
        with them (`after`).
    """
    tried = {
        limits: _lesion_dice(validation, prediction, labels, limits)
        for limits in (LesionLimits(*shares) for shares in product(_INFARCT_SHARES, _NO_REFLOW_SHARES))
    }
    before = tried[NO_LIMITS]
    cheap = [limits for limits in tried if _is_cheap(limits, before, tried[limits], labels)]
    best = max(cheap, key=lambda limits: (round(tried[limits]["official"], 9), -limits.infarct, -limits.no_reflow))
    return {"limits": best._asdict(), "before": before, "after": tried[best]}


def _is_cheap(limits: LesionLimits, before: Mapping[str, float], after: Mapping[str, float], labels: LabelSet) -> bool:
    names = {"infarct": labels.tissues[Tissue.INFARCT], "no_reflow": labels.tissues[Tissue.NO_REFLOW]}
    unjudged = any(share and names[lesion] not in before for lesion, share in limits._asdict().items())
    return not unjudged and all(after[name] >= before[name] - _DEAREST for name in names.values() if name in before)


def common_limits(choices: Sequence[Mapping[str, Any] | None]) -> LesionLimits:
    """Return what several models agree on: the smallest of their limits, none where a choice is unknown."""
    limits = [LesionLimits(**choice["limits"]) if choice else NO_LIMITS for choice in choices]
    return LesionLimits(*map(min, zip(*limits, strict=True))) if limits else NO_LIMITS


def _corrected(masks: Masks, limits: LesionLimits) -> Masks:
    myocardium, lesion = (np.count_nonzero(masks >= tissue) for tissue in (Tissue.NORMAL_MYOCARDIUM, Tissue.INFARCT))
    if lesion < limits.infarct * myocardium:
        return np.where(masks >= Tissue.INFARCT, Tissue.NORMAL_MYOCARDIUM, masks).astype(np.uint8)
    if np.count_nonzero(masks == Tissue.NO_REFLOW) < limits.no_reflow * lesion:
        return np.where(masks == Tissue.NO_REFLOW, Tissue.INFARCT, masks).astype(np.uint8)
    return masks


def _lesion_dice(
    validation: ValidationData, prediction: Masks, labels: LabelSet, limits: LesionLimits
) -> dict[str, float]:
    """Return the lesions' mean official Dice (empty in both: 1), and the positive Dice of each that a patient has."""
    drawn = without_small_lesions(prediction, validation.case_ids, labels, limits)
    official = [
        _dice(validation.masks[of] >= tissue, drawn[of] >= tissue)
        for of in (validation.case_ids == case for case in np.unique(validation.case_ids))
        for tissue in (Tissue.INFARCT, Tissue.NO_REFLOW)
    ]
    positive = positive_dice(validation.masks, drawn, validation.case_ids, labels)
    lesions = {labels.tissues[value] for value in (Tissue.INFARCT, Tissue.NO_REFLOW)}
    return {"official": float(np.mean(official))} | {name: dice for name, dice in positive.items() if name in lesions}


def _dice(reference: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> float:
    pairs = ((reference, prediction), (~reference, prediction), (reference, ~prediction))
    return Counts(*(int(np.count_nonzero(one & other)) for one, other in pairs)).dice()
