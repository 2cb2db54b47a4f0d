from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.errors import InputError
from imaging.labels import CINE_LABELS, EMIDEC_LABELS, Tissue
from imaging.volumes.nifti import read_nifti
from segmentation.scoring.overlap import Counts
from segmentation.scoring.rules import (
    DETECTION,
    METRIC_TABLE,
    RULES,
    SURFACE,
    UNITS,
    Level,
    Structures,
    structures,
)
from segmentation.scoring.scores import (
    SCORE_COLUMNS,
    ScoreIdentity,
    read_scores,
    score_patient,
    score_table,
    write_scores,
)
from tests.real_data import real_data

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
        for metric in ("dice", "jaccard", "precision", "recall"):
            assert set(values(rows, rule, metric).values()) == {0.0}
    assert set(values(rows, "positive")) == {"cavity", "normal_myocardium", "infarct", "no_reflow"}


def test_empty_reference_has_no_positive_score_and_no_ratio():
    rows = score_patient(NOTHING, PREDICTION, SPACING_MM, EMIDEC_LABELS)
    assert values(rows, "positive") == {}
    assert values(rows, "official") == {"myocardium": 0.0, "infarction": 0.0, "no_reflow": 1.0}
    assert values(rows, "per_slice") == {"cavity": 0.0, "normal_myocardium": 0.0, "infarct": 0.0}
    assert values(rows, "official", "volume_difference_ratio") == {}


def test_both_empty_scores_one_under_the_official_rule_only():
    rows = score_patient(NOTHING, NOTHING, SPACING_MM, EMIDEC_LABELS)
    for metric in ("dice", "jaccard", "precision", "recall"):
        assert set(values(rows, "official", metric).values()) == {1.0}
    assert {row["rule"] for row in rows} == {"official", "pooled"}
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


def test_overlap_by_hand():
    assert Counts(tp=3, fp=1, fn=2).overlap() == {
        "dice": pytest.approx(6 / 9),
        "jaccard": pytest.approx(3 / 6),
        "precision": pytest.approx(3 / 4),
        "recall": pytest.approx(3 / 5),
    }
    assert set(Counts(0, 0, 0).overlap().values()) == {1.0}
    assert set(Counts(0, 4, 0).overlap().values()) == set(Counts(0, 0, 4).overlap().values()) == {0.0}


@pytest.mark.parametrize("labels", [EMIDEC_LABELS, CINE_LABELS], ids=lambda labels: labels.name)
def test_the_table_of_metrics_tells_exactly_what_exists(labels):
    highest = labels.num_classes - 1
    reference = np.minimum(REFERENCE, highest)
    blank = np.zeros_like(reference)
    frames = ("",) if labels.has_lesions else ("ED", "ES")
    volumes = [
        (case, frame, mask, mask, SPACING_MM) for case, mask in (("P1", reference), ("P2", blank)) for frame in frames
    ]
    table = score_table(volumes, IDENTITY, labels)
    found = set(table[["rule", "tissue", "metric", "unit"]].itertuples(index=False, name=None))
    expected = {
        (entry.rule, name, metric, UNITS[metric])
        for entry in METRIC_TABLE
        for name in structures(entry.structures, labels)
        for metric in entry.metrics
        if entry.level != Level.PATIENT or not labels.has_lesions
    }
    assert found == expected


def test_units_cover_the_table_and_rules_are_known():
    assert {entry.rule for entry in METRIC_TABLE} == set(RULES)
    assert {metric for entry in METRIC_TABLE for metric in entry.metrics} == set(UNITS)


def test_only_the_myocardium_has_an_official_distance_and_cine_has_two():
    assert set(structures(Structures.OUTLINED, EMIDEC_LABELS)) == {"myocardium"}
    assert set(structures(Structures.OUTLINED, CINE_LABELS)) == {"cavity", "myocardium"}
    rows = score_patient(REFERENCE, PREDICTION, SPACING_MM, EMIDEC_LABELS)
    assert values(rows, "official", "hausdorff") == {"myocardium": 0.0}
    assert set(values(rows, "positive", "hausdorff")) == {
        *(name for _, name in EMIDEC_LABELS.foreground),
        "myocardium",
        "infarction",
    } - {"no_reflow"}  # the prediction has none
    assert values(rows, "positive", "hausdorff")["infarct"] == 2.0  # one row of 2 mm


