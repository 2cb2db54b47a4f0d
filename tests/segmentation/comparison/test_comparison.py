from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from common.errors import InputError
from imaging.labels import EMIDEC_LABELS, Tissue
from segmentation.comparison.arms import ScoredTable, compare_arms, compare_each, summarise
from segmentation.comparison.statistics import holm
from segmentation.comparison.text import render_comparison
from segmentation.report.charts import curve_figure, forest_figure, gains_figure, pairs_figure
from segmentation.scoring.scores import ScoreIdentity, score_table

MANIFEST = {"profile": "demo", "source_digest": "abc", "code_version": "1", "fold_split_digest": "f0"}


def reference(patient: int) -> np.ndarray:
    """Two slices (12 x 12): cavity, myocardium, infarct in most patients, no-reflow in every fourth."""
    mask = np.zeros((2, 12, 12), np.uint8)
    mask[:, 2:10, 2:10] = Tissue.NORMAL_MYOCARDIUM
    mask[:, 4:8, 4:8] = Tissue.CAVITY
    if patient % 5:
        mask[0, 8:10, 2:9] = Tissue.INFARCT
    if patient % 4 == 0:
        mask[0, 9, 3:6] = Tissue.NO_REFLOW
    return mask


def predict(mask: np.ndarray, wrong: float, rng: np.random.Generator) -> np.ndarray:
    """The mask with a share of its labelled pixels lost."""
    return np.where(rng.random(mask.shape) < wrong, 0, mask).astype(np.uint8)


def table(training_set: str, wrong: float, fold: int = 0, seed: int = 0, patients: int = 12, **manifest):
    rng = np.random.default_rng([fold, seed, len(training_set)])
    volumes = []
    for patient in range(fold * 100, fold * 100 + patients):
        mask = reference(patient)
        prediction = np.zeros_like(mask) if training_set == "" else predict(mask, wrong, rng)
        volumes.append((f"P{patient:03d}", "", mask, prediction, (10.0, 1.0, 1.0)))
    network = "attention_res_unet" if training_set else "all_background"
    identity = ScoreIdentity(fold, network, training_set, seed if training_set else None)
    digest = {"fold_split_digest": f"f{fold}"}
    return ScoredTable(score_table(volumes, identity, EMIDEC_LABELS), MANIFEST | digest | manifest)


@pytest.fixture(scope="module")
def tables() -> list[ScoredTable]:
    arms = [("real_only", 0.3), ("real_plus_gan", 0.1), ("", 1.0)]
    seeds = {"real_only": (0, 1, 2), "real_plus_gan": (0, 1, 2), "": (0,)}
    return [table(arm, wrong, fold, seed) for arm, wrong in arms for fold in (0, 1) for seed in seeds[arm]]


@pytest.fixture(scope="module")
def comparison(tables):
    return compare_arms(tables)


def of(frame: pd.DataFrame, **chosen: str) -> pd.Series:
    for name, value in chosen.items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1
    return frame.iloc[0]


def test_summary_holds_the_rules_values(comparison, tables):
    scores = pd.concat([t.scores for t in tables])
    arm = scores[(scores["training_set"] == "real_only") & (scores["metric"] == "dice")]
    chosen = {"network": "attention_res_unet", "training_set": "real_only"}
    for rule, tissue in [("positive", "infarct"), ("official", "no_reflow"), ("per_slice", "cavity")]:
        rows = arm[(arm["rule"] == rule) & (arm["tissue"] == tissue)]
        expected = rows.groupby("seed")["value"].mean().mean()
        assert of(comparison.summary, rule=rule, tissue=tissue, **chosen)["mean"] == pytest.approx(expected)


def test_pooled_over_folds_joins_the_voxels_of_all_folds(comparison, tables):
    scores = pd.concat([t.scores for t in tables])
    rows = scores[(scores["training_set"] == "real_only") & (scores["tissue"] == "infarct")]
    sums = rows.pivot_table(index="seed", columns="metric", values="value", aggfunc="sum")
    tp, fp, fn = (sums[name] for name in ("tp_voxels", "fp_voxels", "fn_voxels"))
    found = of(comparison.summary, rule="pooled", tissue="infarct", training_set="real_only")
    assert found["mean"] == pytest.approx((2 * tp / (2 * tp + fp + fn)).mean())


