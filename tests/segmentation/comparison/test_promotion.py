import numpy as np
import pandas as pd
import pytest

from segmentation.comparison.arms import ScoredTable
from segmentation.comparison.promotion import FIRST, judge_candidate
from segmentation.scoring.scores import SCORE_COLUMNS

SPLIT = {"patient_split": "abc", "studies": "def"}
COUNTS = {"tp_voxels": 80.0, "fp_voxels": 20.0, "fn_voxels": 20.0}


def scored(
    dice: dict[str, float],
    patients=12,
    seeds: tuple[int, ...] = (0, 1, 2),
    manifest=SPLIT,
    first=0,
    few=(),
    spread=0.01,
):
    """Scores around a mean for each tissue; patients and seeds scatter alike in every table.

    `few` gives tissues that only the first of the patients have, and how many those are.
    """
    rows = []
    for tissue, mean in dice.items():
        for seed in seeds:
            for patient in range(first, first + dict(few).get(tissue, patients)):
                scatter = spread * np.sin(patient) + 0.3 * spread * np.sin(7 * patient + seed)
                own = (0, "halsr_net", "real_only", seed, f"P{patient}", "", None)
                rows.append((*own, "positive", tissue, "dice", mean + scatter, ""))
                rows += [(*own, "pooled", tissue, metric, value, "") for metric, value in COUNTS.items()]
    table = pd.DataFrame(rows, columns=list(SCORE_COLUMNS)).astype({"slice_index": "Int64"})
    return ScoredTable(table, manifest)


def test_the_first_model_becomes_champion():
    judgement = judge_candidate(scored({"cavity": 0.5}), None)
    assert (judgement.promoted, judgement.reason) == (True, FIRST)


def test_better_in_one_tissue_and_worse_in_none_is_promoted_with_the_figures_as_reason():
    old, new = scored({"cavity": 0.9, "infarct": 0.5}), scored({"cavity": 0.9, "infarct": 0.6})
    judgement = judge_candidate(new, old)
    assert judgement.promoted
    assert judgement.reason.startswith("better than the champion: infarct +0.100 (")
    assert "12 pairs" in judgement.reason
    assert not any(tissue.fell for tissue in judgement.tissues)


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        ({"cavity": 0.9, "infarct": 0.5}, "no evidence that it is better"),
        ({"cavity": 0.8, "infarct": 0.5}, "worse than the champion: cavity -0.100"),
        ({"cavity": 0.8, "infarct": 0.9}, "worse than the champion: cavity -0.100"),
    ],
)
def test_no_evidence_or_any_tissue_worse_leaves_the_champion(new, reason):
    judgement = judge_candidate(scored(new), scored({"cavity": 0.9, "infarct": 0.5}))
    assert not judgement.promoted
    assert judgement.reason.startswith(reason)


def test_a_tissue_below_the_lower_end_of_the_champions_interval_is_named_as_regression():
    judgement = judge_candidate(scored({"cavity": 0.9, "infarct": 0.4}), scored({"cavity": 0.9, "infarct": 0.5}))
    (fell,) = [tissue for tissue in judgement.tissues if tissue.fell]
    assert fell.tissue == "infarct"
    assert fell.candidate < fell.champion.low < fell.champion.value
    assert fell.candidate == pytest.approx(0.4, abs=0.01)


def test_too_few_patients_never_promote():
    judgement = judge_candidate(scored({"infarct": 0.9}, patients=5), scored({"infarct": 0.5}, patients=5))
    assert not judgement.promoted
    assert "too few patients" in judgement.reason


@pytest.mark.parametrize("no_reflow", [0.55, 0.45])
def test_few_patients_with_about_the_champions_dice_veto_nothing(no_reflow):
    few, wide = {"no_reflow": 4}, 0.15
    old = scored({"infarct": 0.5, "no_reflow": 0.5}, few=few, spread=wide)
    judgement = judge_candidate(scored({"infarct": 0.8, "no_reflow": no_reflow}, few=few, spread=wide), old)
    assert judgement.promoted


@pytest.mark.parametrize(
    ("patients", "spread", "dice"),
    [
        (5, 0.01, 0.40),  # below a narrow interval
        (3, 0.15, 0.20),  # below half, within a wide interval
        (1, 0.01, 0.00),  # one patient has no interval
    ],
)
def test_a_collapse_in_too_few_patients_for_a_verdict_keeps_the_champion_and_says_so(patients, spread, dice):
    few = {"no_reflow": patients}
    old = scored({"infarct": 0.5, "no_reflow": 0.5}, few=few, spread=spread)
    judgement = judge_candidate(scored({"infarct": 0.9, "no_reflow": dice}, few=few, spread=spread), old)
    (veto,) = [tissue for tissue in judgement.tissues if tissue.vetoes]
    assert (veto.tissue, veto.verdict, judgement.promoted) == ("no_reflow", "too few patients", False)
    assert judgement.reason.startswith("fell too far, though in too few patients for a verdict: no-reflow ")
    assert f"({patients} pair" in judgement.reason
    assert "nan" not in judgement.reason


def test_enough_patients_never_veto_since_they_have_a_verdict():
    judgement = judge_candidate(scored({"infarct": 0.1}), scored({"infarct": 0.5}))
    assert judgement.reason.startswith("worse than the champion")
    assert not any(tissue.vetoes for tissue in judgement.tissues)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"manifest": {**SPLIT, "patient_split": "xyz"}}, "patient_split is xyz, the champion's was abc"),
        ({"manifest": {"studies": "def"}}, "patient_split is missing"),
        ({"first": 3}, "different patients"),
        ({"seeds": (7,)}, "share no seed"),
    ],
)
def test_models_of_other_patients_are_not_compared_and_the_reason_says_so(changed, reason):
    judgement = judge_candidate(scored({"infarct": 0.9}, **changed), scored({"infarct": 0.5}))
    assert not judgement.promoted
    assert judgement.reason.startswith("not compared: ")
    assert reason in judgement.reason
    assert not judgement.tissues


@pytest.mark.parametrize("infarct", [0.9, 0.1])
def test_one_seed_never_promotes_and_the_reason_says_so(infarct):
    old, new = scored({"infarct": 0.5}, seeds=(0,)), scored({"infarct": infarct}, seeds=(0, 1))
    judgement = judge_candidate(new, old)
    assert not judgement.promoted
    assert judgement.reason.startswith("not enough seeds: the first model stays; infarct ")
    assert judgement.tissues[0].fell == (infarct == 0.1)  # a regression is found all the same


def test_candidates_that_are_no_better_are_hardly_ever_promoted():
    rng = np.random.default_rng(0)

    def drawn(seeds):
        table = scored({"cavity": 0.9, "infarct": 0.5, "no_reflow": 0.4}, seeds=seeds, spread=0.0)
        dice = table.scores["metric"] == "dice"
        moves = table.scores["seed"].map({seed: rng.normal(0, 0.02) for seed in seeds})
        noise = 0.02 * rng.normal(size=len(table.scores))
        values = table.scores["value"].where(~dice, table.scores["value"] + moves.astype(float) + noise)
        return ScoredTable(table.scores.assign(value=values), table.manifest)

    def promoted(seeds):
        return sum(judge_candidate(drawn(seeds), drawn(seeds)).promoted for _ in range(20))

    assert promoted((0,)) == 0
    assert promoted((0, 1)) <= 3  # more happen in 1 of 150 such series at a rate of 5 %
