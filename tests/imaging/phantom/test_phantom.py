"""The phantom looks like what it stands for: anatomy, contrast, groups, and figures that repeat."""

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import ndimage

from imaging.labels import EMIDEC_LABELS, PATIENT_GROUPS, Tissue, patient_group
from imaging.phantom import PhantomConfig, read_phantom, simulate_patient
from imaging.phantom.materials import (
    ANGLES,
    LABEL_OF,
    THETA,
    Material,
    draw_signals,
    polar_grid,
    ripples,
    smooth_noise,
    wrapped,
)
from imaging.phantom.scanner import Scanner, acquire, block_mean, coil_sensitivity, group_of
from imaging.studies.preparation import crop_region, reference_box, resample_mask
from imaging.studies.study import Study, check_study

CONFIG = PhantomConfig(patients=15)
SCANNER = Scanner(keeps_sign=False, noise=0.0, shading_mm=100, correction=1, point_spread_px=0.5, ghost=0, gain=1000)


@pytest.fixture(scope="module")
def cohort() -> list[Study]:
    return list(read_phantom(CONFIG))


# The cohort


def test_every_patient_passes_the_checks_that_real_studies_pass(cohort):
    for study in cohort:
        check_study(study)
        assert study.image.dtype == np.float32
        assert study.mask.dtype == np.uint8
        assert study.frame == ""
    assert [study.case_id for study in cohort] == [f"Phantom_{place:03d}" for place in range(1, 16)]


def test_a_patient_depends_on_configuration_and_index_alone(cohort):
    again = simulate_patient(CONFIG.model_copy(update={"patients": 3}), 11)
    assert np.array_equal(again.image, cohort[11].image)
    assert np.array_equal(again.mask, cohort[11].mask)
    assert again.spacing_mm == cohort[11].spacing_mm


def test_another_seed_gives_other_patients(cohort):
    other = simulate_patient(PhantomConfig(seed=1), 0)
    assert other.image.shape != cohort[0].image.shape or not np.array_equal(other.mask, cohort[0].mask)


def test_the_group_is_that_of_the_mask(cohort):
    assert [study.group for study in cohort] == [patient_group(study.mask, EMIDEC_LABELS) for study in cohort]


def test_group_shares_are_emidecs_and_hold_for_every_beginning_of_the_cohort():
    groups = [group_of(CONFIG, index) for index in range(100)]
    assert [groups.count(name) for name in PATIENT_GROUPS] == [33, 27, 40]
    for count in (10, 15, 30, 64):
        for name, share in zip(PATIENT_GROUPS, (0.33, 0.27, 0.40), strict=True):
            assert abs(groups[:count].count(name) - share * count) <= 1


@pytest.mark.parametrize(("normal", "no_reflow", "only"), [(1, 0, "normal"), (0, 0, "infarct"), (0, 1, "no_reflow")])
def test_a_cohort_can_be_of_one_group(normal, no_reflow, only):
    config = PhantomConfig(normal_share=normal, no_reflow_share=no_reflow)
    assert {group_of(config, index) for index in range(20)} == {only}
    assert simulate_patient(config, 0).group == only


def test_grids_stay_within_the_configured_spans_and_differ_between_patients(cohort):
    for study in cohort:
        assert CONFIG.slices[0] <= study.mask.shape[0] <= CONFIG.slices[1]
        assert all(CONFIG.matrix_px[0] <= side <= CONFIG.matrix_px[1] for side in study.mask.shape[1:])
        assert CONFIG.slice_mm[0] <= study.spacing_mm[0] <= CONFIG.slice_mm[1]
        assert CONFIG.pixel_mm[0] <= study.spacing_mm[1] == study.spacing_mm[2] <= CONFIG.pixel_mm[1]
    assert len({study.mask.shape for study in cohort}) > 5


def test_a_stack_may_be_short_and_its_field_tight():
    config = PhantomConfig(slices=(1, 1), matrix_px=(96, 96), pixel_mm=(1.2, 1.2), off_centre_mm=0)
    study = simulate_patient(config, 1)
    assert study.mask.shape == (1, 96, 96)


# Anatomy


def test_every_slice_shows_one_cavity_enclosed_by_myocardium(cohort):
    for study in cohort:
        for labels in study.mask:
            cavity = labels == Tissue.CAVITY
            assert ndimage.label(cavity)[1] == 1
            around = ndimage.binary_dilation(cavity) & ~cavity
            assert (labels[around] >= Tissue.NORMAL_MYOCARDIUM).all()


