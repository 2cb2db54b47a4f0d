import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from common.errors import InputError
from imaging.labels import EMIDEC_LABELS
from runtime.checkpoint import delete_checkpoint
from runtime.compute import choose_compute
from runtime.model_card import ModelCard
from runtime.model_folder import read_weights
from runtime.report import TrainingDivergedError, silent
from segmentation.networks.blocks import SegmentationOutput
from segmentation.prediction.post_processing import STEPS
from segmentation.prediction.segmenter import load_segmenter
from segmentation.scoring.overlap import mean_dice, positive_dice
from segmentation.training import loop as train
from segmentation.training.config import TrainConfig
from segmentation.training.loop import train_segmenter
from segmentation.training.optimisers import count_plateaus, learning_rate_at
from tests.part_slices import part_slices
from tests.segmentation.toy_slices import draw_slices, toy_validation, write_store, write_toy_store

HALSR = {"name": "halsr_net", "widths": (4, 8, 8, 8), "bottleneck": 8, "module_width": 4}
TINY = {"widths": (4, 8, 8, 8, 8), "bottleneck": 8, "dropout": (0.2,)}
MATRICES = {"widths": (16, 16, 16, 16, 16), "bottleneck": 16, "dropout": (0.2,)}  # wide enough for `is_matrix`


def tiny_config(**changes) -> TrainConfig:
    base = {"network": TINY, "steps": 6, "batch": 4, "validate_every": 2, "crop_px": None}
    return TrainConfig.model_validate(base | changes)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_toy_store(tmp_path_factory.mktemp("store") / "slices.h5")


@pytest.fixture(scope="module")
def compute():
    return choose_compute("cpu", "fp32")


class Killed(Exception):
    """Stands for a process that dies."""


def kill_at(step):
    def report(now, metrics):
        if now == step:
            raise Killed

    return report


def run(store, folder, config, compute, report=silent, seed=5, card=None):
    return train_segmenter(store, toy_validation(), config, compute, folder, seed, report, card or ModelCard())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "changes",
    [{"network": TINY}, {"network": HALSR}, {"network": MATRICES, "optimiser": "muon"}],
    ids=["attention_res_unet", "halsr_net", "muon"],
)
def test_a_killed_training_resumes_bit_for_bit(store, tmp_path, changes, precision):
    compute = choose_compute("cpu", precision)
    config = tiny_config(steps=4, **changes)
    whole = run(store, tmp_path / "whole", config, compute)
    for step in (2, 4):  # the first leaves no checkpoint, the second one of step 2
        with pytest.raises(Killed):
            run(store, tmp_path / "killed", config, compute, kill_at(step))
    resumed = run(store, tmp_path / "killed", config, compute)
    expected, found = (read_weights(tmp_path / name) for name in ("whole", "killed"))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert (resumed.best_step, resumed.score) == (whole.best_step, whole.score)


def test_a_plateau_schedule_resumes_bit_for_bit(store, tmp_path, compute, monkeypatch):
    monkeypatch.setattr(train, "mean_dice", lambda _: 0.5)  # never better than the first round
    config = tiny_config(steps=8, validate_every=1, schedule="plateau", warmup_share=0)
    run(store, tmp_path / "whole", config, compute)
    with pytest.raises(Killed):
        run(store, tmp_path / "killed", config, compute, kill_at(5))  # between the first round and the plateau
    run(store, tmp_path / "killed", config, compute)
    whole, resumed = (pd.read_csv(tmp_path / name / "history.csv") for name in ("whole", "killed"))
    assert whole["learning_rate"].tolist() == pytest.approx([1e-3] * 6 + [1e-4] * 2)
    assert whole["learning_rate"].tolist() == resumed["learning_rate"].tolist()
    assert whole["loss"].tolist() == resumed["loss"].tolist()


