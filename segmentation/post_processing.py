"""Corrections of a predicted label map by what a ventricle must look like, and whether validation says they help.

Each correction takes and returns label maps (N, H, W), slice by slice, and knows no reference. They are off wherever
training sets are compared, unless `agreed_steps` finds that the validation patients of every arm chose them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from imaging.errors import InputError, some_of
from imaging.labels import LabelSet, Tissue
from segmentation.validation import ValidationData, mean_dice, positive_dice

Masks = NDArray[np.uint8]

_EIGHT = np.ones((3, 3), bool)  # pixels that touch at a corner belong together


def largest_piece(masks: Masks, labels: LabelSet) -> Masks:
    """Keep the largest piece of ventricle (cavity and myocardium) of each slice; the rest becomes background."""
    del labels
    return np.stack([np.where(_largest(mask > 0), mask, 0).astype(np.uint8) for mask in masks])


def one_ring(masks: Masks, labels: LabelSet) -> Masks:
    """Fill what the ventricle encloses, so that the myocardium is one ring without holes about the cavity.

    A hole takes the label of the nearest pixel of the ventricle.
    """
    del labels
    return np.stack([_filled(mask) for mask in masks])


def no_reflow_in_infarct(masks: Masks, labels: LabelSet) -> Masks:
    """Turn no-reflow that touches no infarct in its slice into infarct: no-reflow is the core of one.

    Label sets without lesions are left as they are.
    """
    return np.stack([_without_lonely_cores(mask) for mask in masks]) if labels.has_lesions else masks


Step = Callable[[Masks, LabelSet], Masks]
STEPS: Mapping[str, Step] = MappingProxyType(
    {"largest_piece": largest_piece, "one_ring": one_ring, "no_reflow_in_infarct": no_reflow_in_infarct}
)


def post_process(masks: Masks, labels: LabelSet, steps: Sequence[str]) -> Masks:
    """Apply some of `STEPS` to label maps (N, H, W), in the order given.

    Raises:
        InputError: A step does not exist.
    """
    unknown = [name for name in steps if name not in STEPS]
    if unknown:
        raise InputError(f"post-processing {some_of(unknown)} does not exist; choose from {', '.join(STEPS)}")
    for name in steps if len(masks) else ():
        masks = STEPS[name](masks, labels)
    return masks


def choose_steps(validation: ValidationData, prediction: Masks, labels: LabelSet) -> dict[str, Any]:
    """Say which steps help the validation patients: each is kept if the mean `positive` Dice rises and no tissue falls.

    Returns:
        What a model card records: `chosen`, and `mean_dice` before (`none`) and after each step in its turn.
    """
    chosen: list[str] = []
    best = _dice(validation, prediction, labels)
    tried = {"none": mean_dice(best)}
    for name in STEPS:
        candidate = post_process(prediction, labels, [name])
        dice = _dice(validation, candidate, labels)
        tried[name] = mean_dice(dice)
        if tried[name] > mean_dice(best) and all(dice[tissue] >= best[tissue] for tissue in best):
            chosen, prediction, best = [*chosen, name], candidate, dice
    return {"chosen": chosen, "rule": "positive", "mean_dice": tried}


def agreed_steps(cards: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the steps that the validation patients of every model chose; a card without a choice agrees to none."""
    choices = [card.get("post_processing", {}).get("chosen", []) for card in cards]
    return tuple(name for name in STEPS if choices and all(name in chosen for chosen in choices))


def _dice(validation: ValidationData, prediction: Masks, labels: LabelSet) -> dict[str, float]:
    return positive_dice(validation.masks, prediction, validation.case_ids, labels)


def _largest(drawn: NDArray[np.bool_]) -> NDArray[np.bool_]:
    pieces, count = ndimage.label(drawn, _EIGHT)
    if count < 2:
        return drawn
    return pieces == 1 + np.bincount(pieces.ravel())[1:].argmax()


def _filled(mask: Masks) -> Masks:
    holes = ndimage.binary_fill_holes(mask > 0) & (mask == 0)
    if not holes.any():
        return mask
    rows, columns = ndimage.distance_transform_edt(mask == 0, return_distances=False, return_indices=True)
    return np.where(holes, mask[rows, columns], mask)


def _without_lonely_cores(mask: Masks) -> Masks:
    result = mask.copy()
    for core in _pieces(mask == Tissue.NO_REFLOW):
        around = ndimage.binary_dilation(core, _EIGHT)
        if not (mask[around] == Tissue.INFARCT).any():
            result[core] = Tissue.INFARCT
    return result


def _pieces(drawn: NDArray[np.bool_]) -> Iterator[NDArray[np.bool_]]:
    pieces, count = ndimage.label(drawn, _EIGHT)
    return (pieces == number for number in range(1, count + 1))
