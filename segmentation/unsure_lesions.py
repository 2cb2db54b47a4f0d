"""Leaves out lesions that are nowhere sure: a study's infarct, and its no-reflow, without enough probable pixels.

A segmenter draws a few pixels of infarct in almost every healthy heart, and the official rule scores each such patient
0 in place of 1. Whether there is a lesion at all is a question of a whole study, which no pixel answers: it is believed
where the segmenter is sure of the area that follows. Areas and probability are the same for all models, since the seven
or eight validation patients of a fold are too few to choose them by (docs/results.md); they tell what the rule does.
`post_processing` holds the corrections of single slices.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.labels import LabelSet, Tissue
from segmentation.overlap import Counts
from segmentation.validation import ValidationData, positive_dice

Masks = NDArray[np.uint8]
Probabilities = NDArray[np.float32]

UNSURE_FILE = "unsure_lesions.json"  # beside a model's scores

SURE_PROBABILITY = 0.85
SURE_AREA_PX: Mapping[Tissue, int] = MappingProxyType({Tissue.INFARCT: 200, Tissue.NO_REFLOW: 60})  # 1 px is 1 mm²


def without_unsure_lesions(
    masks: Masks, probabilities: Probabilities, case_ids: NDArray[np.str_], labels: LabelSet
) -> Masks:
    """Return label maps (N, H, W) in which each study's infarct and no-reflow are left out where they are not sure.

    Sure is a lesion whose 200 (infarct with no-reflow) or 60 (no-reflow) most probable pixels, in all slices of the
    study together, are 0.85 probable on average. No-reflow becomes infarct, infarct becomes normal myocardium. Label
    sets without lesions are left as they are.

    Args:
        masks: (N, H, W) label values.
        probabilities: (N, C, H, W) of the same slices.
        case_ids: (N,) the study of each slice.
        labels: What the values mean.
    """
    if not labels.has_lesions:
        return masks
    result = masks.copy()
    for case in np.unique(case_ids):
        of = case_ids == case
        if not _is_sure(probabilities[of], Tissue.INFARCT):
            result[of] = np.where(masks[of] >= Tissue.INFARCT, Tissue.NORMAL_MYOCARDIUM, masks[of])
        elif not _is_sure(probabilities[of], Tissue.NO_REFLOW):
            result[of] = np.where(masks[of] == Tissue.NO_REFLOW, Tissue.INFARCT, masks[of])
    return result


def judge(validation: ValidationData, probabilities: Probabilities, labels: LabelSet) -> dict[str, Any]:
    """Return what leaving out unsure lesions does to the validation patients' lesions.

    Args:
        validation: Slices of the validation patients.
        probabilities: (N, C, H, W) what the model finds on them.
        labels: A label set with lesions.

    Returns:
        What is recorded: `patients`, and the lesions' mean `official` and each one's positive Dice, as drawn (`before`)
        and without unsure ones (`after`).
    """
    drawn = probabilities.argmax(axis=1).astype(np.uint8)
    left = without_unsure_lesions(drawn, probabilities, validation.case_ids, labels)
    return {
        "patients": len(np.unique(validation.case_ids)),
        "before": _lesion_dice(validation, drawn, labels),
        "after": _lesion_dice(validation, left, labels),
    }


def official_gain(judgements: Sequence[Mapping[str, Any] | None]) -> float | None:
    """Return by how much the official Dice of the lesions of all models' validation patients changes on average.

    None where a judgement is unknown, or there is none.
    """
    known = [one for one in judgements if one]
    if not known or len(known) < len(judgements):
        return None
    gains = [one["after"]["official"] - one["before"]["official"] for one in known]
    return float(np.average(gains, weights=[one["patients"] for one in known]))


def _is_sure(probabilities: Probabilities, tissue: Tissue) -> bool:
    # A lesion's later values are part of it: no-reflow lies within the infarct.
    whole = probabilities[:, tissue:].sum(axis=1).ravel()
    area = min(SURE_AREA_PX[tissue], len(whole))
    return bool(np.partition(whole, -area)[-area:].mean() >= SURE_PROBABILITY)


def _lesion_dice(validation: ValidationData, drawn: Masks, labels: LabelSet) -> dict[str, float]:
    """Return the lesions' mean official Dice (empty in both: 1), and the positive Dice of each that a patient has."""
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