def test_the_ventricle_tapers_from_base_to_apex(cohort):
    for study in cohort:
        area = (study.mask > 0).sum(axis=(1, 2))
        assert area[0] < 0.75 * area[-1]


def test_class_shares_around_the_ventricle_resemble_emidecs(cohort):
    counts = np.zeros(EMIDEC_LABELS.num_classes)
    for study in cohort:
        mask = resample_mask(study.mask, study.spacing_mm, EMIDEC_LABELS.num_classes)
        region = crop_region(mask, reference_box(mask).centre, 128)
        counts += np.bincount(region.ravel(), minlength=len(counts))
    background, cavity, normal, infarct, no_reflow = counts / counts.sum()
    assert 0.77 < background < 0.84
    assert 0.08 < cavity < 0.12
    assert 0.06 < normal < 0.10
    assert 0.008 < infarct < 0.022
    assert 0.001 < no_reflow < 0.005


def test_the_ventricle_is_not_always_in_the_middle(cohort):
    centres = [ndimage.center_of_mass(study.mask > 0)[1:] for study in cohort]
    off_mm = [
        np.multiply(np.subtract(centre, np.divide(study.mask.shape[1:], 2)), study.spacing_mm[1:])
        for centre, study in zip(centres, cohort, strict=True)
    ]
    assert np.std(off_mm, axis=0).min() > 5


IN_PLANE = ndimage.generate_binary_structure(3, 1) & (np.arange(3) == 1)[:, None, None]


def test_infarcts_start_at_the_endocardium(cohort):
    for study in (study for study in cohort if study.group != "normal"):
        wall, lesion = study.mask >= Tissue.NORMAL_MYOCARDIUM, study.mask >= Tissue.INFARCT
        endocardium = ndimage.binary_dilation(study.mask == Tissue.CAVITY, IN_PLANE) & wall
        epicardium = ndimage.binary_dilation(study.mask == Tissue.BACKGROUND, IN_PLANE) & wall
        assert lesion[endocardium].mean() > lesion[epicardium].mean()


def test_no_reflow_lies_in_the_infarct(cohort):
    for study in (study for study in cohort if study.group == "no_reflow"):
        core = study.mask == Tissue.NO_REFLOW
        beside = study.mask[ndimage.binary_dilation(core, IN_PLANE) & ~core]
        assert np.isin(beside, (Tissue.INFARCT, Tissue.CAVITY)).mean() > 0.9
        assert (beside == Tissue.INFARCT).mean() > 0.4


def test_an_infarct_keeps_to_its_territory_from_slice_to_slice(cohort):
    for study in cohort:
        directions = []
        for labels in study.mask:
            if (labels >= Tissue.INFARCT).sum() > 15:
                towards = np.subtract(
                    ndimage.center_of_mass(labels >= Tissue.INFARCT), ndimage.center_of_mass(labels > 0)
                )
                directions.append(np.arctan2(*towards))
        if directions:
            assert np.abs(wrapped(np.diff(directions))).max(initial=0) < np.radians(50)


# Contrast


def test_tissues_differ_as_on_lge(cohort):
    def mean(study: Study, tissue: Tissue) -> float:
        return float(study.image[study.mask == tissue].mean())

    assert all(mean(study, Tissue.CAVITY) > mean(study, Tissue.NORMAL_MYOCARDIUM) for study in cohort)
    for study in (study for study in cohort if study.group != "normal"):
        assert mean(study, Tissue.INFARCT) > mean(study, Tissue.NORMAL_MYOCARDIUM)
    for study in (study for study in cohort if study.group == "no_reflow"):
        assert mean(study, Tissue.NO_REFLOW) < mean(study, Tissue.INFARCT)


def test_one_threshold_does_not_segment_the_cavity(cohort):
    for study in cohort[:5]:
        blood = study.image[study.mask == Tissue.CAVITY]
        bright = study.image > np.median(blood) - blood.std()
        assert (bright & (study.mask == Tissue.CAVITY)).sum() < 0.6 * bright.sum()


def test_a_right_inversion_time_nulls_the_myocardium():
    rng = np.random.default_rng(0)
    signals = draw_signals(0.0, rng)
    assert signals[Material.MYOCARDIUM] == pytest.approx(0, abs=1e-6)
    assert signals[Material.FAT] == 1
    assert signals[Material.INFARCT] > signals[Material.BLOOD] * 0.9 > 0 > signals[Material.NO_REFLOW]
    assert signals[Material.PAPILLARY] == signals[Material.MYOCARDIUM]
    assert draw_signals(0.4, rng)[Material.MYOCARDIUM] > 0.1


