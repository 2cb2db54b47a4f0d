"""What a model's files say: an entry that is missing is the file's fault, told in one line wherever it is read."""

import copy
import json
import pickle

import pytest

from common.errors import InputError
from runtime.model_folder import read_model_json


@pytest.fixture
def card(tmp_path):
    content = {"label_set": "emidec", "validation": {"mean": 0.5}, "started_from": [{"fold": 1}]}
    (tmp_path / "model_card.json").write_text(json.dumps(content))
    return read_model_json(tmp_path, "model_card.json")


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (lambda card: card["input_size"], "input_size"),
        (lambda card: card["validation"]["dice"], "dice"),
        (lambda card: card["started_from"][0]["seed"], "seed"),
    ],
)
def test_an_entry_that_is_missing_is_named_with_its_file_and_the_remedy(card, read, name):
    with pytest.raises(
        InputError, match=rf"model_card\.json: lacks '{name}': .*; rematerialise the model asset"
    ) as told:
        read(card)
    assert "\n" not in str(told.value)


def test_what_is_there_or_may_be_missing_reads_as_ever(card):
    assert card["validation"]["mean"] == 0.5
    assert card.get("input_size") is None
    assert "input_size" not in card
    assert {**card} == card == copy.deepcopy(card) == pickle.loads(pickle.dumps(card))


@pytest.mark.parametrize("text", ["[]", "3", "null", "{"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json: .*rematerialise the model asset"):
        read_model_json(tmp_path, "config.json")
