"""Checks that several assets share: leakage, class balance, and a learned stage against its yardstick.

What each check of the graph asks, as Dagster shows it before and after a run.

The only partition of the graph: five folds over patients.
"""

from collections.abc import Mapping
from types import MappingProxyType

import dagster as dg
import pandas as pd

from engine.outcome import Check
from imaging.slices.balance import BalanceConfig, slice_categories
from imaging.slices.store import SliceStore
from imaging.studies.leakage import find_leaks, leaks_in_words
from imaging.studies.split import FoldSplit


def leak_check(store: SliceStore, split: FoldSplit) -> Check:
    """Check that no row, and no donor of a row, is a validation or test patient of the fold."""
    leaks = find_leaks(store.rows, split)
    columns = ["case_id", "donor_ids", "slice_index", "origin"]
    figures = {
        "rows": len(store),
        "leaking_rows": len(leaks),
        "first_leaks": _records(leaks[columns].head(20)),
    }
    told = "Only training patients of the fold are in this store."
    if len(leaks):
        told = f"Only training patients of the fold may be in this store, not {leaks_in_words(leaks, split)}."
    return Check("no_patient_leak", leaks.empty, figures, told)


def class_balance(store: SliceStore, balance: BalanceConfig, tolerance: float = 0.05) -> Check:
    """Check the shares of slices with infarct and with no-reflow against their targets."""
    if not store.label_set.has_lesions:
        figures = {"label_set": store.label_set.name, "slices": len(store)}
        return Check("class_balance", True, figures, "This label set has no lesions to balance.", warning=True)
    categories = slice_categories(store.masks(), store.label_set)
    infarct = float((categories != "no_infarct").mean())
    no_reflow = float((categories == "no_reflow").mean())
    passed = abs(infarct - balance.infarct_share) <= tolerance
    passed = passed and abs(no_reflow - balance.no_reflow_share) <= tolerance
    figures = {
        "infarct_share": infarct,
        "infarct_target": balance.infarct_share,
        "no_reflow_share": no_reflow,
        "no_reflow_target": balance.no_reflow_share,
        "tolerance": tolerance,
    }
    return Check("class_balance", passed, figures, "Lesions are as frequent as configured.", warning=True)


def beats(name: str, ours: float, yardstick: float, what: str, higher_is_better: bool = True) -> Check:
    """Check a learned stage against its trivial yardstick, both figures shown."""
    passed = ours > yardstick if higher_is_better else ours < yardstick
    return Check(name, bool(passed), {"ours": float(ours), "yardstick": float(yardstick)}, what)


def _records(rows: pd.DataFrame) -> list[dict[str, object]]:
    return [{str(key): value for key, value in row.items()} for row in rows.to_dict(orient="records")]


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
        "adherence": "Does a segmenter trained on real slices only find the mask's tissues, and its lesions?",
        "no_copies": "Are few synthetic ventricles nearer to one training patient than real patients are?",
        "adherence_as_in_real": "Does that segmenter find the tissues of synthetic slices as well as real ones'?",
        "told_apart": "Does a small network hardly tell drawings from real slices?",
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


FOLDS = dg.StaticPartitionsDefinition([str(fold) for fold in range(5)])
OWNERS = ["team:scarforge"]
