"""What commands print: verdict first, nothing cut at 80 columns, JSON for programs, a display only on a terminal."""

import io
import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from common import progress
from common.files import write_text
from common.tables import write_csv
from engine.finished import Finished
from engine.forge import Forge
from engine.outcome import Fact, Outcome
from engine.record import produce
from pipeline.cli import app
from pipeline.commands.output import records, rendered
from pipeline.commands.run import print_result
from segmentation.comparison.arms import DIFFERENCE_COLUMNS, SUMMARY_COLUMNS

_ROWS = (
    "network | training set | tissue | positive | 95 % interval | patients | pooled | official | per slice",
    "--- | --- | --- | --- | --- | --- | --- | --- | ---",
    "attention_res_unet | real_only | normal_myocardium | 0.81 | 0.780 to 0.840 | 13 | 0.6 | 0.2 (myocardium) | 0.604",
    "attention_res_unet | real_plus_gan | normal_myocardium | 0.81 | 0.781 to 0.841 | 13 | 0.6 | 0.2 (infarct) | 0.6",
)
WIDE = "# Dice\n\n" + "".join(f"| {row} |\n" for row in _ROWS) + "\nA note."


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_name_is_cut_however_narrow_the_terminal(width):
    console = Console(width=width, record=True, file=io.StringIO())
    for part in rendered(WIDE, width):
        console.print(part)
    shown = console.export_text()
    assert all(len(line) <= width for line in shown.splitlines())
    assert "…" not in shown
    for name in ("attention_res_unet", "real_plus_gan", "normal_myocardium", "0.604", "A note."):
        assert name in shown, shown


@pytest.mark.parametrize(
    "command", ["", *(command.name or command.callback.__name__ for command in app.registered_commands)]
)
def test_help_is_whole_at_80_columns(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    arguments = [command.replace("_", "-")] if command else []
    shown, short = (CliRunner().invoke(app, [*arguments, flag]) for flag in ("--help", "-h"))
    assert shown.exit_code == short.exit_code == 0
    assert shown.output == short.output
    assert all(len(line) <= 80 for line in shown.output.splitlines())
    assert "…" not in shown.output
    assert "..." not in shown.output.replace("[ARGS]...", "").replace("}...", "").replace("studies...", "")


def test_the_version_and_a_completion_are_told():
    assert CliRunner().invoke(app, ["--version"]).output.startswith("scarforge ")
    asked = {"_SCARFORGE_COMPLETE": "complete_bash", "COMP_WORDS": "scarforge run --profile ", "COMP_CWORD": "3"}
    command = [sys.executable, "-c", "from pipeline.cli import app; app(prog_name='scarforge')"]
    done = subprocess.run(command, env=os.environ | asked, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["best", "demo", "paper", "quick", "tiny"]


def test_the_doctor_speaks_json():
    found = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).output)
    assert found["torch"]


def test_a_missing_number_is_null_in_json():
    assert records(pd.DataFrame({"dice": [0.5, float("nan")]})) == [{"dice": 0.5}, {"dice": None}]


@pytest.fixture
def compared(tmp_path) -> Forge:
    """A finished comparison of one network in which infarct has become better."""
    forge = Forge(source="phantom", profile="tiny", home=str(tmp_path))

    def build(folder: Path) -> Outcome:
        row = dict.fromkeys(DIFFERENCE_COLUMNS, 0.0) | {"network": "halsr_net", "rule": "positive", "folds": 5}
        own = {
            "tissue": "infarct",
            "real_only": 0.5,
            "real_plus_gan": 0.6,
            "difference": 0.1,
            "low": 0.05,
            "high": 0.15,
        }
        differences = pd.DataFrame([row | own | {"pairs": 12, "verdict": "better"}])
        write_csv(differences, folder / "differences.csv")
        write_csv(pd.DataFrame(columns=list(SUMMARY_COLUMNS)), folder / "summary.csv")
        write_csv(pd.DataFrame(columns=["case_id"]), folder / "pairs.csv")
        table = (
            "| network | training set |\n| --- | --- |\n| halsr_net | real_only |\n| all_background | (yardstick) |\n"
        )
        write_text(folder / "comparison.md", table)
        return Outcome({"folds": Fact("text", "0, 1")})

    produce(forge.folder("comparison"), "comparison", "key", build)
    assert Finished.open(forge.folder("comparison"), "comparison")
    return forge