@pytest.mark.parametrize("loss", ["generalised_dice", "generalised_dice_boundary"])
def test_losses_for_rare_tissues_train_and_resume(store, tmp_path, compute, loss):
    config = tiny_config(loss=loss, steps=4, network=HALSR)
    run(store, tmp_path / "whole", config, compute)
    with pytest.raises(Killed):
        run(store, tmp_path / "killed", config, compute, kill_at(4))
    run(store, tmp_path / "killed", config, compute)
    whole, resumed = (pd.read_csv(tmp_path / name / "history.csv")["loss"] for name in ("whole", "killed"))
    assert np.isfinite(whole).all()
    assert whole.tolist() == resumed.tolist()


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile takes a C++ compiler")
def test_a_compiled_training_has_the_losses_of_an_ordinary_one_and_resumes_bit_for_bit(store, tmp_path, compute):
    network = {"widths": (4, 8), "bottleneck": 8, "dropout": (0.0,)}
    config = tiny_config(network=network, compiled=True, steps=4)
    run(store, tmp_path / "whole", config, compute)
    with pytest.raises(Killed):
        run(store, tmp_path / "killed", config, compute, kill_at(4))
    run(store, tmp_path / "killed", config, compute)
    expected, found = (read_weights(tmp_path / name) for name in ("whole", "killed"))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    run(store, tmp_path / "ordinary", tiny_config(network=network, steps=4), compute)
    compiled, ordinary = (pd.read_csv(tmp_path / name / "history.csv")["loss"] for name in ("whole", "ordinary"))
    assert compiled.tolist() == pytest.approx(ordinary.tolist(), rel=1e-4)


def test_a_compiled_training_by_several_processes_is_refused(store, tmp_path, compute, monkeypatch):
    monkeypatch.setattr(train.Ranks, "count", 2)
    with pytest.raises(InputError, match="compiled training by several processes has never run; set compiled to false"):
        run(store, tmp_path, tiny_config(compiled=True), compute)


def test_training_leaves_torch_s_generator_alone(store, tmp_path, compute):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    run(store, tmp_path, tiny_config(steps=2), compute)
    assert torch.equal(torch.rand(1), expected)


