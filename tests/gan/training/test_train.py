import logging

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from common.errors import InputError
from gan.generation.hole import ventricle_distance
from gan.generation.shades import read_shades, tissue_shades
from gan.generation.slices import load_generator, redraw
from gan.quality.proof import peak_signal_to_noise
from gan.training import loop as train
from gan.training.batches import ResidentSlices
from gan.training.config import Pix2PixConfig
from gan.training.loop import (
    EXPLODING_LOSS,
    MODE_COLLAPSE,
    WINNING_DISCRIMINATOR,
    PaintedSlices,
    name_troubles,
    validation_figures,
)
from gan.training.steps import Players
from runtime.model_card import ModelCard, read_model_json
from runtime.model_folder import read_weights
from runtime.report import TrainingDivergedError, silent
from tests.part_slices import part_slices


@pytest.fixture
def start(make_store, make_slices, tiny_config, compute, tmp_path):
    """Start (or continue) a training of the tiny configuration."""

    def start(folder="model", report=silent, seed=5, **changes):
        images, masks = make_slices(4, seed=9)
        config = tiny_config.model_copy(update=changes)
        return train.train_pix2pix(
            make_store(),
            part_slices(images, masks),
            config,
            compute,
            tmp_path / folder,
            seed,
            report,
            ModelCard(fold=0),
        )

    return start


@pytest.fixture
def run(make_store, make_slices, tiny_config, compute, tmp_path):
    slices = ResidentSlices.load(make_store(), tiny_config, compute)
    validation = PaintedSlices.choose(part_slices(*make_slices(4, seed=9)), tiny_config)
    return train._Training(Players(slices, compute, seed=0), validation, tmp_path / "model")


@pytest.fixture
def make_players(make_store, tiny_config, compute):
    """Make players of the tiny configuration with changes."""

    def make(**changes):
        config = type(tiny_config).model_validate(tiny_config.model_dump() | changes)
        return Players(ResidentSlices.load(make_store(), config, compute), compute, seed=0)

    return make


def gradients(network):
    return [parameter.grad for parameter in network.parameters() if parameter.grad is not None]


@pytest.mark.parametrize(
    ("changes", "frozen"),
    [
        ({}, "discriminator"),
        ({"fine_discriminator_widths": (8, 8)}, "discriminator"),
        ({"adversarial_weight": 0.0, "reader_weight": 1.0, "detail_px": 16}, "reader"),
    ],
)
def test_a_judge_s_term_reaches_the_generator_and_not_the_frozen_judge(make_players, changes, frozen):
    players = make_players(l1_weight=0.0, **changes)
    judge = getattr(players, frozen)
    before = {name: value.clone() for name, value in judge.named_parameters()}
    batch = players.slices.batch(0, 1)
    players.generator_step(batch, players.draw(batch))
    assert any(gradient.abs().sum() > 0 for gradient in gradients(players.generator))
    assert not gradients(judge)
    assert all(torch.equal(value, before[name]) for name, value in judge.named_parameters())
    assert all(parameter.requires_grad for parameter in judge.parameters())


def test_the_judges_steps_leave_the_generator_alone(make_players):
    players = make_players(reader_weight=1.0)
    batch = players.slices.batch(0, 1)
    players.discriminator_step(batch, players.draw(batch).images.detach())
    players.reader_step(batch)
    assert gradients(players.discriminator)
    assert gradients(players.reader)
    assert not gradients(players.generator)


def test_the_reader_learns_to_read_real_slices(make_players):
    players = make_players(reader_weight=1.0, batch=4)
    losses = [float(players.reader_step(players.slices.batch(0, step))["reader_loss"]) for step in range(40)]
    assert losses[-1] < 0.7 * losses[0]