def test_single_fold_pooled_equals_the_tables_own_row():
    one = table("real_only", 0.3).scores
    row = of(one, rule="pooled", metric="dice", tissue="infarct")
    assert of(summarise(one), rule="pooled", tissue="infarct")["mean"] == pytest.approx(row["value"])


def test_a_clear_gain_is_better_and_few_pairs_have_no_verdict(comparison):
    cavity = of(comparison.differences, rule="positive", tissue="cavity")
    assert cavity["verdict"] == "better"
    assert cavity["low"] <= cavity["difference"] <= cavity["high"]
    assert cavity["difference"] == pytest.approx(cavity["real_plus_gan"] - cavity["real_only"])
    assert cavity["pairs"] == 24
    no_reflow = of(comparison.differences, rule="positive", tissue="no_reflow")
    assert no_reflow["pairs"] == 6
    assert no_reflow["verdict"] == "too few patients"
    assert of(comparison.differences, rule="pooled", tissue="no_reflow")["pairs"] == 6


def test_pairs_have_a_row_for_each_patient(comparison):
    chosen = comparison.pairs[(comparison.pairs["rule"] == "positive") & (comparison.pairs["tissue"] == "infarct")]
    assert chosen["case_id"].is_unique
    assert len(chosen) == sum(1 for patient in [*range(12), *range(100, 112)] if patient % 5)


def test_yardsticks_stand_beside_the_networks(comparison):
    yardsticks = comparison.summary[comparison.summary["training_set"] == ""]
    assert set(yardsticks["network"]) == {"all_background"}
    assert (yardsticks.loc[yardsticks["rule"] != "official", "mean"] == 0).all()
    official = yardsticks[(yardsticks["rule"] == "official") & (yardsticks["tissue"] == "no_reflow")]
    assert (official["mean"] == 0.75).all()


@pytest.mark.parametrize("key", ["profile", "source_digest", "code_version", "fold_split_digest"])
def test_differing_tables_are_refused_by_key(tables, key):
    odd = table("real_plus_gan", 0.1, fold=0, seed=3, **{key: "other"})
    with pytest.raises(InputError, match=f"differ in {key}: .*'other' in attention_res_unet_real_plus_gan"):
        compare_arms([*tables, odd])


def test_a_missing_key_is_a_difference(tables):
    odd = ScoredTable(tables[0].scores, {"profile": "demo"})
    with pytest.raises(InputError, match="'missing'"):
        compare_arms([*tables, odd])


def test_only_one_arm_gives_a_summary_and_says_so():
    found = compare_arms([table("real_only", 0.3)])
    assert len(found.differences) == 0
    assert len(found.summary)
    assert any("Only one training set" in note for note in found.notes)
    assert any("Fold 0 alone has 12 test patients" in note for note in found.notes)
    assert "attention_res_unet" in render_comparison(found, EMIDEC_LABELS)
    for draw in (forest_figure, pairs_figure):
        with pytest.raises(InputError, match="no pair"):
            draw(found)


def test_each_network_that_was_scored_on_one_fold_alone_is_named(tables):
    one_fold = [table(arm, wrong) for arm, wrong in (("real_only", 0.3), ("real_plus_gan", 0.1))]
    of_halsr_net = [replace(found, scores=found.scores.assign(network="halsr_net")) for found in one_fold]
    notes = compare_arms([*tables, *of_halsr_net]).notes
    assert [note.partition(" alone")[0] for note in notes if "alone has" in note] == ["halsr_net: fold 0"]
    assert any("attention_res_unet: 0, 1; halsr_net: 0" in note for note in notes)