def test_papillary_muscles_count_as_cavity_and_the_right_ventricle_as_background():
    assert LABEL_OF[Material.PAPILLARY] == LABEL_OF[Material.BLOOD] == Tissue.CAVITY
    assert LABEL_OF[Material.OTHER_BLOOD] == LABEL_OF[Material.OTHER_MYOCARDIUM] == Tissue.BACKGROUND


# The scanner


def test_noise_without_signal_is_rayleigh():
    scanner = replace(SCANNER, noise=0.1, correction=0)
    still = np.zeros((4, 64, 64), np.float32)
    measured = acquire(still, np.ones((64, 64), np.float32), scanner, np.zeros((4, 2)), np.random.default_rng(0))
    assert measured.mean() == pytest.approx(100 * np.sqrt(np.pi / 2), rel=0.02)
    assert measured.std() == pytest.approx(100 * np.sqrt(2 - np.pi / 2), rel=0.03)


def test_only_phase_sensitive_images_keep_the_sign():
    dark = np.full((1, 32, 32), -0.3, np.float32)
    even, still = np.ones((32, 32), np.float32), np.zeros((1, 2))
    signed = acquire(dark, even, replace(SCANNER, keeps_sign=True), still, np.random.default_rng(0))
    magnitude = acquire(dark, even, SCANNER, still, np.random.default_rng(0))
    assert signed.mean() == pytest.approx(2048 - 300, rel=0.02)
    assert magnitude.mean() == pytest.approx(300, rel=0.05)


def test_full_correction_undoes_the_shading():
    sensitivity = coil_sensitivity((64, 64), 1.4, (45.0, 45.0), -2.0, 100)
    flat = np.ones((1, 64, 64), np.float32)
    shaded = acquire(flat, sensitivity, replace(SCANNER, correction=0), np.zeros((1, 2)), np.random.default_rng(0))
    evened = acquire(flat, sensitivity, SCANNER, np.zeros((1, 2)), np.random.default_rng(0))
    assert evened.std() < 0.5 * shaded.std()
    assert sensitivity[32, 32] == pytest.approx(1, rel=0.02)


def test_block_mean_keeps_the_mean():
    fine = np.random.default_rng(0).random((2, 8, 12)).astype(np.float32)
    coarse = block_mean(fine, 2)
    assert coarse.shape == (2, 4, 6)
    assert coarse == pytest.approx(fine.reshape(2, 4, 2, 6, 2).mean(axis=(2, 4)), abs=1e-6)


# Polar grids and noise


def test_polar_grid_measures_radius_angle_and_distance():
    centre = np.array([[20.0, 30.0]])
    polar = polar_grid(centre, (40, 60), 1.0)
    rows, columns = np.mgrid[:40, :60] + 0.5
    assert polar.radius[0] == pytest.approx(np.hypot(rows - 20, columns - 30), abs=1e-3)
    angle = polar.look_up(THETA[None])[0]
    assert np.abs(wrapped(angle - np.arctan2(rows - 20, columns - 30))).max() < 2.1 * np.pi / ANGLES
    place = (20 + 8 * np.sin(0.7), 30 + 8 * np.cos(0.7))
    assert polar.distance(8, 0.7)[0] == pytest.approx(np.hypot(rows - place[0], columns - place[1]), abs=0.1)


def test_ripples_average_to_nothing_and_join_at_the_seam():
    waves = ripples(np.random.default_rng(0), np.linspace(0, 1, 4), range(1, 5), 0.1)
    assert waves.shape == (4, ANGLES)
    assert waves.mean(axis=1) == pytest.approx(0, abs=1e-6)
    assert np.abs(waves[:, 0] - waves[:, -1]).max() < 0.02


def test_smooth_noise_has_unit_spread_and_is_smooth():
    noise = smooth_noise(np.random.default_rng(0), (6, 96, 80), 6)
    assert noise.shape == (6, 96, 80)
    assert 0.6 < noise.std() < 1.1
    assert np.abs(np.diff(noise, axis=1)).mean() < 0.3 * noise.std()


# Configuration


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"patients": 0}, "patients"),
        ({"normal_share": 0.7, "no_reflow_share": 0.5}, "0.7 and no_reflow_share 0.5 together exceed 1"),
        ({"slices": (9, 6)}, "slices is 9 to 6"),
        ({"matrix_px": (32, 64)}, "at least 96"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_impossible_cohorts_are_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        PhantomConfig(**values)
