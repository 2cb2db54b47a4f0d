import numpy as np
import pandas as pd
import pytest

from pipeline.commands.sweep.page import sweep_curve
from segmentation.comparison.statistics import holm
from segmentation.scoring.scores import SCORE_COLUMNS

POINTS = ("share_0", "share_0.5", "share_1")


def scores(gains=(0.0, 0.1, -0.1), patients: int = 12, seeds: int = 3) -> pd.DataFrame:
    """Dice of a cavity and its voxels: 100 in either mask, so that Dice is the share that overlaps."""
    rng = np.random.default_rng(0)
    level = rng.uniform(0.5, 0.7, patients)
    rows = []
    for point, gain in zip(POINTS, gains, strict=True):
        for seed in range(seeds):
            for patient in range(patients):
                dice = round(level[patient] + gain + rng.normal(0, 0.01), 2)
                counts = {"tp_voxels": 100 * dice, "fp_voxels": 100 * (1 - dice), "fn_voxels": 100 * (1 - dice)}
                names = {"fold": 0, "network": "n", "training_set": point, "seed": seed, "case_id": f"P{patient:02}"}
                rows.append({**names, "rule": "positive", "tissue": "cavity", "metric": "dice", "value": dice})
                rows += [
                    {**names, "rule": "pooled", "tissue": "cavity", "metric": name, "value": value}
                    for name, value in counts.items()
                ]
    return pd.DataFrame(rows).assign(frame="", slice_index=pd.NA, unit="")[list(SCORE_COLUMNS)]


@pytest.fixture(scope="module")
def curve() -> pd.DataFrame:
    return sweep_curve(scores(), {"share_0.5": "share_0", "share_1": "share_0"})


def test_every_point_has_its_dice_under_both_rules(curve):
    table = scores()
    means = table[table["metric"] == "dice"].groupby("training_set")["value"].mean()
    for rule in ("positive", "pooled"):  # all patients have equally many voxels
        found = curve[curve["rule"] == rule].set_index("training_set")["mean"]
        np.testing.assert_allclose(found[list(POINTS)], means[list(POINTS)])
    assert (curve["low"] < curve["mean"]).all()
    assert (curve["mean"] < curve["high"]).all()


def test_differences_are_to_the_named_point_and_have_verdicts(curve):
    found = curve[curve["rule"] == "positive"].set_index("training_set")
    assert np.isnan(found.loc["share_0", "difference"])
    expected = found["mean"] - found.loc["share_0", "mean"]
    np.testing.assert_allclose(found["difference"].iloc[1:], expected.iloc[1:])
    assert found["verdict"].iloc[1:].tolist() == ["better in this fold", "worse in this fold"]
    assert found["pairs"].iloc[1:].tolist() == [12, 12]


def test_holm_corrects_over_all_points():
    table = scores((0.0, 0.01, 0.01))
    both, one = (
        sweep_curve(table, dict.fromkeys(points, "share_0")).set_index(["training_set", "rule"])["p_holm"]
        for points in (POINTS[1:], POINTS[1:2])
    )
    pair = [one["share_0.5", "pooled"], sweep_curve(table, {"share_1": "share_0"})["p_holm"].dropna().iloc[-1]]
    np.testing.assert_allclose([both[point, "pooled"] for point in POINTS[1:]], holm(pair))
    assert both["share_0.5", "pooled"] > 0


def test_nothing_to_measure_by_leaves_the_curve_alone():
    found = sweep_curve(scores(), {})
    assert len(found) == 6
    assert found["difference"].isna().all()
    assert found["mean"].notna().all()
