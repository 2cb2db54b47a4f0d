"""Synthetic slices beside real ones: which rows are drawn when, what they weigh, and that no arm sees more steps."""

import numpy as np
import pytest
import torch

from common.errors import InputError
from engine.settings import load_settings
from imaging.slices.balance import BalanceConfig
from runtime.compute import choose_compute
from runtime.model_card import ModelCard
from runtime.model_folder import read_weights
from runtime.report import silent
from segmentation.training.batches import RowSampler, are_synthetic
from segmentation.training.config import MixingConfig, TrainConfig
from segmentation.training.loop import _row_weights, train_segmenter
from tests.segmentation.toy_slices import draw_slices, toy_validation, write_store
from tests.segmentation.training.test_train import Killed, kill_at, tiny_config

COUNT = 48
ARMS = ("real_only", "real_plus_gan")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A training set as `add` makes it: three real slices for each synthetic one."""
    folder = tmp_path_factory.mktemp("mixed")
    origins = ["synthetic" if number // 4 % 4 == 0 else "augmented" for number in range(COUNT)]
    return write_store(folder / "slices.h5", *draw_slices(COUNT, 32), origin=origins)


@pytest.mark.parametrize("balance", [None, BalanceConfig()])
def test_the_last_steps_draw_real_slices_alone(store, balance):
    mixed, first = (RowSampler(store, 8, balance, 3, real_from=step) for step in (12, None))
    synthetic = are_synthetic(store)
    drawn = np.stack([synthetic[mixed.rows(step)] for step in range(24)])
    assert drawn[:12].any()
    assert not drawn[12:].any()
    for step in range(12):
        assert np.array_equal(mixed.rows(step), first.rows(step))


def test_real_slices_alone_come_once_an_epoch(store):
    sampler = RowSampler(store, 4, None, 3, real_from=5)
    real = np.flatnonzero(~are_synthetic(store))
    rows = np.concatenate([sampler.rows(5 + step) for step in range(len(real) // 2)])
    for epoch in rows[: 2 * len(real)].reshape(2, -1):
        assert sorted(epoch) == real.tolist()


def test_a_set_without_real_slices_has_no_real_last_steps(tmp_path):
    store = write_store(tmp_path / "slices.h5", *draw_slices(4, 32), origin="synthetic")
    with pytest.raises(InputError, match="holds no real slices, which the last steps want; set real_last_share=0"):
        RowSampler(store, 2, None, 0, real_from=1)


def test_added_slices_leave_as_many_draws_of_real_ones(store):
    mixing = MixingConfig(protocol="add", synthetic_per_real=1 / 3)
    alone = TrainConfig(steps=600, batch=8)
    both = [mixing.training(alone, with_synthetic) for with_synthetic in (False, True)]
    assert [config.steps for config in both] == [800, 800]
    sampler = RowSampler(store, 8, BalanceConfig(), seed=0)
    real = sum(int((~are_synthetic(store)[sampler.rows(step)]).sum()) for step in range(800))
    assert real == pytest.approx(600 * 8, rel=0.03)


@pytest.mark.parametrize(
    ("protocol", "arms", "steps"),
    [
        ("replace", ({"augmented_slices": 160}, {"augmented_slices": 80, "synthetic_slices": 80}), 40),
        ("add", ({"augmented_slices": 160}, {"augmented_slices": 160, "synthetic_slices": 40}), 50),
        ("synthetic_first", ({"augmented_slices": 160}, {"augmented_slices": 80, "synthetic_slices": 80}), 40),
    ],
)
def test_no_arm_sees_more_steps(protocol, arms, steps):
    settings = load_settings("tiny", [f"mixing.protocol={protocol}", "mixing.synthetic_per_real=0.25"])
    assert tuple(settings.arm(name) for name in ARMS) == arms
    assert settings.synthetic_slices == arms[1]["synthetic_slices"]
    for network in ("attention_res_unet", "halsr_net"):
        trained = [settings.training(network, name) for name in ARMS]
        assert [config.steps for config in trained] == [steps, steps]
        assert trained[0].model_copy(update={"steps": 40}) == settings.network(network)  # real slices as ever
        assert trained[1].real_last_share == (0.4 if protocol == "synthetic_first" else 0)


def test_the_source_s_protocol_trains_both_arms_as_the_profile_says():
    settings = load_settings("paper")
    for name in ARMS:
        assert settings.training("halsr_net", name) == settings.halsr_net


def test_a_share_of_equal_totals_is_refused_where_slices_are_added():
    with pytest.raises(InputError, match=r"synthetic_share 0.3 .* set mixing.synthetic_per_real, or mixing.protocol=r"):
        load_settings("quick", ["synthetic_share=0.3"])
    assert load_settings("quick", ["synthetic_share=0.3", "mixing.protocol=replace"]).synthetic_slices == 900


def test_only_synthetic_slices_take_the_weight(store, tmp_path):
    weights = _row_weights(store, 0.25)
    assert set(weights[are_synthetic(store)]) == {0.25}
    assert set(weights[~are_synthetic(store)]) == {1.0}
    assert _row_weights(store, 1.0) is None
    settings = load_settings("tiny", ["mixing.synthetic_weight=0.25"])
    assert [settings.training("halsr_net", name).synthetic_weight for name in ARMS] == [1.0, 0.25]


def test_a_killed_training_of_mixed_slices_resumes_bit_for_bit(store, tmp_path):
    compute = choose_compute("cpu", "fp32")
    config = tiny_config(real_last_share=0.5, synthetic_weight=0.5)

    def run(name, report=silent):
        return train_segmenter(store, toy_validation(), config, compute, tmp_path / name, 5, report, ModelCard())

    run("whole")
    with pytest.raises(Killed):
        run("killed", kill_at(4))
    run("killed")
    expected, found = (read_weights(tmp_path / name) for name in ("whole", "killed"))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_the_weight_and_the_schedule_change_the_training(store, tmp_path):
    compute, weights = choose_compute("cpu", "fp32"), []
    for number, changes in enumerate(({}, {"synthetic_weight": 0.1}, {"real_last_share": 0.5})):
        config, folder = tiny_config(steps=2, **changes), tmp_path / str(number)
        train_segmenter(store, toy_validation(), config, compute, folder, 5, silent, ModelCard())
        weights.append(read_weights(folder))
    name = next(name for name, value in weights[0].items() if value.dim() == 4)
    assert not torch.equal(weights[0][name], weights[1][name])
    assert not torch.equal(weights[0][name], weights[2][name])
