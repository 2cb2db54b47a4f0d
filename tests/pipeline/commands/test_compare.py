"""Folders of label maps beside one reference: the figures of `comparison`, honest words, and who is missing."""

import shutil

import numpy as np
import pandas as pd
import pytest

from common.errors import InputError
from imaging.labels import EMIDEC_LABELS
from pipeline.commands.compare import compare
from segmentation.comparison.arms import ScoredTable, compare_arms
from segmentation.evaluation.compared_folders import compare_folders
from segmentation.evaluation.label_maps import EMIDEC, read_prediction, read_reference
from segmentation.scoring.scores import ScoreIdentity, score_table
from tests.imaging.fake_emidec import CASES, label_map, write_nifti

WRONG = {"real_only": 0.4, "real_plus_gan": 0.2}
FIGURES = ["difference", "low", "high", "probability_better", "p_interval", "p_value", "p_holm", "effect_size"]
FIGURES += ["detectable", "pairs", "folds", "seeds"]


def drawn(case_id, arm, seed):
    """The reference with a share of its labels lost; each network loses others."""
    rng = np.random.default_rng([CASES.index(case_id), list(WRONG).index(arm), seed])
    mask = label_map(case_id)
    return np.where(rng.random(mask.shape) < WRONG[arm], 0, mask).astype(np.uint8)


def write_arms(root, arms=tuple(WRONG), seeds=(), folds=()):
    """A reference, and each arm's label maps, in sub-folders where seeds or folds are named."""
    for case_id in CASES:
        write_nifti(root / "reference" / f"{case_id}.nii.gz", label_map(case_id))
        for arm in arms:
            for seed in seeds or (0,):
                inner = [f"fold_{CASES.index(case_id) % len(folds)}"] if folds else []
                inner += [f"seed_{seed}"] if seeds else []
                write_nifti(root.joinpath(arm, *inner, f"{case_id}.nii.gz"), drawn(case_id, arm, seed))
    return root


def run(root, *folders, names=(), form="emidec"):
    status = compare(root / "reference", [root / folder for folder in folders], names, form, root / "out")
    tables = {name: pd.read_csv(root / "out" / f"{name}.csv") for name in ("summary", "differences", "pairs")}
    return status, tables


def of(table, **chosen):
    for name, value in chosen.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


def scored(root, arm, fold, seed):
    """The table of scores that a fold's own scoring gives for the same label maps."""
    volumes = []
    for path in sorted((root / arm / f"fold_{fold}" / f"seed_{seed}").iterdir()):
        reference, volume = read_reference(root / "reference" / path.name, EMIDEC)
        mask = read_prediction(path, EMIDEC, volume).mask
        volumes.append((path.name.removesuffix(".nii.gz"), "", reference.mask, mask, reference.spacing_mm))
    return ScoredTable(score_table(volumes, ScoreIdentity(fold, "net", arm, seed), EMIDEC_LABELS), {})


def test_two_arms_of_folds_and_seeds_equal_the_comparison_of_their_scores(tmp_path):
    write_arms(tmp_path, seeds=(0, 1), folds=(0, 1, 2))
    tables = [scored(tmp_path, arm, fold, seed) for arm in WRONG for fold in range(3) for seed in (0, 1)]
    expected = compare_arms(tables)
    status, found = run(tmp_path, *WRONG)
    assert status == 0
    keys = ["rule", "tissue"]
    ours, theirs = (
        table.sort_values(keys).reset_index(drop=True) for table in (found["differences"], expected.differences)
    )
    assert len(ours) == len(theirs) > 12
    for name in FIGURES:
        np.testing.assert_allclose(ours[name].to_numpy(float), theirs[name].to_numpy(float), atol=1e-9, err_msg=name)
    np.testing.assert_allclose(ours["first"], theirs["real_only"], atol=1e-9)
    np.testing.assert_allclose(ours["second"], theirs["real_plus_gan"], atol=1e-9)
    assert list(ours["verdict"]) == list(theirs["verdict"])
    means = found["summary"].set_index(["training_set", "tissue", "rule"])["mean"]
    expected_means = expected.summary.set_index(["training_set", "tissue", "rule"])["mean"]
    np.testing.assert_allclose(means[expected_means.index], expected_means, atol=1e-9)


