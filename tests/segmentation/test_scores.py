from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from imaging.errors import InputError
from imaging.labels import CINE_LABELS, EMIDEC_LABELS, Tissue
from segmentation.scores import (
    SCORE_COLUMNS,
    ScoreIdentity,
    read_scores,
    score_patient,
    score_table,
    write_scores,
)

SPACING_MM = (10.0, 2.0, 1.0)  # 20 mm3 a voxel
IDENTITY = ScoreIdentity(fold=0, network="attention_res_unet", training_set="real_only", seed=3)


def volume(*rows: str) -> np.ndarray:
    """One slice drawn by hand, one digit a pixel."""
    return np.array([[[int(digit) for digit in row] for row in rows]], np.uint8)


REFERENCE = volume("222200", "211200", "213300", "213400", "223300", "000000")
PREDICTION = volume("222200", "211200", "213200", "213300", "222200", "000000")
NOTHING = np.zeros_like(REFERENCE)


def values(rows, rule, metric="dice"):
    return {row["tissue"]: row["value"] for row in rows if row["rule"] == rule and row["metric"] == metric}


def test_hand_drawn_patient_under_every_rule():
    rows = score_patient(REFERENCE, PREDICTION, SPACING_MM, EMIDEC_LABELS)
    # infarct: reference 5 + 1 pixels of 3 and 4; the prediction finds two of the 3s and calls the 4 a 3
    assert values(rows, "official") == {
        "myocardium": 1.0,
        "infarction": pytest.approx(2 * 3 / (6 + 3)),
        "no_reflow": 0.0,
    }
    assert values(rows, "positive")["infarct"] == pytest.approx(2 * 2 / (5 + 3))
    assert values(rows, "positive")["cavity"] == 1.0
    assert values(rows, "per_slice") == values(rows, "positive")
    counts = [values(rows, "pooled", metric)["infarct"] for metric in ("tp_voxels", "fp_voxels", "fn_voxels")]
    assert counts == [2, 1, 3]


def test_official_volumes():
    rows = score_patient(REFERENCE, PREDICTION, SPACING_MM, EMIDEC_LABELS)
    assert values(rows, "official", "volume_difference")["infarction"] == 3 * 20
    assert values(rows, "official", "volume_difference_ratio")["infarction"] == pytest.approx(3 / 16)
    assert values(rows, "official", "volume")["infarction"] == pytest.approx(3 * 0.02)
    assert values(rows, "official", "reference_volume")["infarction"] == pytest.approx(6 * 0.02)


def test_empty_prediction_scores_zero_everywhere():
    rows = score_patient(REFERENCE, NOTHING, SPACING_MM, EMIDEC_LABELS)
    for rule in ("official", "positive", "per_slice"):
        assert set(values(rows, rule).values()) == {0.0}
    assert set(values(rows, "positive")) == {"cavity", "normal_myocardium", "infarct", "no_reflow"}


def test_empty_reference_has_no_positive_score_and_no_ratio():
    rows = score_patient(NOTHING, PREDICTION, SPACING_MM, EMIDEC_LABELS)
    assert values(rows, "positive") == {}
    assert values(rows, "official") == {"myocardium": 0.0, "infarction": 0.0, "no_reflow": 1.0}
    assert values(rows, "per_slice") == {"cavity": 0.0, "normal_myocardium": 0.0, "infarct": 0.0}
    assert values(rows, "official", "volume_difference_ratio") == {}


def test_both_empty_scores_one_under_the_official_rule_only():
    rows = score_patient(NOTHING, NOTHING, SPACING_MM, EMIDEC_LABELS)
    assert set(values(rows, "official").values()) == {1.0}
    assert values(rows, "positive") == values(rows, "per_slice") == {}
    table = score_table([("P1", "", NOTHING, NOTHING, SPACING_MM)], IDENTITY, EMIDEC_LABELS)
    assert not ((table["rule"] == "pooled") & (table["metric"] == "dice")).any()


