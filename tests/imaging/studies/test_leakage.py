import pandas as pd
import pytest

from common.errors import InputError
from imaging.studies.leakage import assert_no_leak, find_leaks
from imaging.studies.split import FoldSplit

SPLIT = FoldSplit(1, train=("A", "B", "C"), validation=("V",), test=("T", "U"))


def rows(*pairs):
    return pd.DataFrame(pairs, columns=["case_id", "donor_ids"], index=range(10, 10 + len(pairs)))


def test_training_patients_and_training_donors_are_no_leak():
    clean = rows(("A", ""), ("B", "A"), ("C", "A;B;C"), ("A", None))
    assert find_leaks(clean, SPLIT).empty
    assert_no_leak(clean, SPLIT, "augmented_slices")


def test_no_rows_are_no_leak():
    assert find_leaks(rows(), SPLIT).empty


@pytest.mark.parametrize(
    ("row", "leaked"),
    [
        (("T", ""), "T"),
        (("V", "A"), "V"),
        (("A", "T"), "T"),
        (("A", "B;U;C"), "U"),
        (("T", "T;V"), "T;V"),
        (("A", "AB"), "AB"),  # a part of a name is another patient
        (("X", ""), "X"),  # a patient that no part knows
    ],
)
def test_any_other_patient_or_donor_is_found(row, leaked):
    table = rows(("A", "B"), row, ("C", ""))
    found = find_leaks(table, SPLIT)
    assert found.index.tolist() == [11]
    assert found["leaked"].tolist() == [leaked]
    assert "leaked" not in table.columns


def test_parts_can_be_allowed():
    table = rows(("A", ""), ("V", ""), ("T", ""))
    assert find_leaks(table, SPLIT, ("train", "validation"))["case_id"].tolist() == ["T"]
    assert find_leaks(table, SPLIT, ("validation",))["case_id"].tolist() == ["A", "T"]
    with pytest.raises(InputError, match=r"parts \['testing'\] are unknown"):
        find_leaks(table, SPLIT, ("testing",))


def test_the_error_names_patients_parts_and_rows():
    table = rows(("A", "T"), ("T", ""), ("V", ""), ("X", ""))
    with pytest.raises(InputError) as caught:
        assert_no_leak(table, SPLIT, "pix2pix/store.h5")
    message = str(caught.value)
    assert message.startswith("pix2pix/store.h5: leakage in fold 1: T (test, 2 rows), V (validation, 1 rows), ")
    assert "X (in no part, 1 rows)" in message
    assert "only patients of train; rematerialise" in message


def test_a_long_list_of_patients_is_cut():
    with pytest.raises(InputError, match=r"P04 .* and 15 more may not be here"):
        assert_no_leak(rows(*((f"P{number:02d}", "") for number in range(20))), SPLIT, "store")


def test_rows_without_donors_cannot_be_checked():
    with pytest.raises(InputError, match=r"lack the columns \['donor_ids'\]"):
        find_leaks(pd.DataFrame({"case_id": ["A"]}), SPLIT)
