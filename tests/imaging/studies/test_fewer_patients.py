from collections import Counter

import pandas as pd
import pytest

from common.errors import InputError
from imaging.studies.leakage import find_leaks, with_fewer_patients
from imaging.studies.split import FoldSplit, read_split, split_digest, write_splits

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


def test_those_left_out_are_in_no_part_and_stay_left_out_of_a_file(tmp_path):
    fewer = with_fewer_patients(SPLIT, GROUPS, 5, 0)
    assert set(fewer.left_out) == set(SPLIT.train) - set(fewer.train)
    with pytest.raises(InputError, match="is in no part of fold 0"):
        fewer.part_of(fewer.left_out[0])
    write_splits(tmp_path / "split.json", [fewer])
    assert read_split(tmp_path / "split.json", 0) == fewer
    leaks = find_leaks(pd.DataFrame({"case_id": [fewer.left_out[0], fewer.train[0]], "donor_ids": ["", ""]}), fewer)
    assert leaks["case_id"].tolist() == [fewer.left_out[0]]


def test_a_split_that_leaves_nobody_out_is_written_without_them(tmp_path):
    write_splits(tmp_path / "split.json", [SPLIT])
    assert "left_out" not in (tmp_path / "split.json").read_text()
    assert split_digest(SPLIT) == "8f8ab3c9a97c3127303f19890c8361772b82e4e7495e47140ee63ab3366ffcac"
    assert split_digest(with_fewer_patients(SPLIT, GROUPS, 5, 0)) != split_digest(SPLIT)
