"""Fewer training patients than a fold has: who they are, and which rows of a store come from them alone."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imaging.errors import InputError
from imaging.labels import PATIENT_GROUPS
from imaging.leakage import find_leaks
from imaging.seeds import random_generator
from imaging.slice_store import SliceStore, SliceStoreWriter
from imaging.split import FoldSplit

_BLOCK_SLICES = 256


def with_fewer_patients(split: FoldSplit, groups: Mapping[str, str], count: int, seed: int) -> FoldSplit:
    """Return the fold with `count` of its training patients; validation and test patients stay.

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
    chosen = _ordered(split, groups, seed)[:count]
    return replace(split, train=tuple(sorted(chosen)))


def _ordered(split: FoldSplit, groups: Mapping[str, str], seed: int) -> list[str]:
    """Return the training patients so that every beginning of the list has the groups' shares."""
    places: list[tuple[float, str]] = []
    for index, group in enumerate(PATIENT_GROUPS):
        members = [patient for patient in split.train if groups[patient] == group]
        order = random_generator(seed, "fewer patients", split.fold, index).permutation(len(members))
        places += [((rank + 0.5) / len(members), members[position]) for rank, position in enumerate(order)]
    return [patient for _, patient in sorted(places)]


def rows_of_training_patients(store: SliceStore, split: FoldSplit) -> NDArray[np.int64]:
    """Return the rows whose patient and donors are all training patients of `split`."""
    foreign = find_leaks(store.rows, split).index
    return np.flatnonzero(~store.rows.index.isin(foreign))


def copy_rows(path: Path, store: SliceStore, rows: NDArray[np.int64], code_version: str) -> SliceStore:
    """Write these rows of a store into one at `path`, in order, and open it; further images are left behind.

    Raises:
        InputError: No row is given, or the disk is full.
    """
    if not len(rows):
        raise InputError(f"{path}: no slice of {store.path} comes from the chosen patients alone; choose more")
    attributes = replace(
        store.attributes,
        parent_digests={"all": store.digest},
        code_version=code_version,
        parameters={"rows": len(rows)},
    )
    with SliceStoreWriter(path, attributes) as writer:
        for start in range(0, len(rows), _BLOCK_SLICES):
            block = rows[start : start + _BLOCK_SLICES]
            writer.append(store.images(block), store.masks(block), store.rows.iloc[block].reset_index(drop=True))
    return SliceStore.open(path, verify=False)
