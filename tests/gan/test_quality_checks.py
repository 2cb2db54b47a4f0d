"""What is unfit to train on is stopped: the asset's checks on generators that fail in one way each."""

import numpy as np
import pytest

from assets.quality_checks import quality_checks
from gan.quality import assess_quality
from imaging.seeds import random_generator
from pipeline.settings import load_settings
from tests.gan.quality_material import instruments, material

REALISM = {"adherence", "beats_mean_paint_frechet", "beats_mean_paint_ssim"}


def noise(slices):
    return random_generator(0, "noise").random(slices.images.shape, dtype=np.float32)


def failed(made, profile="quick"):
    report = assess_quality(made, instruments(made.validation))
    return {check.name for check in quality_checks(report, load_settings(profile)) if not check.passed}


def test_a_faithful_generator_passes(tmp_path):
    assert failed(material(tmp_path)) <= {"beats_mean_paint_ssim"}  # SSIM rewards the missing grain of the painting


def test_noise_fails_every_check_of_realism(tmp_path):
    assert failed(material(tmp_path, synthetic=noise, redrawn=noise)) == REALISM


def test_a_copied_training_set_fails_the_copy_check_alone(tmp_path):
    found = failed(material(tmp_path, synthetic=lambda slices: slices.images))
    assert found - REALISM == {"no_copies"}
    assert "adherence" not in found


def test_a_copy_is_recognised_behind_other_contrast_and_noise(tmp_path):
    def disguised(slices):
        grain = random_generator(0, "disguise").normal(0, 0.01, slices.images.shape)
        return np.clip(0.8 * slices.images + 0.1 + grain, 0, 1).astype(np.float32)

    assert "no_copies" in failed(material(tmp_path, synthetic=disguised))


def test_a_constant_generator_fails_variety(tmp_path):
    found = failed(material(tmp_path, synthetic=lambda slices: np.full_like(slices.images, 0.4)))
    assert "variety" in found
    assert "no_copies" not in found


def test_a_profile_whose_models_are_not_trained_blocks_nothing(tmp_path):
    made = material(tmp_path, synthetic=noise, redrawn=noise)
    assert failed(made, "tiny") <= REALISM - {"adherence"}


@pytest.mark.parametrize("profile", ["quick", "paper"])
def test_profiles_of_real_data_measure_the_use(profile):
    assert load_settings(profile).quality.utility_steps is None
