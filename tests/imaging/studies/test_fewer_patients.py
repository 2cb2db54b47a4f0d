from collections import Counter

import numpy as np
import pytest

from common.errors import InputError
from imaging.slices.store import SliceStore, SliceStoreWriter
from imaging.studies.leakage import copy_rows, rows_of_training_patients, with_fewer_patients
from imaging.studies.split import FoldSplit
from tests.segmentation.toy_slices import write_toy_store

SHARES = {"normal": 8, "infarct": 6, "no_reflow": 10}
GROUPS = {f"{group}{number}": group for group, count in SHARES.items() for number in range(count)}
SPLIT = FoldSplit(0, tuple(sorted(GROUPS)), ("V",), ("T",))


def chosen(count: int, seed: int = 0) -> tuple[str, ...]:
    return with_fewer_patients(SPLIT, GROUPS, count, seed).train


def test_fewer_are_among_more_and_the_choice_repeats():
    for count in range(1, 24):
        assert set(chosen(count)) < set(chosen(count + 1))
    assert chosen(24) == SPLIT.train
    assert chosen(7) == chosen(7)
    assert chosen(7) != chosen(7, seed=1)


@pytest.mark.parametrize("count", [3, 6, 12, 18])
def test_groups_keep_their_shares(count):
    found = Counter(GROUPS[patient] for patient in chosen(count))
    for group, members in SHARES.items():
        assert abs(found[group] - count * members / 24) < 1


def test_validation_and_test_patients_stay():
    fewer = with_fewer_patients(SPLIT, GROUPS, 5, 0)
    assert (fewer.validation, fewer.test, fewer.fold) == (("V",), ("T",), 0)


@pytest.mark.parametrize("count", [0, 25])
def test_numbers_that_the_fold_has_not_are_refused(count):
    with pytest.raises(InputError, match=f"{count} training patients were asked for, but fold 0 has 24"):
        chosen(count)


def test_rows_with_a_foreign_patient_or_donor_are_left_out(tmp_path):
    toy = write_toy_store(tmp_path / "toy.h5", 8)
    lent = ["", "", "Case_P001", "", "Case_P000;Case_P001", "Case_P003", "", ""]
    with SliceStoreWriter(tmp_path / "lent.h5", toy.attributes) as writer:
        writer.append(toy.images(), toy.masks(), toy.rows.assign(donor_ids=lent))
    store = SliceStore.open(tmp_path / "lent.h5")
    split = FoldSplit(0, ("Case_P000", "Case_P001"), ("V",), ("T",))
    rows = rows_of_training_patients(store, split)
    assert rows.tolist() == [0, 1, 4]  # 5 borrowed from P003
    copied = copy_rows(tmp_path / "own.h5", store, rows, "1")
    np.testing.assert_array_equal(copied.images(), store.images(rows))
    np.testing.assert_array_equal(copied.masks(), store.masks(rows))
    assert copied.rows["donor_ids"].tolist() == ["", "", "Case_P000;Case_P001"]
    with pytest.raises(InputError, match="comes from the chosen patients alone; choose more"):
        copy_rows(tmp_path / "none.h5", store, rows[:0], "1")
