"""Trainings that start from another model's weights: what is taken over, what is refused, what the card tells."""

import pytest
import torch

from common.errors import InputError
from runtime.compute import choose_compute
from runtime.model_card import Ancestor, ModelCard, read_model_json
from runtime.model_folder import read_weights, weights_digest, write_model_folder
from runtime.report import silent
from segmentation.localiser.config import LocaliserConfig
from segmentation.networks.table import build_network
from segmentation.training.config import TrainConfig
from segmentation.training.loop import train_segmenter
from segmentation.training.start_weights import lineage, refuse_tested, start_from
from tests.segmentation.toy_slices import toy_validation, write_toy_store

ATTENTION = {"widths": (4, 8, 8, 8, 8), "bottleneck": 8, "dropout": (0.2,)}
HALSR = {"name": "halsr_net", "widths": (4, 8, 8, 8), "bottleneck": 8, "module_width": 4}


def write_model(folder, network=ATTENTION, classes=3, **card):
    config = TrainConfig.model_validate({"network": network})
    torch.manual_seed(7)
    weights = build_network(config.network, classes).state_dict()
    write_model_folder(folder, weights, config, ModelCard(**card))
    return folder


def test_a_model_of_another_kind_is_refused_in_words(tmp_path):
    write_model_folder(tmp_path / "localiser", {}, LocaliserConfig(), ModelCard())
    config = TrainConfig.model_validate({"network": ATTENTION}).network
    with pytest.raises(
        InputError, match=r"localiser/config.json: is no TrainConfig \(.*input_px.*\); name another model"
    ):
        start_from(build_network(config, 5), tmp_path / "localiser", config)


def train(tmp_path, start, **changes):
    config = TrainConfig.model_validate(
        {"network": ATTENTION, "steps": 2, "batch": 4, "validate_every": 1, "start_from": start} | changes
    )
    store = write_toy_store(tmp_path / "slices.h5")
    compute, folder = choose_compute("cpu", "fp32"), tmp_path / "model"
    train_segmenter(store, toy_validation(), config, compute, folder, 5, silent, ModelCard(source="emidec"))
    return folder


@pytest.mark.parametrize("network", [ATTENTION, HALSR], ids=["attention_res_unet", "halsr_net"])
def test_all_but_the_layers_that_draw_other_tissues_are_taken_over(tmp_path, network):
    folder = write_model(tmp_path / "cine", network)
    config = TrainConfig.model_validate({"network": network}).network
    torch.manual_seed(8)
    built = build_network(config, 5)
    before = {name: tensor.clone() for name, tensor in built.state_dict().items()}
    start_from(built, folder, config)
    given = read_weights(folder)
    anew = {name for name, tensor in before.items() if tensor.shape != given[name].shape}
    assert 0 < len(anew) < len(given) / 10
    for name, tensor in built.state_dict().items():
        assert torch.equal(tensor, before[name] if name in anew else given[name])


def test_the_same_tissues_take_everything_over(tmp_path):
    folder = write_model(tmp_path / "other", classes=5)
    config = TrainConfig.model_validate({"network": ATTENTION}).network
    built = build_network(config, 5)
    start_from(built, folder, config)
    given = read_weights(folder)
    assert all(torch.equal(tensor, given[name]) for name, tensor in built.state_dict().items())


def test_a_training_follows_its_start_and_its_card_names_it(tmp_path):
    start = write_model(tmp_path / "cine", source="acdc", fold=0, patients=["A", "B"], profile="quick")
    folder = train(tmp_path, start, learning_rate=1e-9, average_decay=0.0)
    given, found = read_weights(start), read_weights(folder)
    name = "bottleneck.first.weight" if "bottleneck.first.weight" in found else next(iter(found))
    torch.testing.assert_close(found[name], given[name], atol=1e-6, rtol=0)
    expected = {"source": "acdc", "fold": 0, "patients": ["A", "B"], "profile": "quick"}
    assert read_model_json(folder, "model_card.json")["started_from"] == [expected | {"weights": weights_digest(start)}]
    assert lineage(folder)[1] == Ancestor(**expected, weights=weights_digest(start))


def test_a_training_from_random_weights_names_no_start(tmp_path):
    assert "started_from" not in read_model_json(train(tmp_path, None), "model_card.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": (4, 8, 8, 8, 16)}, r"widths \(4, 8, 8, 8, 8\) instead of \(4, 8, 8, 8, 16\)"),
        (HALSR, "name attention_res_unet instead of halsr_net"),
    ],
)
def test_another_network_is_refused(tmp_path, changes, message):
    config = TrainConfig.model_validate({"network": {**ATTENTION, **changes} if "name" not in changes else changes})
    with pytest.raises(InputError, match=message):
        start_from(build_network(config.network), write_model(tmp_path / "cine"), config.network)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"config.json: cannot be read"):
        train(tmp_path, tmp_path / "nothing")
    with pytest.raises(InputError, match="no model folder to start from"):
        weights_digest(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("card", "source"),
    [
        ({"source": "acdc", "patients": ["P1"]}, "emidec"),  # another hospital's P1
        ({"source": "emidec", "patients": ["P2", "P3"]}, "emidec"),  # the same fold's training
        ({"source": "acdc"}, "emidec"),
        ({"patients": ["P2"]}, None),
    ],
)
def test_a_start_that_has_not_seen_the_tested_patients_passes(tmp_path, card, source):
    refuse_tested(write_model(tmp_path / "start", **card), source, ["P1", "P9"])


@pytest.mark.parametrize(
    ("card", "source", "message"),
    [
        ({"source": "emidec", "patients": ["P1", "P2"]}, "emidec", "was trained on P1, whom this fold tests"),
        ({"source": "emidec"}, "emidec", "does not tell on which patients of emidec"),
        ({"patients": ["P1"]}, "emidec", "was trained on P1, whom"),
        ({"source": "acdc", "patients": ["P1"]}, None, "was trained on P1, whom"),
        (
            {"source": "acdc", "patients": [], "started_from": [{"source": "emidec", "patients": ["P1"]}]},
            "emidec",
            "was trained on P1, whom",
        ),
    ],
)
def test_a_start_that_may_have_seen_the_tested_patients_is_refused(tmp_path, card, source, message):
    with pytest.raises(InputError, match=message):
        refuse_tested(write_model(tmp_path / "start", **card), source, ["P1", "P9"])


def test_many_tested_patients_are_counted(tmp_path):
    names = [f"P{number}" for number in range(8)]
    start = write_model(tmp_path / "start", source="emidec", patients=names)
    with pytest.raises(InputError, match="P0, P1, P2, P3, P4 and 3 more, whom"):
        refuse_tested(start, "emidec", names)