def test_perfect_prediction_scores_one_and_dice_is_symmetric():
    rows = score_patient(REFERENCE, REFERENCE, SPACING_MM, EMIDEC_LABELS)
    for rule in ("official", "positive", "per_slice"):
        assert set(values(rows, rule).values()) == {1.0}
    forth = values(score_patient(REFERENCE, PREDICTION, SPACING_MM, EMIDEC_LABELS), "official")
    assert forth == values(score_patient(PREDICTION, REFERENCE, SPACING_MM, EMIDEC_LABELS), "official")


def test_pooled_joins_the_voxels_of_all_patients():
    volumes = [
        ("P1", "", REFERENCE, PREDICTION, SPACING_MM),
        ("P2", "", NOTHING, PREDICTION, SPACING_MM),
    ]
    table = score_table(volumes, IDENTITY, EMIDEC_LABELS)
    pooled = table[(table["rule"] == "pooled") & (table["metric"] == "dice")].set_index("tissue")
    assert pooled.loc["infarct", "value"] == pytest.approx(2 * 2 / (5 + 3 + 3))
    assert set(pooled["case_id"]) == {"all"}
    assert len(table[(table["rule"] == "positive") & (table["case_id"] == "P2")]) == 0


def test_all_background_scores_the_share_without_no_reflow_under_the_official_rule():
    without = np.where(REFERENCE == Tissue.NO_REFLOW, Tissue.INFARCT, REFERENCE)
    volumes = [(f"P{n}", "", REFERENCE if n < 2 else without, NOTHING, SPACING_MM) for n in range(5)]
    table = score_table(volumes, IDENTITY, EMIDEC_LABELS)
    chosen = table[(table["rule"] == "official") & (table["metric"] == "dice")]
    assert chosen.groupby("tissue")["value"].mean()["no_reflow"] == pytest.approx(3 / 5)


def test_table_keeps_its_columns_and_types_through_a_file(tmp_path: Path):
    table = score_table([("P1", "", REFERENCE, PREDICTION, SPACING_MM)], IDENTITY, EMIDEC_LABELS)
    assert tuple(table.columns) == SCORE_COLUMNS
    assert set(table["seed"]) == {3}
    is_slice = table["rule"] == "per_slice"
    assert table.loc[is_slice, "slice_index"].notna().all()
    assert table.loc[~is_slice, "slice_index"].isna().all()
    write_scores(tmp_path / "scores.csv", table)
    pd.testing.assert_frame_equal(read_scores(tmp_path / "scores.csv"), table)


def test_yardsticks_and_folders_have_empty_identity_columns(tmp_path: Path):
    table = score_table([("P1", "", REFERENCE, NOTHING, SPACING_MM)], ScoreIdentity(), EMIDEC_LABELS)
    write_scores(tmp_path / "scores.csv", table)
    read = read_scores(tmp_path / "scores.csv")
    assert read["fold"].isna().all()
    assert set(read["training_set"]) == {""}


def test_cine_frames_are_scored_with_the_cine_groups():
    reference, prediction = np.minimum(REFERENCE, 2), np.minimum(PREDICTION, 2)
    volumes = [("P1", frame, reference, prediction, SPACING_MM) for frame in ("ED", "ES")]
    table = score_table(volumes, IDENTITY, CINE_LABELS)
    official = table[(table["rule"] == "official") & (table["metric"] == "dice")]
    assert set(official["tissue"]) == {"cavity", "myocardium"}
    assert list(official["frame"]).count("ES") == 2


@pytest.mark.parametrize(
    ("volumes", "message"),
    [
        ([("P1", "", REFERENCE, NOTHING[:, :5], SPACING_MM)], r"P1: .*\(1, 6, 6\).*\(1, 5, 6\)"),
        ([("P1", "", REFERENCE, NOTHING + 9, SPACING_MM)], r"P1: prediction: label values \[9\]"),
        ([("P1", "", REFERENCE, NOTHING, SPACING_MM)] * 2, "P1 was given twice"),
        ([], "no study to score"),
    ],
)
def test_bad_input_is_named(volumes, message):
    with pytest.raises(InputError, match=message):
        score_table(volumes, IDENTITY, EMIDEC_LABELS)


def test_foreign_file_is_refused(tmp_path: Path):
    (tmp_path / "scores.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="rematerialise"):
        read_scores(tmp_path / "scores.csv")
    with pytest.raises(InputError, match="cannot be read"):
        read_scores(tmp_path / "absent.csv")
