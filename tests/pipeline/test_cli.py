"""What a user sees of wrong input: one line that names the thing and the next step, and nothing half-written."""

import subprocess
import sys

import numpy as np
import pytest

from common.errors import InputError
from pipeline import cli
from pipeline.commands.store import show
from pipeline.services.doctor import report
from tests.imaging import fake_emidec
from tests.imaging import small_stores as slices


def run_command(*arguments, home):
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    environment = {"SCARFORGE_HOME": str(home), "PATH": "/usr/bin:/bin", "HOME": str(home)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--profile", "huge"), "profile 'huge' does not exist; choose one of best, demo, paper, quick, tiny"),
        (("run", "--set", "training_slices=1"), "setting 'training_slices'"),
        (("run", "--source", "emidec"), "needs the folder that holds the studies"),
        (("run", "--source", "emidec", "--root", "nowhere"), "nowhere: does not exist"),
        (("run", "--source", "acme"), "source 'acme' is unknown; choose one of"),
    ],
)
def test_wrong_input_is_one_line_and_no_traceback(tmp_path, arguments, message):
    result = run_command(*arguments, home=tmp_path)
    assert result.returncode == 2
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("scarforge: ")
    assert message in last
    assert "Traceback" not in result.stderr


def test_a_fold_that_does_not_exist_is_refused(tmp_path):
    result = run_command("run", "--fold", "7", home=tmp_path)
    assert result.returncode == 2
    assert "--fold" in result.stderr
    assert "less than or equal to 4" in " ".join(result.stderr.split())


def test_too_few_patients_are_named_with_the_reasons(tmp_path):
    root = tmp_path / "emidec"
    fake_emidec.write_case(root, "Case_P001")
    (root / "Case_P002" / "Images").mkdir(parents=True)
    (root / "Case_P002" / "Images" / "Case_P002.nii.gz").write_bytes(b"not an image")
    result = run_command("run", "--source", "emidec", "--root", str(root), "--profile", "tiny", home=tmp_path / "home")
    assert result.returncode == 2
    assert "Case_P002" in result.stderr


def test_the_doctor_names_what_would_be_used(tmp_path):
    lines = report(tmp_path)
    assert lines["workspace"] == str(tmp_path)
    assert "bf16" in lines["training on"] or "fp32" in lines["training on"]
    assert lines["torch"]


def test_an_input_error_ends_with_status_two(monkeypatch, capsys):
    def fails():
        raise InputError("study 7 is broken; repair it")

    monkeypatch.setattr(cli, "app", fails)
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "scarforge: study 7 is broken; repair it\n"


def test_a_store_is_shown_with_its_counts_and_a_contact_sheet(tmp_path, capsys):
    masks = np.stack([slices.ring("no_reflow"), slices.ring("infarct")])
    slices.write(tmp_path / "slices.h5", masks)
    show(tmp_path / "slices.h5", tmp_path / "sheet.png")
    shown = capsys.readouterr().out
    assert "no_reflow 1" in shown
    assert "real 2" in shown
    assert (tmp_path / "sheet.png").stat().st_size > 1000