@pytest.mark.parametrize(
    ("arranged", "words"),
    [
        ({}, "better, these networks alone"),
        ({"seeds": (0, 1)}, "better with this training set"),
        ({"folds": (0, 1)}, "better with this seed"),
        ({"folds": (0, 1), "seeds": (0, 1, 2)}, "better"),
    ],
)
def test_a_verdict_claims_no_more_than_the_folders_tell(tmp_path, arranged, words):
    write_arms(tmp_path, **arranged)
    found = compare_folders(tmp_path / "reference", {arm: tmp_path / arm for arm in WRONG}, EMIDEC).comparison
    assert of(found.differences, rule="positive", tissue="infarct")["verdict"] == words
    told = " ".join(found.notes)
    assert ("name no folds" in told or "name neither" in told) == ("folds" not in arranged)


def test_several_folders_are_each_compared_with_the_first_and_corrected_together(tmp_path):
    write_arms(tmp_path)
    status, two = run(tmp_path, *WRONG)
    third = tmp_path / "third"
    third.mkdir()
    for case_id in CASES:
        write_nifti(third / f"{case_id}.nii.gz", label_map(case_id))
    status, three = run(tmp_path, *WRONG, "third", names=("a", "b", "c"))
    assert status == 0
    assert set(three["differences"]["first_folder"]) == {"a"}
    assert set(three["differences"]["second_folder"]) == {"b", "c"}
    chosen = {"rule": "positive", "tissue": "cavity"}
    alone, together = of(two["differences"], **chosen), of(three["differences"], second_folder="b", **chosen)
    assert together["difference"] == pytest.approx(alone["difference"])
    assert together["p_holm"] > alone["p_holm"]
    assert of(three["differences"], second_folder="c", **chosen)["second"] == 1
    assert set(three["summary"]["training_set"].dropna()) == {"a", "b", "c"}


def test_a_patient_that_one_folder_lacks_is_named_and_in_no_comparison(tmp_path, capsys):
    write_arms(tmp_path, seeds=(0, 1))
    (tmp_path / "real_plus_gan" / "seed_1" / "Case_P002.nii.gz").unlink()
    status, found = run(tmp_path, *WRONG)
    assert status == 2
    told = capsys.readouterr()
    assert "real_plus_gan/seed_1: Case_P002: its prediction is missing" in told.err
    assert "11 of 12 patients were compared" in told.out
    assert "real_plus_gan lacks 1 patient (Case_P002)" in (tmp_path / "out" / "comparison.md").read_text()
    assert "Case_P002" not in set(found["pairs"]["case_id"])
    assert set(found["summary"].query("rule == 'official' and tissue == 'myocardium'")["patients"]) == {11}


def test_arms_and_seeds_that_drew_the_same_are_told_on_the_terminal_and_the_page(tmp_path, capsys):
    write_arms(tmp_path, ("real_only",), seeds=(0,))
    for copy in ("real_only/seed_1", "copy/seed_0", "copy/seed_1"):
        shutil.copytree(tmp_path / "real_only" / "seed_0", tmp_path / copy)
    assert run(tmp_path, "real_only", "copy")[0] == 0
    line = (
        "the predictions of real_only/seed_0, real_only/seed_1, copy/seed_0 and copy/seed_1 (all 12 label maps) are "
        "equal in every voxel"
    )
    assert capsys.readouterr().err.count(f"warning: {line}") == 1
    for page in ("comparison.md", "report.html"):
        assert line in (tmp_path / "out" / page).read_text()


