"""What each check of the graph asks, as Dagster shows it before and after a run."""

from collections.abc import Mapping
from types import MappingProxyType

import dagster as dg

CHECKS: Mapping[str, str] = MappingProxyType(
    {
        "few_rejected": "Could every study of the source be used?",
        "parts_are_disjoint": "Is each patient in one part of a fold only: training, validation or test?",
        "every_patient_has_slices": "Has every patient of the split slices around the ventricle?",
        "no_patient_leak": "Are all rows, and all donors of rows, training patients of the fold?",
        "class_balance": "Are infarct and no-reflow as frequent as configured?",
        "size_as_configured": "Holds the training set as many slices as configured, so that the arms are equal?",
        "finite_losses": "Is every recorded loss a finite number?",
        "beats_fixed_box": "Does the localiser overlap more than a central box of mean training size?",
        "beats_mean_paint_frechet": "Are drawings nearer to real ventricles than masks painted with mean intensities?",
        "beats_mean_paint_likeness": "Are drawings more like the very slice they redraw than painted masks are?",
        "adherence": "Does a segmenter trained on real slices only find the tissues where the mask put them?",
        "no_copies": "Are few synthetic ventricles nearer to one training patient than real patients are?",
        "variety": "Do synthetic ventricles differ from each other as real ones do?",
        "beats_all_background": "Is Dice above that of a network that draws nothing?",
        "beats_mean_mask": "Is Dice above that of the mean training mask?",
        "official_rule_beats_all_background": "Is Dice under EMIDEC's rule above that of a network that draws nothing?",
        "arms_of_equal_size_and_steps": "Had both arms equally many slices and optimiser steps?",
        "no_regression": "Is the model as good as its champion, or the first of its kind?",
    }
)


def check_spec(name: str, asset: str, blocking: bool = False) -> dg.AssetCheckSpec:
    """Return the specification of a check, with what it asks; a blocking one stops what lies behind the asset."""
    return dg.AssetCheckSpec(name, asset=asset, blocking=blocking, description=CHECKS[name])
