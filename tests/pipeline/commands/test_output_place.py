"""Where a command writes is checked before its work, in every command that writes."""

import re
from pathlib import Path

import pytest

from common.errors import InputError
from engine.forge import Forge
from pipeline.commands.evaluate import evaluate
from pipeline.commands.experiment.plan import ArmPlan, Plan
from pipeline.commands.experiment.report import conduct
from pipeline.commands.export import export
from pipeline.commands.external_test import ExternalTestOptions, external_test
from pipeline.commands.output import check_file, check_folder
from pipeline.commands.predict.predict import PredictOptions, predict
from pipeline.commands.run import run_fold
from pipeline.commands.scores import pool_scores
from pipeline.commands.store import show
from pipeline.commands.trials import run_trials

MODEL = "emidec/tiny/attention_res_unet/real_only"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    return path


@pytest.mark.parametrize("below", ["", "results", "results/of/today"])
def test_a_file_where_a_folder_is_wanted_is_named(file, below):
    with pytest.raises(InputError, match=rf"^--output {re.escape(str(file / below))}: .*is a file, not a folder; give"):
        check_folder(file / below)
    assert file.read_text() == "mine"


def test_a_link_that_leads_nowhere_is_no_folder(tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match="out: is a link that leads nowhere, not a folder"):
        check_folder(tmp_path / "out")


def test_missing_parents_of_a_folder_can_be_made_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in (tmp_path / "a" / "b", Path("a/b"), Path()):
        check_folder(place)
    assert not list(tmp_path.iterdir())


def test_a_place_without_permission_is_named_with_the_systems_words(tmp_path, monkeypatch):
    def refuse(**options):
        raise PermissionError(13, "Permission denied", str(options["dir"]))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(InputError, match=r"out: cannot be written \(Permission denied\); correct its permissions, or"):
        check_folder(tmp_path / "out")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a place that nobody can write in")
def test_a_place_that_root_cannot_write_in_either_is_found():
    with pytest.raises(InputError, match="cannot be written"):
        check_folder(Path("/proc/scarforge"))


def test_a_name_that_is_too_long_is_found(tmp_path):
    with pytest.raises(InputError, match=r"cannot be written \(File name too long\)"):
        check_folder(tmp_path / ("x" * 300))


def test_a_file_needs_a_folder_that_exists(tmp_path):
    check_file(tmp_path / "sheet.png", "--sheet")
    with pytest.raises(InputError, match=r"--sheet .*a/sheet.png: there is no folder .*a; make it"):
        check_file(tmp_path / "a" / "sheet.png", "--sheet")
    with pytest.raises(InputError, match="is a folder; give the name of a file"):
        check_file(tmp_path, "--sheet")


COMMANDS = {
    "predict": lambda home, out: predict(home, [home / "absent.nii.gz"], PredictOptions(MODEL, out)),
    "evaluate": lambda home, out: evaluate(home / "absent", home / "absent", "emidec", out),
    "external-test": lambda home, out: external_test(home, ExternalTestOptions((MODEL,), "phantom", None, out)),
    "export": lambda home, out: export(home, MODEL, "torch_export", out),
    "scores": lambda home, out: pool_scores(home, "emidec", "tiny", out),
    "run": lambda _, out: run_fold("phantom", None, "demo", 0, out),
    "experiment": lambda _, out: conduct(Plan(name="p", profile="tiny", arms={"real_only": ArmPlan()}), out),
    "trials": lambda _, out: run_trials(Forge(home=str(out)), 0),
    "store show": lambda home, out: show(home / "absent.h5", out / "sheet.png"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_looks_at_its_output_before_anything_else(tmp_path, file, command):
    with pytest.raises(InputError, match=r"notes.txt: is a file, not a folder|there is no folder .*notes.txt"):
        COMMANDS[command](tmp_path, file)
