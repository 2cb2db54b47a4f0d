import numpy as np
import pytest

from common.errors import InputError
from gan.quality.realism import Extractor
from gan.training.config import PRESETS
from gan.trials import CHANGES, TrialInstruments, measure_trial, plan_trials, trials_table
from imaging.labels import EMIDEC_LABELS
from tests.part_slices import part_slices

PROFILE = PRESETS["improved_context"].model_copy(update={"batch": 4, "average_decay": 0.9})


def plan(**changes):
    return plan_trials(**{"profile": PROFILE, "steps": 40, "overrides": {}, "only": (), "perceptual": True} | changes)


def test_every_trial_sees_the_same_number_of_images():
    trials = plan()
    assert [trial.name for trial in trials] == list(CHANGES)
    assert {(trial.config.steps, trial.config.batch) for trial in trials} == {(40, 4)}
    assert {trial.config.validate_every for trial in trials} == {10}


def test_the_profile_s_own_configuration_is_the_trial_improved_context():
    profile = PROFILE.model_copy(update={"l1_weight": 33.0, "hole_spread_px": 5})
    trials = {trial.name: trial.config for trial in plan(profile=profile)}
    assert trials["improved_context"].l1_weight == 33
    assert trials["context"].l1_weight == 100
    assert trials["context"].hole_spread_px == 5  # both fill the holes of the same masks
    assert trials["trial_3"].l1_weight == 60
    assert trials["improved_no_context"].average_decay == 0.9
    assert trials["trial_10"].average_decay == 0


def test_what_is_given_by_hand_is_laid_over_every_trial():
    assert {trial.config.widths for trial in plan(overrides={"widths": (8, 16)})} == {(8, 16)}


def test_without_vgg16_the_perceptual_term_is_left_out_and_the_row_says_so():
    (trial,) = plan(only=["improved_no_context"], perceptual=False)
    assert trial.config.perceptual_weight == 0
    assert trial.change.endswith("without the perceptual loss")
    assert plan(only=["improved_no_context"])[0].config.perceptual_weight > 0


def test_a_trial_that_does_not_exist_and_a_value_that_does_not_fit_are_named():
    with pytest.raises(InputError, match="trial 'trial_11' does not exist; choose of trial_1, trial_2"):
        plan(only=["trial_11"])
    with pytest.raises(InputError, match=r"trial_1: its values together: .*crop_px needs context"):
        plan(overrides={"crop_px": 64, "widths": (8, 16)})


@pytest.fixture
def real(make_slices):
    images, masks = make_slices(8)
    return part_slices(images, masks, [f"P{i}" for i in range(8)])


INSTRUMENTS = TrialInstruments(
    extractors=[Extractor("moments", lambda images: np.stack([images.mean((1, 2)), images.std((1, 2))], axis=1))],
    perceptual={"l1": lambda one, other: np.abs(one - other).mean(axis=(1, 2))},
    segment=lambda images: np.where(images > 0.75, 3, 0).astype(np.uint8),
)


def test_a_faithful_drawing_beats_a_flat_one_in_every_figure(real):
    grain = np.random.default_rng(0).normal(0, 0.02, real.images.shape)
    faithful, flat = np.clip(real.images + grain, 0, 1), np.full_like(real.images, 0.5)
    good, bad = (
        measure_trial(images, real, real.painted_as(images), INSTRUMENTS, EMIDEC_LABELS) for images in (faithful, flat)
    )
    for name in ("psnr", "psnr_ventricle", "ssim", "ssim_ventricle", "texture", "adherence/infarct"):
        assert good[name] > bad[name]
    for name in ("frechet moments", "kernel moments", "frechet_ventricle moments", "lpips l1", "lpips_ventricle l1"):
        assert good[name] < bad[name]


def test_a_measure_without_its_instrument_is_empty_in_the_table(real):
    trials = plan(only=["trial_1", "trial_2"])
    alone = measure_trial(real.images, real, real, TrialInstruments(), EMIDEC_LABELS)
    judged = measure_trial(real.images, real, real, INSTRUMENTS, EMIDEC_LABELS)
    table = trials_table(trials, {"trial_1": alone, "trial_2": judged})
    assert table["images_seen"].tolist() == [160, 160]
    assert table["adherence/infarct"].isna().tolist() == [True, False]
    assert table["psnr"].notna().all()


def test_columns_stand_as_in_the_source_s_table_whatever_order_figures_come_in():
    names = ["minutes", "ssim", "adherence/infarct", "psnr_ventricle", "frechet VGG16", "psnr", "lpips VGG16"]
    (trial,) = plan(only=["trial_1"])
    table = trials_table([trial], {"trial_1": dict.fromkeys(names, 0.0)})
    own = ["frechet VGG16", "lpips VGG16", "psnr", "psnr_ventricle", "ssim", "adherence/infarct", "minutes"]
    assert list(table.columns) == ["trial", "change", "images_seen", *own]
