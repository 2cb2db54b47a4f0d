"""Finds patients that appear where their part of the fold forbids it.

The rule: everything trained, and everything a derived slice borrows, comes from the fold's training patients.

Fewer training patients than a fold has: who they are.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.errors import InputError, some_of
from common.seeds import random_generator
from imaging.labels import PATIENT_GROUPS
from imaging.studies.split import PARTS, FoldSplit

UNKNOWN = "(unknown)"  # in place of the patients of a slice of which nobody has told whom it was made from
ALLOWED_UNKNOWN = "(unknown, allowed)"  # the same, where a person has allowed it


def find_leaks(rows: pd.DataFrame, split: FoldSplit, allowed: tuple[str, ...] = ("train",)) -> pd.DataFrame:
    """Return the rows whose patient or any donor is in a part that is not allowed.

    Args:
        rows: With `case_id` and `donor_ids` (joined by `;`, empty if none), such as `SliceStore.rows`.
        split: The fold's parts. A patient in none of them is a leak too, and so is `UNKNOWN`.
        allowed: Parts whose patients may appear.

    Returns:
        The offending rows with a further column `leaked`: the patients, joined by `;`.
    """
    missing = [column for column in ("case_id", "donor_ids") if column not in rows.columns]
    if missing:
        raise InputError(f"rows lack the columns {missing}, so leakage cannot be checked; read them from a store")
    unknown_parts = [part for part in allowed if part not in PARTS]
    if unknown_parts:
        raise InputError(f"parts {unknown_parts} are unknown; choose from {list(PARTS)}")
    permitted = {patient for part in allowed for patient in getattr(split, part)} | {ALLOWED_UNKNOWN}
    donors = rows["donor_ids"].fillna("")
    leaked = [
        ";".join(_forbidden(case_id, donor_ids, permitted))
        for case_id, donor_ids in zip(rows["case_id"], donors, strict=True)
    ]
    table = rows.assign(leaked=pd.Series(leaked, index=rows.index, dtype="str"))
    return table[table["leaked"] != ""]


def assert_no_leak(rows: pd.DataFrame, split: FoldSplit, what: str, allowed: tuple[str, ...] = ("train",)) -> None:
    """Raise `InputError` that names the patients when `find_leaks` finds any.

    Args:
        rows: See `find_leaks`.
        split: See `find_leaks`.
        what: What holds the rows, for the message, such as a path or an asset.
        allowed: See `find_leaks`.
    """
    leaks = find_leaks(rows, split, allowed)
    if leaks.empty:
        return
    raise InputError(
        f"{what}: leakage in fold {split.fold}: {leaks_in_words(leaks, split)} may not be here, only patients of "
        f"{' and '.join(allowed)}; rematerialise it and what it was made from with this split"
    )


def leaks_in_words(leaks: pd.DataFrame, split: FoldSplit) -> str:
    """Return who is in the rows that `find_leaks` found, in which part of the fold, and in how many rows."""
    counts = leaks["leaked"].str.split(";").explode().value_counts(sort=False).sort_index()
    return some_of(f"{patient} ({_part_name(split, str(patient))}, {count} rows)" for patient, count in counts.items())


def donors_unknown(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """Tell of which rows nobody has told whom they were made from."""
    named = (rows["case_id"] + ";" + rows["donor_ids"]).tolist()
    return np.array([bool({UNKNOWN, ALLOWED_UNKNOWN} & set(names.split(";"))) for names in named], dtype=bool)


def donors_note(rows: pd.DataFrame, what: str) -> tuple[str, ...]:
    """Return a sentence for reports where donors of synthetic rows are unknown, nothing where all are known.

    Args:
        rows: Of a training set, or of synthetic slices.
        what: Whose they are, such as `fold 0`.
    """
    synthetic = rows[rows["origin"] == "synthetic"]
    unknown = 0 if synthetic.empty else int(donors_unknown(synthetic).sum())
    note = (
        f"Donors unknown: of {unknown:,} of {len(synthetic):,} synthetic slices of {what} nobody has told which "
        "patients they were made from, which was allowed by hand (synthesis.donors=unknown). If test patients are "
        "among them, what is gained here is no gain."
    )
    return (note,) if unknown else ()


def assert_parts(rows: pd.DataFrame, split: FoldSplit, what: str) -> None:
    """Raise `InputError` where rows tell another part of a patient than the split does.

    Args:
        rows: With `case_id` and `part`, such as `SliceStore.rows`.
        split: The fold's parts.
        what: What holds the rows, for the message.
    """
    told = rows[["case_id", "part"]].drop_duplicates()
    odd = [f"{case_id} ({part})" for case_id, part in told.to_numpy(dtype=str) if _part_name(split, case_id) != part]
    if odd:
        raise InputError(
            f"{what}: tells another part of fold {split.fold} than the split for {some_of(odd)}; rematerialise it with "
            "this split"
        )


def _forbidden(case_id: str, donor_ids: str, permitted: set[str]) -> list[str]:
    patients = [case_id, *(donor for donor in donor_ids.split(";") if donor)]
    return sorted({patient for patient in patients if patient not in permitted})


def _part_name(split: FoldSplit, patient: str) -> str:
    if patient == UNKNOWN:
        return "donors nobody has told: name them in donors.csv, or allow them by synthesis.donors=unknown"
    for part in PARTS:
        if patient in getattr(split, part):
            return part
    return "in no part"


def with_fewer_patients(split: FoldSplit, groups: Mapping[str, str], count: int, seed: int) -> FoldSplit:
    """Return the fold with `count` of its training patients, the others left out; validation and test patients stay.

    Groups keep their shares as nearly as they can, and fewer patients are always among more: 10 within 20.

    Args:
        split: The fold's parts.
        groups: Group of each patient, by `case_id`.
        count: How many training patients.
        seed: Decides which.

    Raises:
        InputError: There are not so many, or none is asked for.
    """
    if not 1 <= count <= len(split.train):
        raise InputError(
            f"{count} training patients were asked for, but fold {split.fold} has {len(split.train)}; "
            f"give a number from 1 to {len(split.train)}, or all"
        )
    ordered = _ordered(split, groups, seed)
    left_out = tuple(sorted((*split.left_out, *ordered[count:])))
    return replace(split, train=tuple(sorted(ordered[:count])), left_out=left_out)


def _ordered(split: FoldSplit, groups: Mapping[str, str], seed: int) -> list[str]:
    """Return the training patients so that every beginning of the list has the groups' shares."""
    places: list[tuple[float, str]] = []
    for index, group in enumerate(PATIENT_GROUPS):
        members = [patient for patient in split.train if groups[patient] == group]
        order = random_generator(seed, "fewer patients", split.fold, index).permutation(len(members))
        places += [((rank + 0.5) / len(members), members[position]) for rank, position in enumerate(order)]
    return [patient for _, patient in sorted(places)]
