"""What is unfit to train on is stopped: the asset's checks on generators that fail in one way each."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from assets.quality import quality_checks
from common.seeds import random_generator
from engine.settings import load_settings
from gan.generation.hole import own_hole
from gan.quality.proof import assess_quality
from imaging.labels import Tissue
from tests.gan.quality_material import drawn_well, instruments, material, segment_by_shade, store_of

LIKENESS = "beats_mean_paint_likeness"
REALISM = {"adherence", "adherence_as_in_real", "told_apart", "beats_mean_paint_frechet", LIKENESS}


def noise(slices):
    return random_generator(0, "noise").random(slices.images.shape, dtype=np.float32)


def judged(made, profile="quick", **more):
    """The report of a generator, and its checks by name."""
    report = assess_quality(made, instruments(made.validation, **more))
    return report, {check.name: check for check in quality_checks(report, load_settings(profile))}


def repainted(made, path, images):
    """The material with hearts that are real but for their lesions, drawn or copied from `images`."""
    holes = own_hole(made.training.masks, "lesion", 1)
    drawn = np.where(holes > 0, images, made.training.images)
    return replace(made, synthetic=store_of(made.training.painted_as(drawn), path / "repainted.h5", holes))


def failed(made, profile="quick"):
    return {name for name, check in judged(made, profile)[1].items() if not check.passed}


def test_a_faithful_generator_passes(tmp_path):
    assert not failed(material(tmp_path))


def test_a_painting_that_ssim_prefers_is_not_preferred(tmp_path):
    report, checks = judged(material(tmp_path))
    assert report.value("ssim", "ventricle", "pix2pix") < report.value("ssim", "ventricle", "mean_paint")
    assert report.value("patches", "ventricle", "pix2pix") < report.value("patches", "ventricle", "mean_paint")
    assert checks[LIKENESS].passed
    assert checks[LIKENESS].description.startswith("Distance of patches")


def test_grain_alone_is_not_bought_with_wrong_tissues(tmp_path):
    def grain_everywhere(slices):
        return np.clip(0.5 + random_generator(0, "grain").normal(0, 0.03, slices.masks.shape), 0, 1).astype(np.float32)

    assert LIKENESS in failed(material(tmp_path, redrawn=grain_everywhere))


def test_where_lpips_is_measured_its_first_network_decides(tmp_path):
    def prefers_the_painting(first, second):
        return uniform_filter(np.abs(first - uniform_filter(first, (0, 3, 3))), (0, 3, 3)).mean(axis=(1, 2))

    networks = {"LPIPS one": prefers_the_painting, "LPIPS two": lambda *pair: np.zeros(len(pair[0]))}
    report, checks = judged(material(tmp_path), perceptual=networks)
    likeness = checks[LIKENESS]
    assert likeness.figures["ours"] == report.value("lpips", "ventricle", "pix2pix")
    assert likeness.figures["yardstick"] == report.value("lpips", "ventricle", "mean_paint")
    assert not likeness.passed
    assert likeness.description.startswith("LPIPS one to the real slice of the same mask")


def test_noise_fails_every_check_of_realism(tmp_path):
    assert failed(material(tmp_path, synthetic=noise, redrawn=noise)) == REALISM


def test_lesions_are_judged_by_the_judges_dice_on_real_slices(tmp_path):
    report, checks = judged(material(tmp_path))
    adherence = checks["adherence"]
    real = report.value("adherence/infarct", "ventricle", "real")
    assert adherence.figures["infarct/minimum"] == pytest.approx(0.5 * real)
    assert f"(at least {0.5 * real:.2f}, by {real:.2f} on real slices)" in adherence.description
    assert "no_reflow/minimum" not in adherence.figures  # which this judge never finds
    assert adherence.description.endswith(
        "Not judged: no-reflow (0.00; 0.00 on real slices), since a judge has at least 0.2 on real slices."
    )


def test_infarcts_that_were_not_drawn_fail_adherence_though_the_wall_is_right(tmp_path):
    def without_lesions(slices):
        return drawn_well(np.where(slices.masks > Tissue.NORMAL_MYOCARDIUM, Tissue.NORMAL_MYOCARDIUM, slices.masks), 3)

    adherence = judged(material(tmp_path, synthetic=without_lesions))[1]["adherence"]
    assert not adherence.passed
    assert adherence.figures["normal_myocardium/dice"] >= adherence.figures["normal_myocardium/minimum"]
    assert adherence.figures["infarct/dice"] < adherence.figures["infarct/minimum"]


def test_a_judge_that_finds_no_lesion_in_real_slices_says_that_lesions_are_not_judged(tmp_path):
    def blind(images):
        found = segment_by_shade(images)
        return np.where(found > Tissue.NORMAL_MYOCARDIUM, Tissue.NORMAL_MYOCARDIUM, found)

    made = material(tmp_path)
    report = assess_quality(made, replace(instruments(made.validation), segment=blind))
    (adherence,) = (c for c in quality_checks(report, load_settings("quick")) if c.name == "adherence")
    assert adherence.passed
    assert "Lesions not judged: infarct (0.00; 0.00 on real slices) and no-reflow" in adherence.description


def test_a_copied_training_set_fails_the_copy_check_alone(tmp_path):
    found = failed(material(tmp_path, synthetic=lambda slices: slices.images))
    assert found - REALISM == {"no_copies"}
    assert "adherence" not in found


def test_a_real_heart_with_a_drawn_lesion_is_no_copy(tmp_path):
    made = material(tmp_path)
    whole = replace(made, synthetic=store_of(made.training, tmp_path / "whole.h5"))
    assert "no_copies" in failed(whole)  # compared as a whole
    report, checks = judged(repainted(made, tmp_path, drawn_well(made.training.masks, 5)))
    assert checks["no_copies"].passed
    assert report.rows("copies/copied", "hole", "real")["value"].iloc[0] < 0.1
    assert report.rows("copies/copied", "ventricle", "synthetic").empty


def test_copies_of_transplants_are_told_and_block_nothing(tmp_path):
    made = material(tmp_path, synthetic=lambda slices: slices.images)
    report = assess_quality(made, instruments(made.validation))
    plain, transplants = (load_settings("quick", given) for given in ([], ["synthesis.method=transplant"]))
    (plainly,) = (check for check in quality_checks(report, plain) if check.name == "no_copies")
    (told,) = (check for check in quality_checks(report, transplants) if check.name == "no_copies")
    assert not plainly.passed
    assert told.passed
    assert told.figures == plainly.figures
    assert told.description.endswith("Not judged: transplanted lesions are their donors'.")


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
