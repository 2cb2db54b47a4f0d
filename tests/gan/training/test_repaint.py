"""Lesions repainted in real hearts: the masks, the holes, the training."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from common.errors import InputError
from common.seeds import random_generator
from gan.generation.hole import lesion_hole, own_hole
from gan.generation.shades import ShadeBook, seen_labels
from gan.generation.slices import generate_slices
from gan.generation.synthesiser import build_condition
from gan.networks.discriminator import reading_loss
from gan.simulator import HEALED_ANATOMY, MaskSimulator, SimulatorConfig, StrategyShares, write_lesion_masks
from gan.simulator.anatomy import read_anatomy
from gan.simulator.lesion_model import angle_between, measure_lesion
from gan.training.batches import VARIANTS, ResidentSlices, complete_rows, training_holes
from gan.training.config import PRESETS, Pix2PixConfig, SynthesisConfig
from gan.training.loop import PaintedSlices, train_pix2pix
from gan.training.steps import Players
from imaging.labels import EMIDEC_LABELS, Tissue
from imaging.slices.balance import BalanceConfig
from imaging.slices.store import SliceStore
from runtime.model_card import ModelCard
from runtime.report import silent
from tests.gan.simulator_slices import draw_masks, ring, write_store
from tests.part_slices import part_slices

CUT = SimulatorConfig(paint="lesion", hole_margin_px=1, hole_spread_px=2)
CATEGORIES = ["no_infarct", "infarct", "no_reflow"]


@pytest.fixture(scope="module")
def simulator():
    masks, patients = draw_masks()
    return MaskSimulator(masks, patients, EMIDEC_LABELS, CUT)


@pytest.fixture
def config(tiny_config):
    values = tiny_config.model_dump() | {"paint": "lesion", "hole_margin_px": 1, "hole_spread_px": 1, "seam_px": 1}
    return Pix2PixConfig.model_validate(values | {"shades": True})


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from(CATEGORIES))
def test_only_the_wall_of_the_real_heart_changes(simulator, seed, category):
    draft = simulator.simulate(category, random_generator(seed, "test"))
    before = simulator.masks[draft.row]
    wall = before >= Tissue.NORMAL_MYOCARDIUM
    np.testing.assert_array_equal(draft.mask[~wall], before[~wall])
    assert (draft.mask[wall] >= Tissue.NORMAL_MYOCARDIUM).all()
    assert draft.hole.any()
    assert not draft.hole[~wall].any()
    assert draft.hole[before >= Tissue.INFARCT].all()
    assert draft.hole[draft.mask >= Tissue.INFARCT].all()
    assert (draft.mask >= Tissue.INFARCT).any() == (category != "no_infarct")
    assert (draft.mask == Tissue.NO_REFLOW).any() == (category == "no_reflow")
    if category == "no_infarct":
        assert draft.strategy == HEALED_ANATOMY


def test_patients_with_and_without_infarct_receive(simulator):
    drafts = [simulator.simulate(name, random_generator(0, name, n)) for name in CATEGORIES for n in range(25)]
    for name in range(3):
        had = {bool((simulator.masks[draft.row] >= 3).any()) for draft in drafts[25 * name : 25 * name + 25]}
        assert had == {True, False}


def test_neighbouring_slices_continue_the_lesion():
    masks, patients = draw_masks()
    grown = StrategyShares(synthetic_anatomy=0, hybrid_injection=1, cross_subject_fusion=0)
    config = SimulatorConfig(paint="lesion", shares=grown, lesion_plans=1)
    made = {}
    simulator = MaskSimulator(masks, patients, EMIDEC_LABELS, config, seed=4)
    for number in range(60):
        draft = simulator.simulate("infarct", random_generator(1, "test", number))
        anatomy = read_anatomy(draft.mask)
        measured = measure_lesion(anatomy, draft.mask[anatomy.box])
        made.setdefault(patients[draft.row], []).append((measured.angle, measured.transmurality))
    apart = [abs(angle_between(np.array(a), found[0][0])).max() for found in made.values() for a, _ in found]
    depths = [np.ptp([depth for _, depth in found]) for found in made.values()]
    assert len(made) == 8
    assert np.median(apart) < 0.3
    assert np.median(depths) < 0.3
    assert np.ptp([found[0][0] for found in made.values()]) > 1  # patients differ


def test_lesions_of_a_plan_come_from_one_lender():
    masks, patients = draw_masks()
    carried = StrategyShares(synthetic_anatomy=0, hybrid_injection=0, cross_subject_fusion=1)
    config = SimulatorConfig(paint="lesion", shares=carried, lesion_plans=1, maximum_misfit=1)
    simulator = MaskSimulator(masks, patients, EMIDEC_LABELS, config)
    lenders = {}
    for number in range(40):
        draft = simulator.simulate("infarct", random_generator(1, "test", number))
        recipient, donor = draft.lenders
        lenders.setdefault(patients[recipient], set()).add(patients[donor])
        assert recipient % 3 == donor % 3  # three slices a patient: the lender's slice at the recipient's height
    assert all(len(names) == 1 for names in lenders.values())


def test_a_lesions_hole_is_widened_inside_the_wall_alone():
    wall = ring() == 2
    lesion = np.zeros_like(wall)
    lesion[32, 45] = True  # in the wall, 2 px outside the cavity
    assert lesion_hole(lesion, wall, 0).sum() == 1
    assert lesion_hole(lesion, wall, 1).sum() == 5
    wide = lesion_hole(lesion, wall, 4)
    assert not wide[~wall].any()
    assert wide[32, 44]
    assert not lesion_hole(np.zeros_like(wall), wall, 3).any()


def test_the_store_keeps_the_cameras_pixels_and_names_no_other_patient(tmp_path):
    masks, patients = draw_masks()
    real = write_store(tmp_path / "real.h5", masks, patients)
    train = np.flatnonzero(real.rows["case_id"] != "P005")
    statistics = write_lesion_masks(tmp_path / "masks.h5", real, train, 60, CUT, BalanceConfig(), 0, 1, "1")
    assert set(statistics["strategy"]) == {HEALED_ANATOMY, "hybrid_injection", "cross_subject_fusion"}
    store = SliceStore.open(tmp_path / "masks.h5")
    for position, row in store.rows.iterrows():
        source = [int(np.flatnonzero(real.rows["slice_index"] == row["slice_index"])[0])]
        outside = store.extra("hole", [position])[0] == 0
        np.testing.assert_array_equal(store.images([position])[0][outside], real.images(source)[0][outside])
        assert "P005" not in row["donor_ids"]


def test_without_lesions_there_is_nothing_to_paint():
    masks, _ = draw_masks(4, lesions=False)
    with pytest.raises(InputError, match=r"none of 12 training slices shows a lesion.*pix2pix.paint=ventricle"):
        training_holes(masks, Pix2PixConfig(paint="lesion"), 0)


def test_training_holes_are_own_lesions_and_healthy_wall(make_slices):
    config = Pix2PixConfig(paint="lesion", hole_margin_px=0, hole_spread_px=1)
    masks = np.stack([*make_slices(5)[1], ring(size=32, centre=(16, 16), inner=5, wall=4)])
    masks[4] = 0  # an empty slice
    holes = training_holes(masks, config, 0)
    np.testing.assert_array_equal(holes, training_holes(masks, config, 0))
    assert complete_rows(holes).tolist() == [True] * 4 + [False, True]
    for variant in range(VARIANTS):
        hole = (holes >> variant & 1) > 0
        assert not (hole & (masks < 2)).any()
        assert hole[masks >= 3].all()
        assert hole[5].sum() >= 12  # wall without any lesion
    narrow = [own_hole(masks, "lesion", margin)[0] for margin in (0, 1)]
    assert any(np.array_equal(holes[0] >> 0 & 1, one) for one in narrow)
    assert (holes[0] >> 1 & 1).sum() > (masks[0] >= 3).sum()


def test_gradients_come_from_the_hole_alone(make_store, config, compute):
    players = Players(ResidentSlices.load(make_store(), config, compute), compute, seed=0)
    batch = players.slices.batch(0, 1)
    assert not (batch.holes * (batch.masks < 2)).any()
    drawing = players.draw(batch)
    outside = batch.holes == 0
    assert torch.equal(drawing.images[outside], batch.real[outside])
    drawn = batch.real.clone().requires_grad_()
    reading_loss(players_logits(drawn), batch.masks[:, 0], torch.ones(5), batch.holes[:, 0]).backward()
    assert drawn.grad[~outside].any()
    assert not drawn.grad[outside].any()


def test_blood_does_not_shine_into_a_wall_that_is_painted(config):
    mask = torch.tensor([[[0, 2, 2, 2, 2, 2, 1, 1]] * 8])
    image = torch.tensor([0.0, -0.8, -0.8, -0.8, -0.8, -0.8, 0.9, 0.9])[None].expand(8, 8)[None, None]
    hole = torch.zeros(1, 1, 8, 8)
    hole[..., 3:6] = 1  # from the middle of the wall to the blood
    condition = build_condition(config, EMIDEC_LABELS, mask, image, hole, torch.zeros(1, 1, 8, 8))
    drawn = condition.place(torch.full((1, 1, 8, 8), 0.2), seam_px=1)[0, 0, 4]
    torch.testing.assert_close(drawn, torch.tensor([0.0, -0.8, -0.8, -0.3, 0.2, 0.2, 0.9, 0.9]))


def players_logits(images):
    return images.expand(-1, 5, -1, -1) * torch.arange(5.0).view(1, 5, 1, 1)


def test_one_lesion_is_learned(make_store, config, compute):
    alone = {"batch": 1, "steps": 120, "adversarial_weight": 0.0, "learning_rate": 3e-3}
    learn = config.model_copy(update=alone)
    players = Players(ResidentSlices.load(make_store(1), learn, compute), compute, seed=0)
    losses = [float(players.take_step(step)["l1_loss"]) for step in range(1, 121)]
    assert np.mean(losses[-10:]) < 0.35 * np.mean(losses[:5])


def test_a_training_draws_lesions_into_real_slices(make_store, make_slices, config, compute, tmp_path):
    training = make_store()
    validation = make_slices(4, seed=9)
    result = train_pix2pix(
        training, part_slices(*validation), config, compute, tmp_path / "model", 5, silent, ModelCard(fold=0)
    )
    assert np.isfinite(list(result.validation.values())).all()
    cut = SimulatorConfig(paint="lesion", hole_margin_px=1, hole_spread_px=1)
    write_lesion_masks(tmp_path / "m.h5", training, np.arange(6), 8, cut, BalanceConfig(), 0, 1, "1")
    store = SliceStore.open(tmp_path / "m.h5")
    generate_slices(tmp_path / "model", store, tmp_path / "s.h5", 8, compute, 0, "1")
    drawn, outside = SliceStore.open(tmp_path / "s.h5"), store.extra("hole") == 0
    np.testing.assert_array_equal(drawn.images()[outside], store.images()[outside])
    assert (drawn.images()[~outside] > 0).any()
    asked = SynthesisConfig(softness_px=0.8, grain_share=0.8)
    generate_slices(tmp_path / "model", store, tmp_path / "soft.h5", 8, compute, 0, "1", asked=asked)
    soft = SliceStore.open(tmp_path / "soft.h5").images()
    np.testing.assert_array_equal(soft[outside], store.images()[outside])
    assert np.abs(soft[~outside] - drawn.images()[~outside]).mean() > 1e-3


def test_shades_of_lesions_are_those_of_a_lender_relative_to_wall_and_blood():
    mask = ring(size=32, centre=(16, 16), inner=5, wall=4)
    scarred = mask.copy()
    scarred[:, 16:][scarred[:, 16:] == 2] = 3
    lender = np.array([0.5, 0.6, 0.2, 0.8, 0.0])[scarred]  # scar 1.5 contrasts above the wall
    book = ShadeBook.of(lender[None], scarred[None], scarred[None], 5, "lesion")
    image = np.array([0.5, 0.5, 0.3])[mask]
    hole = own_hole(scarred[None], "lesion", 1)
    shades = book.choose_for_lesions(np.where(hole > 0, 0, image), scarred[None], hole, [3], 4)[0]
    np.testing.assert_allclose(shades[[1, 2, 3]], [0.5, 0.3, 0.6], atol=1e-6)


def test_the_wall_in_a_hole_does_not_tell_its_shade():
    masks = torch.tensor([[[[2, 2, 3, 1]]]])
    holes = torch.tensor([[[[1.0, 0, 1, 0]]]])
    assert seen_labels(masks, holes).tolist() == [[[[0, 2, 3, 1]]]]


def test_validation_redraws_lesions(make_slices, config):
    images, masks = make_slices(4)
    masks[0] = np.minimum(masks[0], 2)
    chosen = PaintedSlices.choose(part_slices(images, masks), config)
    assert len(chosen.slices.masks) == 3
    np.testing.assert_array_equal(chosen.regions, chosen.holes > 0)
    with pytest.raises(InputError, match="shows a lesion"):
        PaintedSlices.choose(part_slices(images, np.minimum(masks, 2)), config)


def test_the_preset_paints_lesions_within_the_wall():
    preset = PRESETS["repaint"]
    assert preset.paint == "lesion"
    assert preset.context
    with pytest.raises(ValidationError, match="paint 'lesion' needs context"):
        Pix2PixConfig(paint="lesion", context=False)
    with pytest.raises(ValidationError, match="keeps real anatomies"):
        SimulatorConfig(
            paint="lesion", shares=StrategyShares(hybrid_injection=0, cross_subject_fusion=0, synthetic_anatomy=1)
        )