def test_a_batch_depends_on_seed_and_step_alone(make_players):
    slices = make_players().slices
    first, again, other = (slices.batch(0, step).condition.for_generator() for step in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_crop_holds_the_whole_hole(make_players):
    whole, cropped = (make_players(**changes).slices.batch(0, 1) for changes in ({}, {"crop_px": 24}))
    assert cropped.real.shape == (2, 1, 24, 24)
    assert torch.equal(cropped.condition.hole.sum(dim=(1, 2, 3)), whole.condition.hole.sum(dim=(1, 2, 3)))
    assert torch.equal(cropped.masks.sum(), whole.masks.sum())


def test_holes_reach_further_by_chance_and_never_less_than_the_margin(make_players):
    slices = make_players(hole_spread_px=4).slices
    seen = set()
    for step in range(12):
        batch = slices.batch(0, step)
        distance = torch.from_numpy(ventricle_distance(batch.masks[:, 0].numpy())).unsqueeze(1)
        reach = torch.where(batch.holes > 0, distance, 0).amax(dim=(1, 2, 3))
        seen |= set(reach.tolist())
        for hole, far, reached in zip(batch.holes, distance, reach, strict=True):
            assert torch.equal(hole > 0, far <= reached)
    assert seen == {2, 3, 4, 5, 6}


def test_grain_and_a_blurred_l1_are_terms_of_the_loss(make_players):
    plain, minded = make_players(), make_players(grain_weight=2.0, l1_blur_px=2.0)
    terms, more = plain.take_step(1), minded.take_step(1)
    assert "grain_loss" not in terms
    assert torch.isfinite(more["grain_loss"])
    assert more["l1_loss"] < terms["l1_loss"]  # grain and misplaced edges are blurred away


def test_grain_is_asked_of_the_grain_head_alone(make_players):
    players = make_players(grain_px=(0.0, 1.0), grain_weight=1.0, noise_channels=1)
    batch = players.slices.batch(0, 1)
    drawing = players.draw(batch)
    assert torch.equal(drawing.images, drawing.grain)
    head = players.generator.head
    asked = [head.grain.strength.weight, head.draw.weight]
    of_grain, of_drawing = torch.autograd.grad(drawing.grain.sum(), asked)
    assert of_grain.abs().sum() > 0
    assert not of_drawing.any()


def test_without_averaging_the_present_generator_is_judged(make_players):
    players = make_players(average_decay=0.0)
    players.take_step(1)
    averaged = players.averaged_generator().generator.state_dict()
    assert all(torch.equal(averaged[name], value) for name, value in players.generator.state_dict().items())


def test_one_pair_is_learned(make_store, make_slices, compute, tmp_path):
    config = Pix2PixConfig(
        widths=(16, 32, 32),
        full_resolution_width=16,
        discriminator_widths=(8, 16),
        batch=1,
        steps=300,
        validate_every=300,
        hole_margin_px=2,
        learning_rate=2e-3,
        average_decay=0.9,
        noise_channels=0,
    )
    images, masks = make_slices(1)
    rounds = []
    train.train_pix2pix(
        make_store(1),
        part_slices(images, masks),
        config,
        compute,
        tmp_path / "one",
        0,
        lambda _, figures: rounds.append(figures),
        ModelCard(),
    )
    drawn = redraw(tmp_path / "one", images, masks, compute, seed=0)
    assert rounds[-1]["l1_ventricle"] < 0.02
    assert peak_signal_to_noise(drawn, images, masks > 0) >= 30


@pytest.fixture
def learned(make_store, make_slices, compute, tmp_path):
    """A generator that draws whole slices from their labels, trained on twelve rings."""
    config = Pix2PixConfig(
        context=False,
        widths=(16, 32, 32),
        discriminator_widths=(8, 16),
        batch=4,
        steps=150,
        validate_every=50,
        learning_rate=2e-3,
        average_decay=0.9,
    )
    train.train_pix2pix(
        make_store(12), part_slices(*make_slices(4)), config, compute, tmp_path / "model", 0, silent, ModelCard()
    )
    return tmp_path / "model"


def test_swapped_labels_change_the_image_there_and_hardly_elsewhere(learned, compute, make_slices):
    images, masks = make_slices(6, seed=4)
    swapped = masks.copy()
    left = np.arange(masks.shape[2]) < 16  # half of it, so that something is far away
    swapped[(masks == 1) & left] = 3
    drawn, other = (redraw(learned, images, labels, compute, seed=0) for labels in (masks, swapped))
    change, touched = np.abs(drawn - other), masks != swapped
    distance_mm = np.stack([distance_transform_edt(~one) for one in touched])  # pixels of 1 mm
    assert change[touched].mean() > 0.1
    assert change[distance_mm > 20].mean() < 0.05 * change[touched].mean()


class Killed(Exception):
    pass


def kill_at(step):
    def report(reached, figures):
        if reached == step:
            raise Killed

    return report


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dropout": 0.5, "normalisation": "instance", "average_decay": 0.0},
        {"reader_weight": 2.0, "decoder_noise": True, "crop_px": 24, "fine_discriminator_widths": (8, 8)},
    ],
)
def test_a_killed_training_continues_bit_for_bit(start, tmp_path, changes):
    whole = start("whole", **changes)
    with pytest.raises(Killed):
        start("killed", report=kill_at(2), **changes)
    assert (tmp_path / "killed" / "checkpoint").exists()
    continued = start("killed", **changes)
    expected, weights = read_weights(tmp_path / "whole"), read_weights(tmp_path / "killed")
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    assert continued.validation["selection"] == whole.validation["selection"]
    for folder in ("whole", "killed"):
        assert pd.read_csv(tmp_path / folder / "history.csv")["step"].tolist() == [2, 4]