def test_the_result_begins_with_the_verdict_and_yardsticks_come_on_request(compared, capsys):
    print_result(compared, [0, 1])
    heading, _, *lines = capsys.readouterr().out.splitlines()
    assert heading == "# Real + GAN against real only, on the test patients of folds 0, 1"
    assert [line.partition(":")[0] for line in lines[:4]] == ["No-reflow", "Infarct", "Normal myocardium", "Cavity"]
    assert lines[1].startswith("Infarct: synthetic slices helped: HALSR-Net Dice 0.500 → 0.600 (+0.100")
    assert not any("yardstick" in line for line in lines)
    print_result(compared, [0, 1], yardsticks=True)
    assert "(yardstick)" in capsys.readouterr().out


def test_quiet_leaves_problems_and_verbose_adds_details(capsys):
    for lines, expected in (("", "a\nb\n"), ("quiet", "b\n"), ("verbose", "a\nb\nc\n")):
        with progress.shown_live(lines):
            progress.say("a")
            progress.warn("b")
            progress.detail("c")
        assert capsys.readouterr().err == expected


def test_the_last_losses_and_the_validation_dice_are_chosen():
    figures = {"images_per_s": 4.0, "loss": 0.25, "validation/dice/infarct": 0.5, "validation/dice/mean": 0.75}
    assert progress.figures_shown(figures) == "loss 0.25, validation dice mean 0.75"


CHILD = (
    "from common.progress import show_figures, track\nimport time\n"
    "for _ in track(range(3), 'training halsr_net'):\n"
    "    time.sleep(0.4)\n    show_figures({'loss': 0.25, 'validation/dice/mean': 0.75})\n"
)
PARENT = (
    "import subprocess, sys\nfrom common.progress import *\n"
    "with shown_live():\n    expect(2, 'stages')\n    begin('halsr_net_real_only, seed 0')\n"
    f"    subprocess.run([sys.executable, '-c', {CHILD!r}], stderr=subprocess.DEVNULL)\n"
    "    say('  + halsr_net_real_only')\n    finish('stages')\n"
)


def on_a_terminal(code: str, **environment: str) -> str:
    reading, terminal = pty.openpty()
    own = os.environ | {"TERM": "xterm", "COLUMNS": "80"} | environment
    process = subprocess.Popen([sys.executable, "-c", code], stdout=terminal, stderr=terminal, env=own)
    os.close(terminal)
    shown, end = b"", time.monotonic() + 60
    while time.monotonic() < end:
        if select.select([reading], [], [], 1)[0]:
            try:
                shown += os.read(reading, 65536)
            except OSError:
                break
    assert process.wait(10) == 0
    return shown.decode()


def test_a_terminal_shows_what_another_process_trains():
    shown = on_a_terminal(PARENT)
    for part in ("stages", "0/2", "halsr_net_real_only, seed 0", "training halsr_net", "/3", "left"):
        assert part in shown, shown
    assert "loss 0.25, validation dice mean 0.75" in shown
    assert "  + halsr_net_real_only" in shown


def test_what_a_step_prints_goes_into_its_log_and_is_shown_once(tmp_path):
    step = "os.dup2(os.open(r'{}', os.O_WRONLY | os.O_CREAT), 2)".format(tmp_path / "log")
    code = f"import os\nfrom common.progress import *\nwith shown_live():\n    {step}\n    say('  + studies')\n"
    assert on_a_terminal(code).count("  + studies") == 1
    assert (tmp_path / "log").read_text() == "  + studies\n"


def test_no_colour_is_used_where_none_is_wanted_and_a_dumb_terminal_gets_plain_lines():
    assert "\x1b[38" not in on_a_terminal(PARENT, NO_COLOR="1")
    assert on_a_terminal(PARENT, TERM="dumb").split() == ["+", "halsr_net_real_only"]
