import pickle

import pytest

from common.errors import InputError, escaped, some_of


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "none"), (1, "1"), (5, "1, 2, 3, 4, 5"), (6, "1, 2, 3, 4, 5 and 1 more"), (12, "1, 2, 3, 4, 5 and 7 more")],
)
def test_a_list_in_a_message_is_bounded(count, expected):
    assert some_of(range(1, count + 1)) == expected


def test_a_list_may_be_longer_or_of_sentences():
    assert some_of("abc", most=2) == "a, b and 1 more"
    assert some_of(iter("abc"), 2, "; ") == "a; b; and 1 more"
    assert some_of("ab", 2, "; ") == "a; b"


def test_a_message_is_one_line_whatever_a_name_holds():
    error = InputError("new\nline\r and \udcff and \u2028, but Müller 心\u00a0stays")
    assert str(error) == r"new\nline\r and \udcff and \u2028, but Müller 心" + "\u00a0stays"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert escaped("\0") == r"\x00"


def test_a_message_that_quotes_something_endless_keeps_its_beginning_and_its_remedy():
    said = str(InputError(f"/data/x: has columns {'9' * 50_000}; rematerialise the asset that wrote it"))
    assert len(said) < 4000
    assert said.startswith("/data/x: has columns 999")
    assert said.endswith("999; rematerialise the asset that wrote it")
