"""A plan is read, its arms resolved and measured by real only of equal steps, or it is refused before anything runs."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from common.errors import InputError
from pipeline.cli import app
from pipeline.commands.experiment.plan import (
    read_patients,
    read_plan,
    read_seeds,
    read_shares,
    resolved_arms,
    sweep_plan,
)

SCREENING = """
name: screening
source: emidec
root: /data/emidec
profile: quick
set: [attention_res_unet.steps=600, mixing.protocol=replace]
arms:
  real_only:
  replace: {set: [pix2pix.preset=repaint]}
  add: {set: [pix2pix.preset=repaint, mixing.protocol=add]}
  transplant: {set: [synthesis.method=transplant, mixing.protocol=add]}
"""


def plan_of(folder: Path, text: str):
    path = folder / "plan.yaml"
    path.write_text(text)
    return read_plan(path)


def test_each_arm_is_measured_by_real_only_of_equal_steps_added_where_there_is_none(tmp_path):
    plan = plan_of(tmp_path, SCREENING)
    arms = resolved_arms(plan)
    assert list(arms) == ["real_only", "real_only_800_steps", "replace", "add", "transplant"]
    assert {name: arm.against for name, arm in arms.items() if arm.against} == {
        "replace": "real_only",
        "add": "real_only_800_steps",
        "transplant": "real_only_800_steps",
    }
    assert [arm.name for arm in arms.values() if arm.added] == ["real_only_800_steps"]
    # The judge of an arm that adds is the very training that it is measured by.
    assert arms["add"].training("attention_res_unet") == arms["real_only_800_steps"].training("attention_res_unet")
    assert [round(arm.share, 2) for arm in arms.values()] == [0, 0, 0.5, 0.25, 0.25]
    assert (plan.folds, plan.seeds, plan.patients, plan.scored_on) == ((0, 1, 2, 3, 4), (0,), ("all",), "validation")


def test_real_only_is_added_under_its_own_name(tmp_path):
    arms = resolved_arms(plan_of(tmp_path, "name: one\narms: {repaint: {set: [pix2pix.preset=repaint]}}"))
    assert list(arms) == ["real_only", "repaint"]
    assert arms["real_only"].added


def test_a_plan_may_name_by_what_an_arm_is_measured(tmp_path):
    text = "name: losses\narms: {real_only: , dice: {training_set: real_only, set: [attention_res_unet.loss=dice], "
    arms = resolved_arms(plan_of(tmp_path, text + "against: real_only}}"))
    assert arms["dice"].against == "real_only"


def test_a_plan_that_is_written_down_is_read_again(tmp_path):
    plan = plan_of(tmp_path, SCREENING)
    assert plan_of(tmp_path, plan.to_yaml()) == plan


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: x\narm: {}\narms: {a: {}}", r"plan.yaml: 'arm' does not exist; did you mean arms\?"),
        ("name: x\narms: {a: {sett: []}}", r"'arms.a.sett' does not exist; did you mean arms.a.set\?"),
        ("name: x", "'arms' is missing; a plan needs name and arms"),
        ("name: x/y\narms: {a: {}}", "'name': string should match pattern"),
        ("name: x\narms: {a/b: {}}", "'arms.a/b': string should match pattern"),
        ("name: x\nfolds: [7]\narms: {a: {}}", "'folds.0': input should be less than or equal to 4, got 7"),
        ("name: x\nseeds: [1, 1]\narms: {a: {}}", "'seeds': names 1 twice"),
        ("name: x\npatients: [10, none]\narms: {a: {}}", "'none' is no number of patients"),
        ("name: x\nscored_on: train\narms: {a: {}}", "'scored_on': input should be 'validation' or 'test'"),
        ("[1]", "is no plan; write keys such as name"),
        ("name: [", "is no YAML"),
        ("name: x\narms: {a: {set: [pix2pix.stepz=3]}}", "arm 'a': setting 'pix2pix.stepz' does not exist; did you"),
        ("name: x\nprofile: quik\narms: {a: {}}", "arm 'a': profile 'quik' does not exist"),
        ("name: x\narms: {a: {}, b: {}}", "arms 'a' and 'b' have the same settings"),
        (
            "name: x\narms: {real: {}, b: {against: reel, set: [pix2pix.steps=3]}}",
            "'reel' is no other arm; choose real",
        ),
        ("name: x\narms: {a: {set: [seeds=3]}}", "'seeds=3' is for all arms: write seeds"),
        ("name: x\narms: {a: {set: [training_patients=3]}}", r"write patients: \[10, all\] into the plan"),
        ("name: x\nsource: acdc\narms: {a: {}}", "acdc has no lesions to synthesise; give it training_set: real_only"),
    ],
)
def test_what_is_wrong_with_a_plan_is_named(tmp_path, text, words):
    with pytest.raises(InputError, match=words):
        resolved_arms(plan_of(tmp_path, text))


def test_a_plan_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml: cannot be read"):
        read_plan(tmp_path / "none.yaml")


def test_a_sweep_is_such_a_plan(tmp_path):
    shares, patients = read_shares("0,0.25,1"), read_patients("20,all,10")
    plan = sweep_plan("emidec", tmp_path, "quick", 2, shares, patients, slices=500, overrides=["pix2pix.steps=9"])
    assert (plan.folds, plan.patients, plan.scored_on, plan.curve) == ((2,), ("all", 20, 10), "test", True)
    arms = resolved_arms(plan)
    assert {name: (arm.share, arm.against) for name, arm in arms.items()} == {
        "share_0": (0, ""),
        "share_0.25": (0.25, "share_0"),
        "share_1": (1, "share_0"),
    }
    assert {arm.settings.training_slices for arm in arms.values()} == {500}
    assert arms["share_1"].settings.arm("real_plus_gan") == {"augmented_slices": 0, "synthetic_slices": 500}
    assert {arm.settings.pix2pix.steps for arm in arms.values()} == {9}
    assert plan_of(tmp_path, plan.to_yaml()) == plan


def test_a_sweep_takes_the_profile_s_seeds_unless_it_is_given_some():
    assert sweep_plan("phantom", None, "tiny", 0, (0.0, 0.5), ("all",)).seeds == (0,)
    assert sweep_plan("phantom", None, "tiny", 0, (0.0, 0.5), ("all",), seeds=(1, 2)).seeds == (1, 2)


def test_options_are_read():
    assert read_shares("1,0,0.25") == (0.0, 0.25, 1.0)
    assert read_patients("all,20,10") == (10, 20, "all")
    assert (read_seeds(""), read_seeds("2,0")) == ((), (0, 2))


@pytest.mark.parametrize(
    ("read", "text", "words"),
    [
        (read_shares, "0,1.5", "1.5 is outside 0 to 1"),
        (read_shares, "-0.1", "-0.1 is outside"),
        (read_shares, "0,0.5,0.50", "names 0.5 twice"),
        (read_shares, "0,,1", "'' is no number"),
        (read_shares, "nan", "'nan' is no number"),
        (read_patients, "ten", "'ten' is no number"),
        (read_patients, "0,all", "0 is no number of patients"),
        (read_patients, "2.5", "2.5 is no number of patients"),
        (read_patients, "10,10", "names 10 twice"),
        (read_patients, "all,all", "names all twice"),
        (read_seeds, "-1", "no whole numbers"),
    ],
)
def test_options_that_mean_nothing_are_refused(read, text, words):
    with pytest.raises(InputError, match=words):
        read(text)


@pytest.mark.parametrize("option", ["--shares", "--synthetic-share"])
def test_the_command_refuses_before_it_starts(option):
    found = CliRunner().invoke(app, ["sweep", option, "0,2"])
    assert isinstance(found.exception, InputError)
