"""Checks that several assets share: leakage, class balance, and a learned stage against its yardstick."""

import pandas as pd

from imaging.balance import BalanceConfig, slice_categories
from imaging.leakage import find_leaks
from imaging.slice_store import SliceStore
from imaging.split import FoldSplit
from pipeline.outcome import Check


def leak_check(store: SliceStore, split: FoldSplit) -> Check:
    """Check that no row, and no donor of a row, is a validation or test patient of the fold."""
    leaks = find_leaks(store.rows, split)
    columns = ["case_id", "donor_ids", "slice_index", "origin"]
    figures = {
        "rows": len(store),
        "leaking_rows": len(leaks),
        "first_leaks": _records(leaks[columns].head(20)),
    }
    return Check("no_patient_leak", leaks.empty, figures, "Only training patients of the fold are in this store.")


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
