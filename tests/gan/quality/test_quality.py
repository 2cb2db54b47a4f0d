from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from gan.quality.proof import (
    COLUMNS,
    Extractor,
    assess_quality,
    inside_ventricle,
    local_texture,
    pairwise_variety,
    peak_signal_to_noise,
    structural_similarity_of,
)
from tests.gan.quality_material import instruments, material, segment_by_shade


def test_psnr_of_a_known_error():
    real = np.zeros((1, 2, 2))
    assert peak_signal_to_noise(real + 0.1, real) == pytest.approx(20)
    assert peak_signal_to_noise(real, real) == np.inf


def test_psnr_in_a_region_sees_the_region_only():
    real, region = np.zeros((1, 2, 2)), np.array([[[True, False], [False, False]]])
    images = np.array([[[0.01, 1], [1, 1]]])
    assert peak_signal_to_noise(images, real, region) == pytest.approx(40)


def test_ssim_is_one_for_equal_slices_and_lower_for_blurred_ones(make_slices):
    from scipy.ndimage import gaussian_filter

    images, masks = make_slices(3)
    assert structural_similarity_of(images, images) == pytest.approx(1, abs=1e-4)
    blurred = gaussian_filter(images, (0, 2, 2))
    assert structural_similarity_of(blurred, images, masks > 0) < 0.9


def test_ssim_in_a_region_leaves_out_slices_without_it(make_slices):
    images, masks = make_slices(2)
    other = images[::-1].copy()
    region = masks > 0
    region[1] = False
    both = structural_similarity_of(other, images, region)
    assert both == pytest.approx(structural_similarity_of(other[:1], images[:1], region[:1]))


def test_texture_of_flat_is_zero_and_grows_with_grain():
    region = np.ones((1, 16, 16), bool)
    grain = np.random.default_rng(0).normal(size=(1, 16, 16))
    assert local_texture(np.ones((1, 16, 16)), region) == 0
    assert local_texture(0.2 * grain, region) == pytest.approx(2 * local_texture(0.1 * grain, region), rel=1e-4)


def test_variety_of_a_constant_generator_is_zero(make_slices):
    images, masks = make_slices(4)
    same = np.repeat(images[:1], 4, axis=0)
    where = np.repeat(masks[:1] > 0, 4, axis=0)
    assert pairwise_variety(same, where) == pytest.approx(0, abs=1e-6)
    assert pairwise_variety(images, masks > 0) > 0.01
    assert pairwise_variety(images[:1], masks[:1] > 0) == 0


def test_outside_the_ventricle_is_black(make_slices):
    images, masks = make_slices(2)
    inside = inside_ventricle(images, masks)
    assert (inside[masks == 0] == 0).all()
    assert np.array_equal(inside[masks > 0], images[masks > 0])


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    made = material(tmp_path_factory.mktemp("quality"), redrawn=lambda real: np.clip(real.images + 0.01, 0, 1))
    lpips = {"stand-in": lambda first, second: np.abs(first - second).mean(axis=(1, 2))}
    taught = lambda images: np.where(segment_by_shade(images) == 3, 3, 0).astype(np.uint8)  # noqa: E731
    tools = instruments(made.validation, perceptual=lpips, segment_from_synthetic=taught)
    other = Extractor("mean", lambda images: images.mean(axis=(1, 2))[:, None])
    tools = replace(tools, extractors=[*tools.extractors, other])
    return assess_quality(made, tools, most_images=40)


def test_report_says_what_every_figure_was_measured_on(report):
    table = report.table
    assert tuple(table.columns) == COLUMNS
    assert table["value"].notna().all()
    assert not table.duplicated(["measure", "region", "subject", "features"]).any()
    assert set(table.query("measure in ('frechet', 'kernel')")["features"]) == {"summary", "mean"}
    assert set(table.query("measure == 'lpips'")["features"]) == {"stand-in"}
    realism = table.query("measure == 'frechet' and region == 'whole' and features == 'summary'").set_index("subject")
    counts = realism[["images", "reference_images"]].apply(tuple, axis=1).to_dict()
    assert counts == {
        "pix2pix": (24, 24),
        "mean_paint": (24, 24),
        "synthetic": (40, 40),
        "real": (40, 24),
        "real_patients": (20, 20),
    }
    assert table.query("measure == 'copies/copied' and features == 'pixels'").set_index("subject")[
        "images"
    ].to_dict() == {"synthetic": 90, "real": 24}