@pytest.mark.parametrize("metric", SURFACE)
def test_a_distance_to_an_empty_mask_is_nan_officially_and_absent_otherwise(metric):
    for reference, prediction in ((REFERENCE, NOTHING), (NOTHING, REFERENCE)):
        rows = score_patient(reference, prediction, SPACING_MM, EMIDEC_LABELS)
        assert np.isnan(values(rows, "official", metric)["myocardium"])
        assert values(rows, "positive", metric) == {}
    assert values(score_patient(NOTHING, NOTHING, SPACING_MM, EMIDEC_LABELS), "official", metric) == {"myocardium": 0.0}


def test_shares_and_transmurality_stand_beside_the_reference():
    rows = score_patient(REFERENCE, PREDICTION, SPACING_MM, EMIDEC_LABELS)
    assert values(rows, "official", "reference_share_of_myocardium")["infarction"] == pytest.approx(100 * 6 / 16)
    assert values(rows, "official", "share_of_myocardium")["infarction"] == pytest.approx(100 * 3 / 16)
    assert values(rows, "positive", "share_of_myocardium_difference")["infarction"] == pytest.approx(100 * 3 / 16)
    empty = score_patient(REFERENCE, NOTHING, SPACING_MM, EMIDEC_LABELS)
    assert values(empty, "official", "maximum_transmurality") == {"infarction": 0.0}


def test_detection_counts_patients_and_not_voxels():
    without = np.where(REFERENCE > Tissue.NORMAL_MYOCARDIUM, Tissue.NORMAL_MYOCARDIUM, REFERENCE)
    pairs = [(REFERENCE, PREDICTION), (REFERENCE, REFERENCE), (without, without), (without, PREDICTION)]
    volumes = [(f"P{n}", "", reference, prediction, SPACING_MM) for n, (reference, prediction) in enumerate(pairs)]
    table = score_table(volumes, IDENTITY, EMIDEC_LABELS)
    found = table[table["metric"].isin(DETECTION)].set_index(["tissue", "metric"])
    assert set(found["case_id"]) == {"all"}
    assert set(found["rule"]) == {"official"}
    assert found["value"].to_dict() == {
        ("infarction", "sensitivity"): 1.0,
        ("infarction", "specificity"): 0.5,
        ("no_reflow", "sensitivity"): 0.5,
        ("no_reflow", "specificity"): 1.0,
    }


def test_without_a_patient_who_has_it_there_is_no_sensitivity():
    table = score_table([("P1", "", NOTHING, PREDICTION, SPACING_MM)], IDENTITY, EMIDEC_LABELS)
    assert set(table.loc[table["metric"].isin(DETECTION), "metric"]) == {"specificity"}


def test_ejection_fraction_joins_the_two_frames_of_a_patient():
    large, small = volume("222222", "211112", "222222"), volume("222222", "221122", "222222")
    none = np.where(large == 1, 0, large)
    volumes = [
        *((("P1", frame, mask, large, SPACING_MM)) for frame, mask in (("ED", large), ("ES", small))),
        *((("P2", frame, mask, none, SPACING_MM)) for frame, mask in (("ED", large), ("ES", small))),
        ("P3", "ED", large, large, SPACING_MM),
    ]
    table = score_table(volumes, IDENTITY, CINE_LABELS)
    found = table[table["metric"].str.contains("ejection")].set_index(["case_id", "metric"])["value"]
    assert found["P1"].to_dict() == {
        "ejection_fraction": 0.0,
        "reference_ejection_fraction": 50.0,
        "ejection_fraction_difference": 50.0,
    }
    assert found["P2"].isna().to_dict() == {
        "ejection_fraction": True,
        "reference_ejection_fraction": False,
        "ejection_fraction_difference": True,
    }
    assert "P3" not in found.index.get_level_values("case_id")


