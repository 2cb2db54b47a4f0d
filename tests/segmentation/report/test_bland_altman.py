import numpy as np
import pandas as pd
import pytest

from segmentation.report.bland_altman import agreements, bland_altman_picture, limits, volumes
from tests.segmentation.report.report_material import NETWORK, material


def table(predicted, reference, tissue="no_reflow", arm="real_only"):
    names = {"network": NETWORK, "training_set": arm, "tissue": tissue, "frame": ""}
    cases = [f"P{number}" for number in range(len(predicted))]
    return pd.DataFrame({**names, "case_id": cases, "predicted_ml": predicted, "reference_ml": reference})


def test_limits_by_hand():
    bias, low, high = limits(pd.Series([1.0, 3.0]))
    assert bias == 2
    assert (low, high) == pytest.approx((2 - 1.96 * np.sqrt(2), 2 + 1.96 * np.sqrt(2)))


def test_one_patient_has_a_bias_and_no_limits_and_none_has_neither():
    assert limits(pd.Series([1.5]))[0] == 1.5
    assert np.isnan(limits(pd.Series([1.5]))[1:]).all()
    assert np.isnan(limits(pd.Series([], dtype=float))).all()


def test_patients_with_it_on_neither_side_take_no_part_and_are_counted():
    (found,) = agreements(table([0, 0, 2, 3], [0, 5, 0, 3]))
    assert (found.plotted, found.missed, found.invented, found.neither) == (3, 1, 1, 1)
    assert found.bias_ml == pytest.approx(-1.0)


@pytest.mark.parametrize("predicted", [[0, 0], [1, 2]])
def test_zero_volumes_and_absent_tissue_can_be_drawn(predicted):
    assert bland_altman_picture(table(predicted, [0, 0]), "no_reflow").src.startswith("data:image/svg")


def test_volumes_are_the_scores_own_averaged_over_seeds():
    made = material(patients=3, seeds=(0, 1))
    found = volumes(made.scores)
    scores = made.scores
    wanted = scores[
        (scores["metric"] == "volume") & (scores["rule"] == "official") & (scores["tissue"] == "infarction")
    ]
    for arm in ("real_only", "real_plus_gan"):
        expected = wanted[wanted["training_set"] == arm].groupby("case_id")["value"].mean()
        own = found[(found["training_set"] == arm) & (found["tissue"] == "infarction")].set_index("case_id")
        np.testing.assert_allclose(own["predicted_ml"], expected)
    assert set(found["tissue"]) == {"infarction", "no_reflow"}
