"""What a model's files say: an entry that is missing is the file's fault, told in one line wherever it is read."""

import copy
import json
import pickle

import pytest
import torch

from common.config import FrozenConfig
from common.errors import InputError
from common.files import known_digest
from runtime.model_card import ModelCard, read_model_json
from runtime.model_folder import write_model_folder


@pytest.fixture
def config(tmp_path):
    content = {"batch": 2, "network": {"name": "halsr_net"}, "stages": [{"fold": 1}]}
    (tmp_path / "config.json").write_text(json.dumps(content))
    return read_model_json(tmp_path, "config.json")


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (lambda config: config["steps"], "steps"),
        (lambda config: config["network"]["widths"], "widths"),
        (lambda config: config["stages"][0]["seed"], "seed"),
    ],
)
def test_an_entry_that_is_missing_is_named_with_its_file_and_the_remedy(config, read, name):
    with pytest.raises(InputError, match=rf"config\.json: lacks '{name}': .*; rematerialise the model asset") as told:
        read(config)
    assert "\n" not in str(told.value)


def test_what_is_there_or_may_be_missing_reads_as_ever(config):
    assert config["network"]["name"] == "halsr_net"
    assert config.get("steps") is None
    assert {**config} == config == copy.deepcopy(config) == pickle.loads(pickle.dumps(config))


@pytest.fixture
def card(tmp_path):
    content = {"label_set": "emidec", "validation": {"loss": 0.5}, "started_from": [{"fold": 1}], "of_later": 1}
    (tmp_path / "model_card.json").write_text(json.dumps(content))
    return ModelCard.read(tmp_path)


@pytest.mark.parametrize("name", ["input_size", "dice", "seed"])
def test_a_field_that_a_card_does_not_say_is_named_with_its_file_and_the_remedy(card, name):
    with pytest.raises(InputError, match=r"model_card\.json: lacks '.*': .*; rematerialise the model asset") as told:
        getattr(card, name)
    assert "\n" not in str(told.value)


def test_a_card_reads_by_its_fields_and_tells_what_it_says(card):
    assert card.label_set == "emidec"
    assert card.validation == {"loss": 0.5}
    assert (card.started_from[0].fold, card.started_from[0].patients) == (1, None)
    assert card.says("label_set")
    assert not card.says("fold")
    assert set(card.said()) == {"label_set", "validation", "started_from"}


def test_an_entry_of_another_type_is_the_files_fault(tmp_path):
    (tmp_path / "model_card.json").write_text('{"fold": "first"}')
    with pytest.raises(InputError, match=r"model_card\.json: fold cannot be read; rematerialise the model asset"):
        ModelCard.read(tmp_path)


def test_a_card_is_completed_with_declared_entries_alone():
    card = ModelCard(fold=0).completed(seed=1)
    assert card.said() == {"fold": 0, "seed": 1}
    with pytest.raises(ValueError, match="sede"):
        card.completed(sede=1)


def test_the_file_holds_what_was_said_and_the_digest_of_the_weights(tmp_path):
    said = {
        "source": None,
        "fold": 0,
        "parents": {"studies": "v"},
        "input_size": [32, 32],
        "validation": {"rule": "positive", "dice": {"cavity": 0.5}, "mean": 0.5},
        "started_from": [{"source": "acdc", "patients": ["P1"], "weights": "x"}],
        "region": {"size_px": 96, "fold": 1, "limits": [0.1, None]},
    }
    write_model_folder(tmp_path, {"bias": torch.zeros(1)}, FrozenConfig(), ModelCard.model_validate(said))
    written = json.loads((tmp_path / "model_card.json").read_text())
    assert written == {**said, "weights_sha256": known_digest(tmp_path / "weights.safetensors")}


@pytest.mark.parametrize("text", ["[]", "3", "null", "{"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json: .*rematerialise the model asset"):
        read_model_json(tmp_path, "config.json")
