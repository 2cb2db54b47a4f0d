import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from imaging.studies.split import FoldSplit, read_split, split_digest, split_patients, write_splits


def patients(normal, infarct, no_reflow):
    names = ["normal"] * normal + ["infarct"] * infarct + ["no_reflow"] * no_reflow
    return {f"P{number:03d}": group for number, group in enumerate(names)}


EMIDEC = patients(33, 27, 40)  # the public training patients

cohorts = st.builds(patients, st.integers(0, 12), st.integers(0, 12), st.integers(0, 12))


@settings(deadline=None)
@given(cohorts, st.integers(2, 6), st.sampled_from([0.1, 0.15, 0.4, 0.9]), st.integers(0, 2**62))
def test_parts_are_a_partition_and_every_patient_is_tested_once(groups, folds, share, seed):
    if len(groups) < max(folds, 4 if folds == 2 else 3):
        with pytest.raises(InputError, match="patients cannot be split into"):
            split_patients(groups, folds, share, seed)
        return
    splits = split_patients(groups, folds, share, seed)
    assert [split.fold for split in splits] == list(range(folds))
    assert sorted(patient for split in splits for patient in split.test) == sorted(groups)
    for split in splits:
        assert sorted(split.train + split.validation + split.test) == sorted(groups)
        assert split.train
        assert split.validation
        rest = Counter(groups[patient] for patient in split.train + split.validation)
        validating = Counter(groups[patient] for patient in split.validation)
        if max(rest.values()) >= 2:
            assert set(validating) == {group for group, count in rest.items() if count >= 2}
            assert all(count < rest[group] for group, count in validating.items())


def test_folds_of_a_real_cohort_are_stratified():
    for split in split_patients(EMIDEC):
        test = Counter(EMIDEC[patient] for patient in split.test)
        assert test["normal"] in (6, 7)
        assert test["infarct"] in (5, 6)
        assert test["no_reflow"] == 8
        assert Counter(EMIDEC[patient] for patient in split.validation)["no_reflow"] == 5
        assert (len(split.test), len(split.validation)) == (20, 12) or len(split.validation) in (11, 12, 13)


@pytest.mark.parametrize("groups", [patients(8, 2, 1), patients(3, 3, 3), patients(2, 2, 1), patients(9, 0, 0)])
def test_small_groups_are_dealt_out_without_warnings(groups):
    splits = split_patients(groups, folds=5)
    sizes = [len(split.test) for split in splits]
    assert max(sizes) - min(sizes) <= 1
    for group, count in Counter(groups.values()).items():
        holding = [Counter(groups[patient] for patient in split.test)[group] for split in splits]
        if max(Counter(groups.values()).values()) >= 5:
            assert max(holding) <= -(-count // 5)


def test_the_split_depends_on_the_seed_and_not_on_the_order():
    backwards = dict(reversed(EMIDEC.items()))
    assert split_patients(EMIDEC, seed=3) == split_patients(backwards, seed=3)
    assert split_patients(EMIDEC, seed=3) != split_patients(EMIDEC, seed=4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": patients(2, 1, 1)}, "4 patients cannot be split into 5 folds.*at least 5 patients"),
        ({"groups": {}}, "0 patients"),
        ({"groups": EMIDEC, "folds": 1}, "1 folds leave nothing to train on"),
        ({"groups": EMIDEC, "validation_share": 0.0}, "validation share 0.0 is not between 0 and 1"),
        ({"groups": EMIDEC, "validation_share": 1.0}, "validation share 1.0"),
        ({"groups": EMIDEC, "validation_share": float("nan")}, "validation share nan"),
    ],
)
def test_impossible_splits_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        split_patients(**arguments)


def test_part_of_names_the_part_or_refuses():
    split = FoldSplit(2, ("A",), ("B",), ("C",))
    assert [split.part_of(patient) for patient in "ABC"] == ["train", "validation", "test"]
    with pytest.raises(InputError, match="patient 'D' is in no part of fold 2; rematerialise `patient_split`"):
        split.part_of("D")


def test_a_patient_in_two_parts_or_an_empty_part_is_refused():
    with pytest.raises(InputError, match=r"patients \['A'\] are in more than one part"):
        FoldSplit(0, ("A",), ("B",), ("A",))
    with pytest.raises(InputError, match=r"parts \['validation'\] are empty"):
        FoldSplit(0, ("A",), (), ("B",))


def test_a_written_split_is_read_back(tmp_path):
    path = tmp_path / "fold" / "split.json"
    splits = split_patients(EMIDEC)
    write_splits(path, splits)
    assert [read_split(path, fold) for fold in range(5)] == splits
    assert [file.name for file in path.parent.iterdir()] == ["split.json"]
    with pytest.raises(InputError, match=r"no fold 5, only \[0, 1, 2, 3, 4\]"):
        read_split(path, 5)


def test_two_seeds_that_deal_out_patients_alike_write_two_files(tmp_path):
    splits = split_patients(EMIDEC)
    for seed in (1, 2):
        write_splits(tmp_path / f"{seed}.json", splits, seed)
    assert (tmp_path / "1.json").read_bytes() != (tmp_path / "2.json").read_bytes()
    assert [read_split(tmp_path / "1.json", fold) for fold in range(5)] == splits


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"folds": 3}', '{"folds": [{"fold": 0}]}', json.dumps({"folds": [[]]})]
)
def test_a_damaged_split_is_refused(tmp_path, text):
    path = tmp_path / "split.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"split\.json.*rematerialise `patient_split`"):
        read_split(path, 0)


def test_a_missing_split_is_refused(tmp_path):
    with pytest.raises(InputError, match="rematerialise `patient_split`"):
        read_split(tmp_path / "split.json", 0)


def test_the_digest_changes_with_any_part_or_fold():
    base = FoldSplit(0, ("A", "B"), ("C",), ("D",))
    others = [
        FoldSplit(1, ("A", "B"), ("C",), ("D",)),
        FoldSplit(0, ("A",), ("B", "C"), ("D",)),
        FoldSplit(0, ("A", "B"), ("D",), ("C",)),
    ]
    assert split_digest(base) == split_digest(FoldSplit(0, ("A", "B"), ("C",), ("D",)))
    assert len({split_digest(split) for split in [base, *others]}) == 4
