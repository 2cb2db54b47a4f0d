"""What an asset may read, and which asset is named where that is of another content than its inputs were made of."""

import pytest

from common.errors import InputError
from engine.finished import Inputs
from engine.outcome import Outcome
from engine.record import Record

STUDIES, SPLIT, CUT, MASKS, DRAWN = (
    "studies",
    "patient_split",
    "real_slices/fold_0",
    "lesion_masks/fold_0",
    "pix2pix/fold_0",
)


def record(version, **behind):
    named = dict(zip((STUDIES, SPLIT, CUT), behind.values(), strict=False))
    return Record("", "", version, {}, Outcome({}, behind=named))


@pytest.fixture
def lying():
    """A chain in which everything was made of what lies there."""
    return {
        STUDIES: record("s1"),
        SPLIT: record("p1", studies="s1"),
        CUT: record("c1", studies="s1", split="p1"),
        MASKS: record("m1", studies="s1", split="p1", cut="c1"),
        DRAWN: record("d1", studies="s1", split="p1", cut="c1"),
    }


def inputs_of(lying, *nearest, reader="synthetic_slices"):
    return Inputs(reader, {place: lying[place] for place in nearest}, lying.get)


def test_what_is_read_is_noted_with_all_that_stands_behind_it(lying):
    inputs = inputs_of(lying, MASKS, DRAWN)
    inputs.require_current()
    assert inputs.known == {STUDIES: "s1", SPLIT: "p1", CUT: "c1", MASKS: "m1", DRAWN: "d1"}
    assert inputs.behind == {}
    inputs.note(CUT, lying[CUT])
    assert inputs.behind == {STUDIES: "s1", SPLIT: "p1", CUT: "c1"}


def test_the_first_asset_from_the_studies_on_is_named(lying):
    lying[STUDIES] = record("s2")
    with pytest.raises(
        InputError, match=r"^synthetic_slices: patient_split was made of another studies than lies there;"
    ):
        inputs_of(lying, MASKS, DRAWN).require_current()
    lying[SPLIT] = record("p2", studies="s2")
    with pytest.raises(InputError, match=r"rematerialise the asset 'real_slices' and what follows from it$"):
        inputs_of(lying, MASKS, DRAWN).require_current()


def test_an_input_that_was_not_made_again_is_named(lying):
    lying[CUT] = record("c2", studies="s1", split="p1")
    lying[DRAWN] = record("d2", studies="s1", split="p1", cut="c2")
    with pytest.raises(InputError, match="lesion_masks was made of another real_slices than lies there"):
        inputs_of(lying, MASKS, DRAWN).require_current()


def test_inputs_of_different_slices_are_refused_where_the_slices_lie_on_another_machine(lying):
    lying[DRAWN] = record("d2", studies="s1", split="p1", cut="c2")
    del lying[CUT]
    with pytest.raises(InputError, match=r"(lesion_masks|pix2pix) was made of another real_slices"):
        inputs_of(lying, MASKS, DRAWN).require_current()


def test_what_was_fetched_later_is_compared_when_it_is_read(lying):
    elsewhere = lying.pop(CUT)
    inputs = inputs_of(lying, MASKS)
    inputs.require_current()
    inputs.note(CUT, elsewhere)
    with pytest.raises(InputError, match="lesion_masks was made of another real_slices than lies there"):
        inputs.note(CUT, record("c2", studies="s1", split="p1"))


def test_a_read_that_no_dependency_covers_is_a_fault_of_the_asset(lying):
    with pytest.raises(
        AssertionError, match=f"real_slices reads {DRAWN}, which stands behind none of its dependencies"
    ):
        inputs_of(lying, SPLIT, reader="real_slices").note(DRAWN, lying[DRAWN])