def test_the_lenders_of_shades_are_the_training_slices_and_no_validation_slice(start, make_store, tmp_path):
    start(context=True, shades=True, shade_neighbours=2)
    training = make_store()
    lent = read_shades(tmp_path / "model").shades
    np.testing.assert_array_equal(lent, tissue_shades(training.images(), training.masks(), 5))


def test_another_seed_trains_another_generator(start, tmp_path):
    start("one", seed=1)
    start("two", seed=2)
    one, two = read_weights(tmp_path / "one"), read_weights(tmp_path / "two")
    assert any(not torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("changes", "seed", "match"),
    [
        ({"l1_weight": 1.0}, 5, "l1_weight: 100.0 then, 1.0 now"),
        ({}, 6, "belongs to another training .seed: 5 then, 6 now"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(start, changes, seed, match):
    with pytest.raises(Killed):
        start(report=kill_at(2))
    with pytest.raises(InputError, match=match):
        start(seed=seed, **changes)


def test_the_kept_generator_is_the_one_of_the_best_validation_round(start, tmp_path, compute, make_slices, tiny_config):
    rounds = {}
    result = start(report=rounds.__setitem__, steps=6, learning_rate=0.02)
    assert result.selected_step == max(rounds, key=lambda step: rounds[step]["selection"])
    slices = PaintedSlices.choose(part_slices(*make_slices(4, seed=9)), tiny_config)
    again = validation_figures(load_generator(tmp_path / "model", compute), slices, 5)
    assert again["selection"] == pytest.approx(result.validation["selection"], abs=1e-6)
    card = read_model_json(tmp_path / "model", "model_card.json")
    assert (card["fold"], card["label_set"], card["selected_step"]) == (0, "emidec", result.selected_step)


def test_cross_entropy_trains_on_whole_slices(start):
    result = start(adversarial="bce", context=False, steps=2)
    assert np.isfinite(list(result.validation.values())).all()


def test_a_loss_that_is_not_finite_stops_the_training(run):
    next(run.players.generator.parameters()).data.fill_(float("nan"))
    run.take_step(1)
    with pytest.raises(TrainingDivergedError, match=r"loss.* at step 1; last metrics: none yet"):
        run.validate()


def test_no_ventricle_in_validation_is_said(start, make_store, tiny_config, compute, tmp_path):
    slices = part_slices(np.zeros((3, 32, 32), np.float32), np.zeros((3, 32, 32), np.uint8))
    with pytest.raises(InputError, match="none of 3 validation slices shows a ventricle"):
        train.train_pix2pix(make_store(), slices, tiny_config, compute, tmp_path, 0, silent, ModelCard())


HEALTHY = {"generator_loss": 10.0, "discriminator_accuracy": 0.7, "variety": 0.9}


@pytest.mark.parametrize(
    ("figure", "value", "name"),
    [
        ("generator_loss", 80.0, EXPLODING_LOSS),
        ("discriminator_accuracy", 0.999, WINNING_DISCRIMINATOR),
        ("variety", 0.1, MODE_COLLAPSE),
    ],
)
def test_troubles_are_named(figure, value, name):
    assert name_troubles(HEALTHY, [HEALTHY]) == []
    assert name_troubles(HEALTHY | {figure: value}, [HEALTHY]) == [name]


def test_a_trouble_is_in_the_log_and_in_the_result(run, caplog, monkeypatch):
    monkeypatch.setattr(train, "name_troubles", lambda *_: [MODE_COLLAPSE])
    run.take_step(1)
    with caplog.at_level(logging.WARNING):
        run.validate()
    assert "pix2pix, step 1: mode collapse" in caplog.text
    assert run.finish(ModelCard()).troubles == (MODE_COLLAPSE,)
