"""Corrections of a predicted label map by what a ventricle must look like, and whether validation says they help.

Each correction takes and returns label maps (N, H, W), slice by slice, and knows no reference. They are off wherever
training sets are compared, unless `agreed_steps` finds that the validation patients of every arm chose them.

Why each step of post-processing was applied or not: what the validation patients of every model said.

What does not live here: the steps themselves and how a training chooses among them
(`segmentation.prediction.post_processing`).

Leaves out lesions that are nowhere sure: a study's infarct, and its no-reflow, without enough probable pixels.

A segmenter draws a few pixels of infarct in almost every healthy heart, and the official rule scores each such patient
0 in place of 1. Whether there is a lesion at all is a question of a whole study, which no pixel answers: it is believed
where the segmenter is sure of the area that follows. Areas and probability are the same for all models, since the seven
or eight validation patients of a fold are too few to choose them by (docs/results.md); they tell what the rule does.
`post_processing` holds the corrections of single slices.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from common.errors import InputError, some_of
from imaging.labels import LabelSet, Tissue
from imaging.slices.part import PartSlices
from runtime.model_card import ModelCard, StepChoice
from segmentation.scoring.overlap import Counts, mean_dice, positive_dice

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


def choose_steps(validation: PartSlices, prediction: Masks, labels: LabelSet) -> StepChoice:
    """Say which steps help the validation patients: each is kept if the mean `positive` Dice rises and no tissue falls.

    Returns:
        What a model card records; `mean_dice` is that before (`none`) and after each step in its turn.
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
    return StepChoice(chosen=chosen, rule="positive", mean_dice=tried)


def agreed_steps(cards: Sequence[ModelCard]) -> tuple[str, ...]:
    """Return the steps that the validation patients of every model chose; a card without a choice agrees to none."""
    choices = [card.post_processing.chosen if card.says("post_processing") else [] for card in cards]
    return tuple(name for name in STEPS if choices and all(name in chosen for chosen in choices))


def _dice(validation: PartSlices, prediction: Masks, labels: LabelSet) -> dict[str, float]:
    return positive_dice(validation.masks, prediction, validation.studies, labels)


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


def judge(validation: PartSlices, probabilities: Probabilities, labels: LabelSet) -> dict[str, Any]:
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
    left = without_unsure_lesions(drawn, probabilities, validation.studies, labels)
    return {
        "patients": len(np.unique(validation.studies)),
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


def _lesion_dice(validation: PartSlices, drawn: Masks, labels: LabelSet) -> dict[str, float]:
    """Return the lesions' mean official Dice (empty in both: 1), and the positive Dice of each that a patient has."""
    official = [
        _class_dice(validation.masks[of] >= tissue, drawn[of] >= tissue)
        for of in (validation.studies == case for case in np.unique(validation.studies))
        for tissue in (Tissue.INFARCT, Tissue.NO_REFLOW)
    ]
    positive = positive_dice(validation.masks, drawn, validation.studies, labels)
    lesions = {labels.tissues[value] for value in (Tissue.INFARCT, Tissue.NO_REFLOW)}
    return {"official": float(np.mean(official))} | {name: dice for name, dice in positive.items() if name in lesions}


def _class_dice(reference: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> float:
    pairs = ((reference, prediction), (~reference, prediction), (reference, ~prediction))
    return Counts(*(int(np.count_nonzero(one & other)) for one, other in pairs)).dice()


@dataclass(frozen=True)
class StepReason:
    """One of `STEPS`, whether it was applied, and why, in words with figures."""

    step: str
    applied: bool
    why: str


def explain_steps(cards: Sequence[ModelCard]) -> tuple[StepReason, ...]:
    """Return what `agreed_steps` decides about each step, with the change in validation Dice that decided it.

    Args:
        cards: Model cards of all networks that are averaged; those of older models hold no choice.
    """
    applied = agreed_steps(cards)
    return tuple(StepReason(name, name in applied, _why(name, cards)) for name in STEPS)


def explain_sureness(judgements: Sequence[Mapping[str, Any] | None]) -> StepReason:
    """Return whether unsure lesions are left out: where that does not lower the lesions' official Dice.

    Args:
        judgements: What `unsure_lesions.judge` returned for each network; None for one that was not scored.
    """
    gain = official_gain(judgements)
    if gain is None:
        unknown = sum(one is None for one in judgements)
        why = f"{unknown} of {len(judgements)} networks were not scored, which tells what this does"
    else:
        patients = sum(one["patients"] for one in judgements if one)
        why = f"official Dice of the lesions of {patients} validation patients {gain:+.4f}"
    return StepReason("unsure_lesions", gain is not None and gain >= 0, why)


def _why(name: str, cards: Sequence[ModelCard]) -> str:
    gains = [gain for card in cards if (gain := _gain(name, card)) is not None]
    if len(gains) < len(cards):
        return f"{len(cards) - len(gains)} of {len(cards)} networks were trained before there was a choice"
    chosen = sum(name in card.post_processing.chosen for card in cards)
    if len(cards) == 1:
        return f"validation Dice {gains[0]:+.4f}{'' if chosen or gains[0] <= 0 else ', but a tissue fell'}"
    return f"validation Dice {min(gains):+.4f} to {max(gains):+.4f}, chosen by {chosen} of {len(cards)} networks"


def _gain(name: str, card: ModelCard) -> float | None:
    """Return by how much a step changed the mean `positive` Dice after those chosen before it; None if unknown."""
    if not card.says("post_processing") or not {"none", name} <= card.post_processing.mean_dice.keys():
        return None
    choice, dice = card.post_processing, card.post_processing.mean_dice
    earlier = list(STEPS)[: list(STEPS).index(name)]
    before = [step for step in earlier if step in choice.chosen] or ["none"]
    return float(dice[name]) - float(dice[before[-1]])