def test_the_same_yardstick_given_twice_counts_once(tables):
    twice = compare_arms([*tables, tables[-1]]).summary
    once = compare_arms(tables).summary
    pd.testing.assert_frame_equal(twice, once)


def test_a_seed_that_one_fold_lacks_is_left_out(tables):
    extra = table("real_only", 0.9, fold=0, seed=7)
    summary = compare_arms([*tables, extra]).summary
    assert set(summary.loc[summary["training_set"] == "real_only", "seeds"]) == {3}


def test_no_common_seed_and_repeated_patients_are_refused():
    first = table("real_only", 0.3, fold=0, seed=0)
    with pytest.raises(InputError, match=r"no seed that was run in every fold \(fold 0: \[0\], fold 1: \[1\]"):
        compare_arms([first, table("real_only", 0.3, fold=1, seed=1)])
    moved = ScoredTable(first.scores.assign(fold=1), first.manifest)
    with pytest.raises(InputError, match="more than one fold"):
        compare_arms([first, moved])
    with pytest.raises(InputError, match="no table"):
        compare_arms([])


def test_text_has_every_row_with_yardsticks_beneath(comparison):
    text = render_comparison(comparison, EMIDEC_LABELS)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    first_yardstick = next(i for i, line in enumerate(lines) if "(yardstick)" in line)
    last_network = max(i for i, line in enumerate(lines[:14]) if "real_plus_gan" in line)
    assert last_network < first_yardstick
    assert len({len(line) for line in lines[: first_yardstick + 4]}) == 1
    assert "0.750" in next(line for line in lines if "all_background" in line and "no-reflow" in line)
    assert "too few patients" in text


def test_figures_are_written(comparison, tmp_path: Path):
    pairs_figure(comparison).savefig(tmp_path / "pairs.png")
    forest_figure(comparison).savefig(tmp_path / "forest.png")
    for name in ("pairs.png", "forest.png"):
        with Image.open(tmp_path / name) as image:
            assert min(image.size) > 200
            assert np.asarray(image.convert("L")).std() > 5


def test_networks_of_different_folds_stand_by_themselves_and_it_is_said(tables):
    other = [
        ScoredTable(
            one.scores.assign(network=one.scores["network"].replace("attention_res_unet", "halsr_net")), one.manifest
        )
        for one in tables
        if (one.scores["fold"] == 0).all()
    ]
    alone, both = compare_arms(tables), compare_arms([*tables, *other])
    note = "(attention_res_unet: 0, 1; halsr_net: 0)"
    assert not any(note in text for text in alone.notes)
    assert any(note in text for text in both.notes)
    of_first = both.differences[both.differences["network"] == "attention_res_unet"].reset_index(drop=True)
    own = alone.differences.columns.difference(["p_holm", "verdict"])  # Holm corrects over both networks
    pd.testing.assert_frame_equal(of_first[own], alone.differences[own])
    assert (of_first["p_holm"] >= alone.differences["p_holm"]).all()


def test_holm_corrects_over_the_tissues_of_all_networks(tables):
    other = [replace(one, scores=one.scores.assign(network="halsr_net")) for one in tables if "real" in one.name]
    found = compare_arms([*tables, *other]).differences
    for _, rows in found.groupby("rule"):
        together = rows[["p_value", "p_interval"]].max(axis=1)
        np.testing.assert_allclose(rows["p_holm"], holm(together.tolist()))
        assert set(rows["network"]) == {"attention_res_unet", "halsr_net"}


def test_folds_are_counted_and_what_intervals_cover_is_said(comparison):
    assert set(comparison.differences["folds"]) == {2}
    trained = comparison.summary[comparison.summary["training_set"] != ""]
    assert set(trained["folds"]) == {2}
    assert "Intervals are over patients, training sets (folds) and seeds." in comparison.notes
    assert any(note.startswith("2 folds tell little") for note in comparison.notes)