def test_every_figure_has_an_interval_around_it(report):
    table = report.table.query("subject != 'ratio' and std.notna()")
    assert len(table) > 40
    assert (table["low"] <= table["value"]).all()
    assert (table["value"] <= table["high"]).all()


def test_the_first_extractor_decides(report):
    both = report.rows("frechet", "whole", "real")
    assert both["features"].tolist() == ["summary", "mean"]
    assert report.value("frechet", "whole", "real") == both["value"].iloc[0]


def test_real_patients_are_nearer_to_each_other_than_paint_is(report):
    for measure in ("frechet", "kernel"):
        assert report.value(measure, "ventricle", "real_patients") < report.value(measure, "ventricle", "mean_paint")


def test_a_faithful_drawing_beats_the_yardstick_and_paint_does_not(report):
    yardsticks = report.yardsticks().query("features != 'mean'")
    assert yardsticks["better"].all()
    assert len(yardsticks) == 11
    assert report.value("ssim", "ventricle", "pix2pix") > report.value("ssim", "ventricle", "mean_paint")


def test_adherence_follows_the_segmenter(report):
    assert report.value("adherence/infarct", "ventricle", "real") > 0.7
    assert report.value("adherence/no_reflow", "ventricle", "real") == 0


def test_utility_compares_what_synthetic_slices_teach_with_what_real_ones_do(report):
    assert report.value("utility/infarct", "ventricle", "ratio") == 1
    assert report.value("utility/cavity", "ventricle", "synthetic") == 0
    assert report.value("utility/cavity", "ventricle", "real") == report.value("adherence/cavity", "ventricle", "real")


def test_the_closest_pairs_name_row_donors_and_training_slice(report):
    worst = report.copies.worst
    assert len(worst) == len(report.copies.drawn) == len(report.copies.found)
    assert worst["row"].between(0, 89).all()
    assert worst["nearest_case"].str.startswith("S1P").all()
    assert (worst["distance"] >= 0).all()


def test_a_figure_that_was_not_measured_is_a_key_error(report):
    with pytest.raises(KeyError, match="ssim"):
        report.value("ssim", "whole", "real")


def test_the_same_seed_gives_the_same_table(tmp_path, report):
    made = material(tmp_path)
    tables = [assess_quality(made, instruments(made.validation), seed=5, most_images=20).table for _ in range(2)]
    pd.testing.assert_frame_equal(*tables)


def test_vgg16_features_from_a_weights_file(tmp_path, compute, make_slices):
    import torch
    from safetensors.torch import save_file

    from common.errors import InputError
    from gan.networks.features import _build, vgg16_features

    torch.manual_seed(0)
    weights = {f"features.{name}": tensor for name, tensor in _build().state_dict().items()}
    assert len(weights) == 26
    save_file(weights | {"lin0.model.1.weight": torch.zeros(1)}, tmp_path / "vgg16.safetensors")
    images, _ = make_slices(2)
    features = vgg16_features(tmp_path / "vgg16.safetensors", compute)(images)
    assert features.shape == (2, 512)
    assert np.allclose(features[1:], vgg16_features(tmp_path / "vgg16.safetensors", compute)(images[1:]), atol=1e-5)
    save_file({"features.0.weight": weights["features.0.weight"]}, tmp_path / "part.safetensors")
    with pytest.raises(InputError, match=r"part.safetensors: lacks features.0.bias and 24 more"):
        vgg16_features(tmp_path / "part.safetensors", compute)
    with pytest.raises(InputError, match=r"absent.safetensors: cannot be read as VGG16 weights"):
        vgg16_features(tmp_path / "absent.safetensors", compute)
