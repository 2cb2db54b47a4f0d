"""Temperature, calibration error and intervals by closed forms and drawn samples."""

import numpy as np
import pandas as pd
import pytest

from runtime.pack import VolumeInterval
from segmentation.prediction.calibration import (
    Pixels,
    calibrate,
    expected_error,
    fit_temperature,
    half_width,
    reliability,
    volume_intervals,
)
from segmentation.prediction.study import interval_ml, tempered


def drawn(temperature, count=20_000, classes=4, seed=0):
    """Probabilities that are right as often as they say once their logarithms are divided by `temperature`."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (count, classes))
    true = np.exp(logits / temperature)
    true /= true.sum(axis=1, keepdims=True)
    labels = (true.cumsum(axis=1) < generator.random((count, 1))).sum(axis=1).clip(0, classes - 1)
    said = np.exp(logits)
    return Pixels((said / said.sum(axis=1, keepdims=True)).astype(np.float32), labels.astype(np.uint8))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_spoilt_probabilities_is_found(temperature):
    assert fit_temperature(drawn(temperature)) == pytest.approx(temperature, rel=0.05)


def test_a_fitted_temperature_lowers_the_error_of_other_patients():
    found = calibrate(drawn(2.0), drawn(2.0, seed=1))
    assert found.temperature == pytest.approx(2.0, rel=0.05)
    assert found.error_before > 0.15
    assert found.error_after < 0.02
    assert sum(one.pixels for one in found.after) == 20_000


def test_the_expected_error_of_two_bins_is_that_by_hand():
    # Three pixels 0.9 sure, of which two are right; one 0.6 sure and right: (3 |0.9 - 2/3| + 1 |0.6 - 1|) / 4.
    sure = np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.6, 0.4]], np.float32)
    bins = reliability(Pixels(sure, np.array([0, 0, 0, 0], np.uint8)))
    assert [one.pixels for one in bins] == [1, 3]
    assert expected_error(bins) == pytest.approx((3 * (0.9 - 2 / 3) + 0.4) / 4, abs=1e-6)


def test_tempering_keeps_the_order_the_sum_and_what_is_certain():
    probabilities = np.array([[[[0.7, 1.0]], [[0.2, 0.0]], [[0.1, 0.0]]]], np.float32)
    found = tempered(probabilities, 2.0)
    expected = np.sqrt([0.7, 0.2, 0.1]) / np.sqrt([0.7, 0.2, 0.1]).sum()
    np.testing.assert_allclose(found[0, :, 0, 0], expected, rtol=1e-5)
    np.testing.assert_array_equal(found[0, :, 0, 1], [1, 0, 0])
    assert tempered(probabilities, 1.0) is probabilities


def test_pixels_that_both_leave_to_the_background_have_no_say():
    probabilities = np.array([[[[0.9, 0.9, 0.2]], [[0.1, 0.1, 0.8]]]], np.float32)
    masks = np.array([[[0, 1, 0]]], np.uint8)
    found = Pixels.of(probabilities, masks)
    np.testing.assert_allclose(found.probabilities, [[0.9, 0.1], [0.2, 0.8]])
    np.testing.assert_array_equal(found.labels, [1, 0])
    nothing = Pixels.of(probabilities[..., :1], masks[..., :1])
    assert calibrate(nothing, nothing).temperature == 1


def test_the_half_width_is_a_residual_of_the_known_patients():
    assert half_width(np.arange(1.0, 20.0)) == 18  # ceil(20 x 0.9) = 18 of 19
    assert half_width(np.array([-3.0, 1.0])) == 3  # too few for 90 %: the largest


def test_nine_of_ten_volumes_lie_within_the_interval_of_the_other_folds():
    generator = np.random.default_rng(3)
    reference = generator.uniform(0, 100, 500)
    rows = pd.DataFrame({"fold": np.arange(500) % 5, "name": "infarct", "reference_ml": reference})
    found = volume_intervals(rows.assign(predicted_ml=reference + generator.normal(0, 5, 500)))["infarct"]
    assert 0.85 <= found.coverage <= 0.95
    assert found.half_width_ml == pytest.approx(1.645 * 5, rel=0.15)
    assert found.volumes == 500


def test_the_residuals_of_a_fold_do_not_decide_its_own_interval():
    rows = pd.DataFrame({"fold": [0] * 10 + [1] * 10, "name": "infarct", "reference_ml": 0.0})
    rows["predicted_ml"] = [1.0] * 10 + [5.0] * 10
    assert volume_intervals(rows)["infarct"].coverage == 0.5  # the first within 5 mL, the second not within 1 mL
    assert volume_intervals(rows[rows["fold"] == 0])["infarct"].coverage is None


def test_an_interval_ends_at_no_volume_below_nothing():
    found = interval_ml({"cavity": 3.0, "other": 1.0}, {"cavity": VolumeInterval(half_width_ml=5.0, volumes=2)})
    assert found == {"cavity": (0.0, 8.0)}