def test_one_fold_is_said_to_hold_for_its_training_set_only():
    arms = [
        table(arm, wrong, 0, seed) for arm, wrong in (("real_only", 0.3), ("real_plus_gan", 0.1)) for seed in (0, 1)
    ]
    found = compare_arms(arms)
    assert of(found.differences, rule="positive", tissue="cavity")["verdict"] == "better in this fold"
    assert "Intervals are over patients and seeds." in found.notes
    assert any("this fold's training set only" in note for note in found.notes)


def test_a_fold_that_lacks_an_arm_counts_in_neither_patients_nor_folds(tables):
    lacking = [one for one in tables if "gan (fold 1)" not in one.name]
    found = compare_arms(lacking).differences
    cavity = of(found, rule="positive", tissue="cavity")
    assert (cavity["folds"], cavity["pairs"]) == (1, 12)


def test_a_fold_without_another_patients_masks_is_named(tables):
    mean = [table("", 1.0, fold) for fold in (0, 1)]
    mean = [replace(one, scores=one.scores.assign(network="mean_mask")) for one in mean]
    other = replace(mean[0], scores=mean[0].scores.assign(network="other_patient"))
    said = [note for note in compare_arms([*tables, *mean, other]).notes if "other_patient" in note]
    assert said == ["Fold 1 has no yardstick other_patient: no training patient has a frame that a test patient has."]


@pytest.fixture(scope="module")
def several(tables):
    """The two arms, and a third that is worse than both."""
    own = [one.scores for one in tables if (one.scores["training_set"] != "").all()]
    worse = [table("real_plus_gan", 0.5, fold, seed).scores for fold in (0, 1) for seed in (0, 1, 2)]
    return pd.concat([*own, *(one.assign(training_set="worse") for one in worse)], ignore_index=True)


def test_each_of_several_arms_is_compared_as_two_are(several, comparison):
    differences, _ = compare_each(several, {"real_plus_gan": "real_only", "worse": "real_only"})
    own = differences[differences["arm"] == "real_plus_gan"].reset_index(drop=True)
    same = ["network", "tissue", "rule", "difference", "low", "high", "p_interval", "p_value", "detectable", "pairs"]
    pd.testing.assert_frame_equal(own[same], comparison.differences[same])
    np.testing.assert_array_equal(own["score"], comparison.differences["real_plus_gan"])
    np.testing.assert_array_equal(own["reference"], comparison.differences["real_only"])


def test_holm_corrects_over_arms_and_tissues(several):
    differences, _ = compare_each(several, {"real_plus_gan": "real_only", "worse": "real_only"})
    for _, of_rule in differences.groupby("rule"):
        assert len(of_rule) > len(set(of_rule["tissue"]))
        together = np.fmax(of_rule["p_interval"], of_rule["p_value"]).tolist()
        np.testing.assert_allclose(of_rule["p_holm"], holm(together))


def test_each_fold_has_its_difference_and_those_above_zero_are_counted(several):
    differences, by_fold = compare_each(several, {"worse": "real_only"})
    alone, _ = compare_each(several[several["fold"] == 1], {"worse": "real_only"})
    chosen = {"rule": "positive", "tissue": "cavity"}
    assert of(by_fold, fold=1, **chosen)["difference"] == pytest.approx(of(alone, **chosen)["difference"])
    assert of(differences, **chosen)["folds_better"] == 0
    assert of(differences, **chosen)["folds"] == 2
    other, _ = compare_each(several, {"real_plus_gan": "worse"})
    assert of(other, **chosen)["folds_better"] == 2


def test_an_arm_without_scores_is_passed_over(several):
    differences, by_fold = compare_each(several, {"nobody": "real_only"})
    assert differences.empty
    assert by_fold.empty


def test_several_arms_are_drawn(several, tmp_path):
    found = compare_each(several, {"real_plus_gan": "real_only", "worse": "real_only"})
    gains_figure(*found).savefig(tmp_path / "gains.svg")
    summary = summarise(several).assign(share=0.5, line="all real patients")
    curve_figure(summary, "Dice").savefig(tmp_path / "curve.svg")
    assert all((tmp_path / name).stat().st_size for name in ("gains.svg", "curve.svg"))
