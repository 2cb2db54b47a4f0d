"""Segmentations that need no learning; every network must beat them.

All work in the coordinates of the prepared regions, so they profit from the localiser as the networks do,
and all learn from training patients only.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.errors import InputError
from common.seeds import random_generator
from imaging.slices.part import LabelledSlices

ALL_BACKGROUND = "all_background"
MEAN_MASK = "mean_mask"
OTHER_PATIENT = "other_patient"


def all_background(slices: int, size: int) -> NDArray[np.uint8]:
    """Return a prediction (slices, size, size) that finds nothing."""
    return np.zeros((slices, size, size), np.uint8)


def mean_mask(masks: NDArray[np.uint8], num_classes: int) -> NDArray[np.uint8]:
    """Return the mean training mask (H, W): each tissue where it is found most often, in its mean area.

    A plain arg-max over the label frequencies would hold no infarct and no no-reflow, since these lie
    elsewhere in each patient, and would be no yardstick for them. Here each tissue takes as many pixels as it
    covers in the mean training slice (at least one), where it occurs most often, the rarest choosing first.

    Args:
        masks: Training masks (N, H, W).
        num_classes: Number of label values, background included.
    """
    if len(masks) == 0:
        raise InputError("the mean mask needs at least one training mask; check the split")
    counts = np.stack([(masks == value).sum(axis=0) for value in range(num_classes)])  # (C, H, W)
    totals = counts.reshape(num_classes, -1).sum(axis=1)
    result = np.zeros(masks.shape[1:], np.uint8)
    present = [value for value in range(1, num_classes) if totals[value] > 0]
    for value in sorted(present, key=lambda v: int(totals[v])):
        area = max(1, round(float(totals[value]) / len(masks)))
        free = np.where(result == 0, counts[value], -1).ravel()
        chosen = np.argsort(-free, kind="stable")[:area]
        result.ravel()[chosen[free[chosen] > 0]] = value
    return result


def other_patient(
    training: LabelledSlices, case_id: str, frame: str, slices: int, seed: int
) -> NDArray[np.uint8] | None:
    """Return another patient's masks (slices, H, W): of one training patient, nearest in slice position.

    The patient is drawn by `case_id` from those who have the frame; position is relative to the stack.

    Args:
        training: Slices of the training patients.
        case_id: The patient to be segmented, never lent to itself.
        frame: Frame to be segmented.
        slices: Number of slices to return.
        seed: Seed of the draw.

    Returns:
        The masks; None where no training patient has the frame, so that there is nothing to copy.
    """
    stacks = {stack.case_id: stack.rows for stack in training.stacks() if stack.frame == frame}
    candidates = sorted(stacks.keys() - {case_id})
    if not candidates:
        return None
    draw = random_generator(seed, f"other patient for {case_id}").integers(len(candidates))
    stack = training.masks[stacks[candidates[int(draw)]]]
    positions = (np.arange(slices) + 0.5) / slices * len(stack) - 0.5
    nearest = np.clip(np.floor(positions + 0.5).astype(int), 0, len(stack) - 1)
    return stack[nearest]


def absent_yardsticks(scores: pd.DataFrame) -> list[str]:
    """Return a sentence for each fold of a table of scores whose yardsticks had no other patient to copy."""
    folds = {name: set(scores.loc[scores["network"] == name, "fold"].dropna()) for name in (MEAN_MASK, OTHER_PATIENT)}
    return [
        f"Fold {int(fold)} has no yardstick {OTHER_PATIENT}: no training patient has a frame that a test patient has."
        for fold in sorted(folds[MEAN_MASK] - folds[OTHER_PATIENT])
    ]