def test_seeds_decide_the_weights(store, tmp_path, compute):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(store, tmp_path / name, tiny_config(steps=2), compute, seed=seed)
    a, b, c = (read_weights(tmp_path / name)["head.weight"] for name in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_rounds_are_reported_and_written(store, tmp_path, compute):
    reports = []
    result = run(store, tmp_path, tiny_config(steps=5), compute, lambda step, m: reports.append((step, dict(m))))
    assert [step for step, _ in reports] == [2, 4, 5]  # all steps, also of a last round that is not full
    expected = {"loss", "learning_rate", "images_per_second", "peak_memory_mb", "dice/mean"}
    expected |= {f"dice/{tissue}" for _, tissue in EMIDEC_LABELS.foreground}
    assert all(set(metrics) == expected for _, metrics in reports)
    assert all(np.isfinite(list(metrics.values())).all() for _, metrics in reports)
    history = pd.read_csv(tmp_path / "history.csv")
    assert history["step"].tolist() == [2, 4, 5]
    assert result.steps == 5


def test_the_model_folder_is_complete(store, tmp_path, compute):
    config = tiny_config(steps=2)
    result = run(store, tmp_path, config, compute, card=ModelCard(fold=3, split_digest="abc"))
    card = json.loads((tmp_path / "model_card.json").read_text())
    assert card["fold"] == 3
    assert card["split_digest"] == "abc"
    assert card["network"] == "attention_res_unet"
    assert card["label_set"] == "emidec"
    assert card["input_size"] == [32, 32]
    assert card["spacing_mm"] == 1.0
    assert card["steps"] == 2
    assert card["parameters"] == result.parameters
    assert card["validation"]["dice"] == dict(result.dice)
    assert "intended_use" in card
    assert TrainConfig.model_validate_json((tmp_path / "config.json").read_text()) == config


@pytest.mark.parametrize("checkpoint", ["stays", "is deleted"])
def test_a_training_that_is_over_is_not_repeated(store, tmp_path, compute, monkeypatch, checkpoint):
    first = run(store, tmp_path, tiny_config(steps=2), compute, card=ModelCard(seed=5))
    assert (tmp_path / "checkpoint" / "last.pt").exists()  # what is made of the model may fail yet
    if checkpoint == "is deleted":
        delete_checkpoint(tmp_path)
    monkeypatch.setattr(train, "segmentation_loss", lambda *_: pytest.fail("trains again"))
    assert run(store, tmp_path, tiny_config(steps=2), compute, card=ModelCard(seed=5)) == first


def test_the_kept_weights_are_those_of_the_best_round(store, tmp_path, compute):
    result = run(store, tmp_path, tiny_config(), compute)
    history = pd.read_csv(tmp_path / "history.csv").set_index("step")
    assert history["dice/mean"].max() == pytest.approx(result.score)
    assert history["dice/mean"].idxmax() == result.best_step
    data = toy_validation()
    prediction = load_segmenter(tmp_path, compute, flips=False).labels(data.images)
    assert mean_dice(positive_dice(data.masks, prediction, data.studies, EMIDEC_LABELS)) == result.score


@pytest.mark.parametrize("network", [TINY, HALSR], ids=["attention_res_unet", "halsr_net"])
def test_one_slice_can_be_learnt_by_heart(tmp_path, compute, network):
    images, masks = (part[3:] for part in draw_slices(4, 64))  # the slice with every tissue
    store = write_store(tmp_path / "one.h5", images, masks)
    one = part_slices(images, masks)
    rates = (0.0,) * (len(network["widths"]) + 1 if "name" in network else 1)
    widths = {"widths": tuple(2 * width for width in network["widths"]), "dropout": rates}
    config = tiny_config(
        network=network | widths,
        steps=80,
        batch=2,
        validate_every=80,
        augmentation=None,
        learning_rate=0.02,
        average_decay=0.9,
        balanced_sampling=None,
    )
    result = train_segmenter(store, one, config, compute, tmp_path / "model", 0, silent, ModelCard())
    assert result.score >= 0.99


def test_a_non_finite_loss_stops_with_the_step_and_keeps_the_checkpoint(store, tmp_path, compute, monkeypatch):
    def diverge(output, mask, *rest):
        loss = output.logits.sum() * 0 + (float("nan") if calls.append(1) or len(calls) == 4 else 1.0)
        return loss, {"loss": loss.detach()}

    calls: list[int] = []
    monkeypatch.setattr(train, "segmentation_loss", diverge)
    with pytest.raises(TrainingDivergedError, match=r"loss of step 4 is nan; last metrics: step 2, loss 1"):
        run(store, tmp_path, tiny_config(), compute)
    assert (tmp_path / "checkpoint" / "last.pt").exists()
    assert not (tmp_path / "weights.safetensors").exists()


def test_another_configuration_or_seed_does_not_resume(store, tmp_path, compute):
    with pytest.raises(Killed):
        run(store, tmp_path, tiny_config(), compute, kill_at(4))
    with pytest.raises(InputError, match=r"learning_rate: 0.001 then, 0.5 now"):
        run(store, tmp_path, tiny_config(learning_rate=0.5), compute)
    with pytest.raises(InputError, match=r"another training .seed: 5 then, 6 now"):
        run(store, tmp_path, tiny_config(), compute, seed=6)


def test_other_training_or_validation_slices_do_not_resume(store, tmp_path, compute):
    with pytest.raises(Killed):
        run(store, tmp_path / "model", tiny_config(), compute, kill_at(4))
    other = write_toy_store(tmp_path / "other.h5", count=len(store) + 1)
    with pytest.raises(InputError, match=r"another training .training_set: .* delete"):
        run(other, tmp_path / "model", tiny_config(), compute)
    moved = replace(toy_validation(), masks=np.roll(toy_validation().masks, 1, axis=2))
    with pytest.raises(InputError, match=r"another training .validation: "):
        train_segmenter(store, moved, tiny_config(), compute, tmp_path / "model", 5, silent, ModelCard())


def test_a_gradient_that_is_not_finite_stops_before_it_reaches_the_checkpoint(store, tmp_path, compute, monkeypatch):
    def clip(parameters, largest):
        calls.append(1)
        if len(calls) == 4:  # the last step of the second round; its loss was finite
            next(iter(parameters)).grad[:] = float("inf")

    calls: list[int] = []
    monkeypatch.setattr(train, "clip_gradients", clip)
    with pytest.raises(
        TrainingDivergedError, match=r"a weight is not finite after step 4; last metrics: step 2, .* kept"
    ):
        run(store, tmp_path, tiny_config(), compute)
    kept = torch.load(tmp_path / "checkpoint" / "last.pt", weights_only=True)["state"]
    assert kept["step"] == 2
    assert all(torch.isfinite(tensor).all() for tensor in kept["network"].values())


def test_a_loss_that_diverges_at_once_says_that_there_is_no_checkpoint(store, tmp_path, compute, monkeypatch):
    def diverge(output, *rest):
        loss = output.logits.sum() * float("nan")
        return loss, {"loss": loss.detach()}

    monkeypatch.setattr(train, "segmentation_loss", diverge)
    with pytest.raises(
        TrainingDivergedError, match=r"loss of step 1 is nan; last metrics: none yet; .* no checkpoint yet"
    ):
        run(store, tmp_path, tiny_config(), compute)


def test_patience_stops_early_and_only_when_asked(store, tmp_path, compute, monkeypatch):
    monkeypatch.setattr(train, "mean_dice", lambda _: 0.5)  # never better than the first round
    assert run(store, tmp_path / "off", tiny_config(steps=12), compute).steps == 12
    patient = run(store, tmp_path / "on", tiny_config(steps=12, patience=2), compute)
    assert patient.steps == 6
    assert patient.best_step == 2


def test_regions_that_the_network_cannot_halve_are_refused_with_those_that_work(tmp_path, compute):
    store = write_toy_store(tmp_path / "odd.h5", size=40)
    with pytest.raises(InputError, match=r"40 × 40 cannot be halved 5 times; .* sizes that work are 32, 64"):
        run(store, tmp_path / "model", tiny_config(), compute)


def test_regions_are_refused_before_a_step_is_taken_even_where_the_crop_can_be_halved(tmp_path, compute, monkeypatch):
    monkeypatch.setattr(train, "build_network", lambda *_: pytest.fail("a network was built"))
    store = write_toy_store(tmp_path / "odd.h5", size=40)
    with pytest.raises(InputError, match="40 × 40 cannot be halved 5 times"):
        run(store, tmp_path / "model", tiny_config(crop_px=32), compute)


@pytest.mark.parametrize("flips", [True, False])
def test_the_card_records_which_post_processing_helped_as_predictions_are_made(store, tmp_path, compute, flips):
    run(store, tmp_path, tiny_config(steps=2, flips_at_test_time=flips), compute)
    told = json.loads((tmp_path / "model_card.json").read_text())["post_processing"]
    assert told["rule"] == "positive"
    assert set(told["mean_dice"]) == {"none", *STEPS}
    data, drawn = toy_validation(), load_segmenter(tmp_path, compute).labels(toy_validation().images)
    without = mean_dice(positive_dice(data.masks, drawn, data.studies, EMIDEC_LABELS))
    assert told["mean_dice"]["none"] == pytest.approx(without)
    assert all(told["mean_dice"][name] > told["mean_dice"]["none"] for name in told["chosen"])


def test_a_crop_larger_than_the_region_is_refused(store, tmp_path, compute):
    with pytest.raises(InputError, match="crop_px 64 is larger than the stored regions of 32"):
        run(store, tmp_path, tiny_config(crop_px=64), compute)


def test_a_network_without_gradients_elsewhere_is_trained_on_crops(tmp_path, compute):
    store = write_toy_store(tmp_path / "large.h5", size=64)
    result = train_segmenter(
        store,
        toy_validation(size=64),
        tiny_config(steps=2, crop_px=32),
        compute,
        tmp_path / "m",
        0,
        silent,
        ModelCard(),
    )
    assert result.steps == 2


def test_learning_rate_rises_falls_and_ends_at_its_share():
    config = tiny_config(steps=100, warmup_share=0.1, learning_rate=1.0, final_learning_rate_share=0.01)
    rates = [learning_rate_at(config, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(0.01)
    assert learning_rate_at(config.model_copy(update={"schedule": "constant"}), 99) == 1.0


def test_plateaus_are_counted_as_pytorch_counts_them():
    scores = [0.1, 0.3, 0.3, 0.2, 0.3, 0.1, 0.3, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.5]
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    oracle = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, mode="max", patience=4, threshold=0, eps=0)
    config = tiny_config(schedule="plateau", learning_rate=1.0, warmup_share=0, final_learning_rate_share=1e-9)
    for number, score in enumerate(scores, start=1):
        oracle.step(score)
        expected = optimiser.param_groups[0]["lr"]
        assert learning_rate_at(config, 0, scores[:number]) == pytest.approx(expected)
    assert count_plateaus(scores) == 3
    assert count_plateaus([]) == 0


def test_a_plateau_schedule_warms_up_and_has_a_floor():
    config = tiny_config(steps=100, schedule="plateau", warmup_share=0.1, learning_rate=1.0)
    assert learning_rate_at(config, 0, [0.0] * 50) == pytest.approx(0.1)
    assert learning_rate_at(config, 10) == 1.0
    assert learning_rate_at(config, 10, [0.0] * 50) == config.final_learning_rate_share


def test_positive_dice_counts_only_patients_that_have_the_tissue():
    reference, prediction = np.zeros((3, 4, 4), np.uint8), np.zeros((3, 4, 4), np.uint8)
    reference[0, 0], prediction[0, 0] = 1, 1  # patient a, two slices pooled: 4 of 8 reference pixels found
    reference[1, 0] = 1
    prediction[2, 0] = 1  # patient b has none: left out, although wrong
    dice = positive_dice(reference, prediction, np.array(["a", "a", "b"]), EMIDEC_LABELS)
    assert dice == {"cavity": pytest.approx(2 * 4 / (8 + 4))}
    assert mean_dice({}) == 0.0


def test_outputs_of_the_networks_are_named():
    assert SegmentationOutput._fields == ("logits", "auxiliary")