def test_a_distance_that_does_not_exist_survives_the_file(tmp_path: Path):
    table = score_table([("P1", "", REFERENCE, NOTHING, SPACING_MM)], IDENTITY, EMIDEC_LABELS)
    assert table["value"].isna().sum() == len(SURFACE)
    write_scores(tmp_path / "scores.csv", table)
    pd.testing.assert_frame_equal(read_scores(tmp_path / "scores.csv"), table)


# The challenge's formulas written out a second time, without the project's code.
GROUPS = {"myocardium": (2, 3, 4), "infarction": (3, 4), "no_reflow": (4,)}


def faces(mask):
    """Centres of voxels with a face to the outside."""
    padded = np.pad(mask, 1)
    inner = mask.copy()
    for axis in range(3):
        inner &= np.roll(padded, 1, axis)[1:-1, 1:-1, 1:-1] & np.roll(padded, -1, axis)[1:-1, 1:-1, 1:-1]
    return np.argwhere(mask & ~inner)


def far(one, other):
    return max(np.sqrt(((other - point) ** 2).sum(axis=1)).min() for point in one)


def challenge(reference, prediction, spacing_mm):
    voxel_mm3 = spacing_mm[0] * spacing_mm[1] * spacing_mm[2]
    myocardium_mm3 = np.sum(reference >= 2) * voxel_mm3
    found = {}
    for group, numbers in GROUPS.items():
        true, guess = (np.logical_or.reduce([mask == n for n in numbers]) for mask in (reference, prediction))
        total = true.sum() + guess.sum()
        found["dice", group] = 2 * (true & guess).sum() / total if total else 1.0
        found["volume_difference", group] = abs(true.sum() * voxel_mm3 - guess.sum() * voxel_mm3)
        found["volume_difference_ratio", group] = found["volume_difference", group] / myocardium_mm3
    one, other = (faces(mask >= 2) * np.array(spacing_mm) for mask in (reference, prediction))
    found["hausdorff", "myocardium"] = max(far(one, other), far(other, one))
    return found


def official(reference, prediction, spacing_mm):
    rows = score_patient(reference, prediction, spacing_mm, EMIDEC_LABELS)
    chosen = {"dice", "volume_difference", "volume_difference_ratio", "hausdorff"}
    return {
        (row["metric"], row["tissue"]): row["value"]
        for row in rows
        if row["rule"] == "official" and row["metric"] in chosen
    }


def perturbed(mask, rng):
    """A shift, some lost lesion, some invented no-reflow, and for every third patient none at all."""
    prediction = np.roll(mask, rng.integers(-2, 3, 2), (1, 2))
    prediction[(prediction > 2) & (rng.random(mask.shape) < 0.2)] = Tissue.NORMAL_MYOCARDIUM
    if rng.random() < 1 / 3:
        return np.where(prediction == Tissue.NO_REFLOW, Tissue.INFARCT, prediction)
    prediction[(prediction == Tissue.INFARCT) & (rng.random(mask.shape) < 0.1)] = Tissue.NO_REFLOW
    return prediction


@pytest.mark.parametrize("seed", range(8))
def test_official_scores_are_the_challenges_on_drawn_label_maps(seed):
    rng = np.random.default_rng(seed)
    reference = rng.choice(np.arange(5, dtype=np.uint8), (4, 14, 11), p=[0.5, 0.15, 0.2, 0.1, 0.05])
    if seed % 2:
        reference[reference == Tissue.NO_REFLOW] = Tissue.INFARCT
    spacing_mm = tuple(rng.uniform(0.7, 13.0, 3))
    prediction = perturbed(reference, rng)
    assert official(reference, prediction, spacing_mm) == pytest.approx(
        challenge(reference, prediction, spacing_mm), abs=1e-6
    )


def test_official_scores_are_the_challenges_on_real_label_maps():
    rng = np.random.default_rng(5)
    for path in sorted(real_data("emidec_roi").glob("Case_*/Contours/*.nii.gz"))[::16]:
        stored = read_nifti(path)
        reference = stored.data.astype(np.uint8)
        prediction = perturbed(reference, rng)
        expected = challenge(reference, prediction, stored.spacing_mm)
        assert official(reference, prediction, stored.spacing_mm) == pytest.approx(expected, abs=1e-6)
