"""Whole commands among signals, foreign modules in the current folder, full disks, long paths and bare terminals."""

import contextlib
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from pipeline.outermost import WRONG_INPUT
from pipeline.services.dagster_home import prepare_dagster_home
from tests.imaging.fake_emidec import label_map, write_nifti
from tests.imaging.slow_blocks import PATIENCE_S
from tests.pipeline.real_runs import is_training

ROOT = Path(__file__).parents[2]
SCARFORGE = Path(sys.executable).with_name("scarforge")
ENDS_WITHIN_S = 10.0
# Of ours, of a library, and of Python's own that a process needs before anything else.
FOREIGN = ("pipeline/__init__.py", "imaging/__init__.py", "gql.py", "yaml.py", "socket.py")


@pytest.fixture
def foreign(tmp_path):
    """A current folder whose modules have names that we import, too, and that tell when they are imported."""
    folder = tmp_path / "current"
    for name in FOREIGN:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"open({str(tmp_path / 'imported')!r}, 'a').write({name!r}); raise SystemExit(9)")
    return folder


class Command:
    """A command with a group of processes of its own, as a shell gives it, and no threads to spare."""

    def __init__(self, line, folder, home, **environment):
        self.output, self.errors = folder.parent / "output", folder.parent / "errors"
        environment = {**os.environ, "SCARFORGE_HOME": str(home), "OMP_NUM_THREADS": "1", **environment}
        with self.output.open("w") as output, self.errors.open("w") as errors:
            self.process = psutil.Popen(
                line, cwd=folder, env=environment, stdout=output, stderr=errors, start_new_session=True
            )
        self.helpers = {}

    def wait_until(self, ready):
        until = time.monotonic() + PATIENCE_S
        while not ready(self._helpers()):
            assert self.process.poll() is None, self.errors.read_text()
            assert time.monotonic() < until, self.errors.read_text()
            time.sleep(0.05)

    def ends_by(self, number, group):
        """Send a signal, to all processes as a terminal does or to the command alone, and return the status."""
        self._helpers()
        began = time.monotonic()
        (os.killpg if group else os.kill)(self.process.pid, number)
        status = self.process.wait(ENDS_WITHIN_S)
        left = psutil.wait_procs(self.helpers.values(), ENDS_WITHIN_S - (time.monotonic() - began))[1]
        left = [process for process in left if not _is_over(process)]
        assert not left, "outlived their command: " + ", ".join(str(process) for process in left)
        return status

    def kill(self):
        for process in (self.process, *self.helpers.values()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()

    def _helpers(self):
        with contextlib.suppress(psutil.NoSuchProcess):
            self.helpers |= {child.pid: child for child in self.process.children(recursive=True)}
        return list(self.helpers.values())


def _is_over(process):
    """A process that has ended stays a zombie until init, whose child it became, looks after it."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def started(foreign, tmp_path):
    commands = []

    def start(*line, **environment):
        commands.append(Command(list(line), foreign, tmp_path / "home", **environment))
        return commands[-1]

    start.folder = foreign
    yield start
    for command in commands:
        command.kill()


def trains(helpers):
    """Tell whether a training is well under way: it has used the processor."""
    for helper in helpers:
        with contextlib.suppress(psutil.Error):
            if is_training(helper) and helper.cpu_times().user > 1:
                return True
    return False


@pytest.mark.slow
def test_a_run_ends_quietly_in_the_middle_of_a_training_and_continues(started, tmp_path):
    """One workspace: Ctrl-C at a terminal, the same command again, ended alone, and once more, its terminal closed."""
    line = (SCARFORGE, "run", "--profile", "tiny", "--set", "localiser.steps=20000", "--set", "device=cpu")
    ways = ((signal.SIGINT, True, "  + "), (signal.SIGTERM, False, "  = "), (signal.SIGHUP, True, "  = "))
    for number, group, found in ways:
        command = started(*line)
        command.wait_until(trains)
        command.wait_until(lambda _, errors=command.errors: "lv_localiser: " in errors.read_text())
        assert command.ends_by(number, group) == 128 + number
        told = command.errors.read_text().splitlines()
        assert "Traceback" not in "\n".join(told)
        assert [row[:15] for row in told if row.startswith(("  +", "  ="))] == [
            f"{found}studies    ",
            f"{found}patient_spl",
        ]
        assert told[-1] == "  interrupted; the same command again continues the run"
        assert len(told) == 5, told  # the heading, two stages, the training's device, and the last line
        assert command.output.read_text() == ""
    assert not (tmp_path / "imported").exists(), "a module of the current folder was imported"


HELPERS = """
import time
from common.processes import make_blocks
from pipeline.outermost import run_command
from tests.imaging.slow_blocks import SlowBlocks
def works():
    for _ in make_blocks(SlowBlocks(), 2, "a process"):
        pass
run_command(works)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_helpers_that_still_start_say_nothing_when_the_command_is_ended(started, tmp_path, number):
    command = started(sys.executable, "-P", "-c", HELPERS, PYTHONPATH=str(ROOT))
    command.wait_until(lambda helpers: len(helpers) == 3)  # tracker, two workers
    assert command.ends_by(number, group=True) == 128 + number
    assert command.errors.read_text() == ""
    assert not (tmp_path / "imported").exists(), "a module of the current folder was imported"


FULL_DISK = """
import errno, os, sys
import common.files
def full(_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
common.files.os.fsync = full
from pipeline.cli import main
if __name__ == "__main__":
    main()
"""


def ended(started, *line, **environment):
    command = started(*line, **environment)
    status = command.process.wait(PATIENCE_S)
    return status, command.output.read_text(), command.errors.read_text()


def test_a_run_on_a_full_disk_is_one_line_that_names_the_file_and_leaves_no_half_of_it(started, tmp_path):
    (tmp_path / "full.py").write_text(FULL_DISK)
    line = (sys.executable, "-P", str(tmp_path / "full.py"), "run", "--profile", "tiny")
    status, output, errors = ended(started, *line, PYTHONPATH=str(ROOT))
    assert (status, output) == (WRONG_INPUT, "")
    place = tmp_path / "home" / "dagster" / "dagster.yaml"
    assert errors.startswith(f"scarforge: {place}: cannot be written (No space left on device); free disk space")
    assert errors.count("\n") == 1
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file() and path.name != ".scarforge"]


READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'


def can_mount_read_only(folder):
    """Root writes whatever the rights say: the disk itself has to refuse."""
    line = ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh", str(folder), "test", "!", "-w", str(folder)]
    return shutil.which("unshare") is not None and subprocess.run(line, capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("line", "status", "told"),
    [
        (
            ("run", "--profile", "tiny"),
            WRONG_INPUT,
            "SCARFORGE_HOME {home}: cannot be written (Read-only file system);",
        ),
        (("clean",), WRONG_INPUT, "{home}"),
        (("models", "list"), 0, ""),
        (("scores", "--source", "phantom", "--profile", "tiny"), WRONG_INPUT, "no fold of phantom/tiny has scores in"),
    ],
)
def test_a_read_only_workspace_is_read_and_named_where_it_is_to_be_written(started, tmp_path, line, status, told):
    home = tmp_path / "home"
    prepare_dagster_home(home)
    if not can_mount_read_only(home):
        pytest.skip("nothing can be mounted read-only here")
    mounted = ("unshare", "--mount", "sh", "-c", READ_ONLY, "sh", str(home))
    found, _, errors = ended(started, *mounted, SCARFORGE, *line)
    assert found == status, errors
    assert errors.startswith(f"scarforge: {told.format(home=home)}" if told else "")
    assert errors.count("\n") == bool(told)
    assert "give another place" in errors or line[0] != "run"


def test_a_number_for_a_group_of_settings_is_one_line(started):
    status, output, errors = ended(started, SCARFORGE, "run", "--set", "pix2pix=5")
    assert (status, output) == (WRONG_INPUT, "")
    assert errors == "scarforge: setting 'pix2pix': has keys below it, such as pix2pix.steps=2000, got 5\n"


@pytest.mark.parametrize(
    "terminal",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_a_terminal_of_ascii_letters_gets_the_whole_of_a_table(started, terminal):
    reference = label_map("Case_P002")
    prediction = np.where(np.arange(reference.size).reshape(reference.shape) % 9, reference, 0)
    for name, mask in {"ref": reference, "pred": prediction}.items():
        (started.folder / name).mkdir()
        write_nifti(started.folder / name / "x.nii.gz", mask)
    line = ("evaluate", "--reference", "ref", "--prediction", "pred", "--output", "out")
    status, output, errors = ended(started, SCARFORGE, *line, **terminal)
    assert (status, errors) == (0, "")
    assert "1 of 1 studies were scored" in output
    assert "Tables: " in output


TWO_STAGES = """
import sys
from functools import partial
from pathlib import Path
from common.progress import quieten
quieten()
import pipeline.commands.run as command
from pipeline.outermost import run_command
command.execute = partial(command.execute, assets=["studies", "patient_split"])
run_command(lambda: command.run_fold("phantom", None, "tiny", 0, Path(sys.argv[1]), ["device=cpu"]))
"""


@pytest.mark.slow
def test_a_run_heeds_neither_letters_nor_locale_nor_home_and_believes_no_clock(tmp_path):
    """Spaces, letters of all kinds, `LANG=C`, no home, a umask of 077; then results and runs of the future."""
    home = (
        tmp_path / "Arbeit \N{LATIN SMALL LETTER U WITH DIAERESIS}" / "mit Leerzeichen \N{CJK UNIFIED IDEOGRAPH-5FC3}"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "PYTHON", "XDG", "MPL"))}
    poor = kept | {"LANG": "C", "LC_ALL": "C", "HOME": "/proc/none", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

    def run():
        line = [sys.executable, "-c", TWO_STAGES, str(home)]
        done = subprocess.run(line, env=poor, capture_output=True, umask=0o077, cwd=tmp_path, timeout=PATIENCE_S)
        told = done.stderr.decode()
        assert (done.returncode, "Traceback" in told, "matplotlib" in told) == (0, False, False), told
        return [row[:10] for row in told.splitlines() if row.startswith(("  +", "  ="))]

    assert run() == ["  + studie", "  + patien"]
    assert [
        path for path in home.rglob("*") if stat.S_IMODE(path.lstat().st_mode) & 0o077 and not path.is_symlink()
    ] == []
    later = time.time() + 1e7
    for path in home.rglob("*"):
        os.utime(path, (later, later))
    with contextlib.closing(sqlite3.connect(home / "dagster" / "history" / "runs.db")) as database, database:
        database.execute(
            "UPDATE runs SET start_time = ?, end_time = ?, create_timestamp = '2037-01-01'", (later, later)
        )
    assert run() == ["  = studie", "  = patien"]