def test_what_is_suspect_is_told_once_a_model_with_the_training_and_sound_arms_have_no_line(tmp_path, capsys):
    write_arms(tmp_path, seeds=(0, 1))
    for path in tmp_path.rglob("Case_P00[5-8]*"):  # their references are others' too
        path.unlink()
    run(tmp_path, *WRONG)
    assert "warning" not in capsys.readouterr().err
    for seed in (0, 1):
        mask = drawn("Case_P001", "real_only", seed)
        write_nifti(tmp_path / "real_only" / f"seed_{seed}" / "Case_P001.nii.gz", 0 * mask)
    run(tmp_path, *WRONG)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert line.startswith("warning: real_only: 2 of 16 predictions (seed_0/Case_P001, seed_1/Case_P001) are empty")


def test_a_patient_in_no_fold_is_missing(tmp_path, capsys):
    write_arms(tmp_path, folds=(0, 1))
    (tmp_path / "real_only" / "fold_0" / "Case_N001.nii.gz").unlink()
    status, _ = run(tmp_path, *WRONG)
    assert status == 2
    assert "real_only: Case_N001 is in none of its folds; add it" in capsys.readouterr().err


def test_the_page_tables_and_figures_lie_beside_each_other(tmp_path):
    write_arms(tmp_path)
    run(tmp_path, *WRONG)
    names = {path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")}
    assert names >= {"scores.csv", "summary.csv", "differences.csv", "pairs.csv", "comparison.md", "report.html"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "real_plus_gan" in page
    assert "these networks alone" in page
    assert "http" not in page.replace("http-equiv", "")


def nested_otherwise(root):
    write_arms(root, arms=("real_only",), seeds=(0,))
    write_arms(root, arms=("real_plus_gan",))


def other_seeds(root):
    write_arms(root, arms=("real_only",), seeds=(0,))
    write_arms(root, arms=("real_plus_gan",), seeds=(1,))


def loose(root):
    write_arms(root, seeds=(0,))
    write_nifti(root / "real_only" / "Case_P001.nii.gz", label_map("Case_P001"))


def in_two_folds(root):
    write_arms(root, folds=(0, 1))
    for arm in WRONG:
        write_nifti(root / arm / "fold_1" / "Case_N001.nii.gz", label_map("Case_N001"))


def seeds_called_otherwise(root):
    write_arms(root, seeds=(0, 1))
    (root / "real_only" / "seed_0").rename(root / "real_only" / "Seed1")
    (root / "real_only" / "seed_1").rename(root / "real_only" / "seed2")


def one_seed_called_otherwise(root):
    write_arms(root, seeds=(0, 1))
    (root / "real_only" / "seed_1").rename(root / "real_only" / "Seed_1")


@pytest.mark.parametrize(
    ("prepare", "folders", "names", "message"),
    [
        (
            seeds_called_otherwise,
            tuple(WRONG),
            (),
            "real_only: sub-folders are called Seed1, seed2; call them seed_0, seed",
        ),
        (
            one_seed_called_otherwise,
            tuple(WRONG),
            (),
            "real_only: sub-folders are called Seed_1; call them seed_0, seed_1",
        ),
        (nested_otherwise, tuple(WRONG), (), "not arranged alike"),
        (other_seeds, tuple(WRONG), (), "share no seed (real_only: 0; real_plus_gan: 1)"),
        (loose, tuple(WRONG), (), "holds Case_P001.nii.gz, seed_0; give label maps alone"),
        (in_two_folds, tuple(WRONG), (), "Case_N001 lie in more than one fold"),
        (write_arms, ("real_only",), (), "nothing to be compared with"),
        (write_arms, ("real_only", "nowhere"), (), "nowhere: does not exist"),
        (write_arms, ("real_only", "real_only"), (), "two folders would be called 'real_only'"),
        (write_arms, tuple(WRONG), ("a",), "1 names for 2 folders"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(tmp_path, prepare, folders, names, message):
    prepare(tmp_path)
    with pytest.raises(InputError) as error:
        run(tmp_path, *folders, names=names)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
