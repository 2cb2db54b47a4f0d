"""What ends a command: exit statuses, signals and faults of the surroundings, each told in one line."""

import contextlib
import errno
import os
import pathlib
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
import yaml

from common.errors import InputError
from pipeline.outermost import explain, explain_told, run_command


def fault(number, name="/data/x"):
    return OSError(number, os.strerror(number), name)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("study 7 is broken; repair it"), "study 7 is broken; repair it"),
        (fault(errno.ENOSPC), "/data/x: the disk is full; free some space"),
        (fault(errno.EACCES), "/data/x: you may not read or write it; ask its owner"),
        (fault(errno.EROFS), "/data/x: it lies on a disk that is read-only"),
        (fault(errno.ENOTDIR), "/data/x: a part of this path is a file"),
        (fault(errno.EEXIST), "/data/x: there is a file where a folder is wanted"),
        (fault(errno.ENAMETOOLONG), "the name is too long"),
        (fault(errno.EIO), "Input/output error; check the disk"),
        (OSError("AF_UNIX path too long"), "set TMPDIR to a shorter one"),
        (sqlite3.OperationalError("database is locked"), "in use by another process"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "check the rights"),
        (sqlite3.DatabaseError("file is not a database"), "restore it from a backup"),
        (MemoryError(), "the memory is used up"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "save the file as UTF-8"),
    ],
)
def test_a_fault_of_the_surroundings_is_one_line_with_its_remedy(error, line):
    words = explain(error)
    assert line in words
    assert "\n" not in words


def test_a_broken_yaml_file_is_named_with_the_line():
    with pytest.raises(yaml.YAMLError) as told, pathlib.Path(__file__).open() as file:
        yaml.safe_load(file)
    assert re.search(rf'in "{__file__}", line \d+, column \d+; correct the YAML file', explain(told.value))
    assert "\n" not in explain(told.value)


@pytest.mark.parametrize("damage", ["page", "cut"])
def test_the_database_of_dagster_that_is_damaged_is_named_with_its_remedy(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    for name in ("runs.db", "history/index.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        with contextlib.closing(sqlite3.connect(tmp_path / name)) as database, database:
            database.execute("CREATE TABLE runs (name TEXT)")
            database.executemany("INSERT INTO runs VALUES (?)", [("x" * 900,) for _ in range(40)])
    damaged = tmp_path / "history" / "index.db"
    content = damaged.read_bytes()
    changed = content[:12_000] if damage == "cut" else content[:8192] + b"\xff" * 4096 + content[12288:]
    damaged.write_bytes(changed)
    line = f"{damaged}: is damaged (database disk image is malformed); restore a backup. Only without one move the file"
    assert explain(sqlite3.DatabaseError("database disk image is malformed")).startswith(line)
    told = explain_told("sqlite3.DatabaseError: database disk image is malformed", tmp_path)
    assert told.startswith(line)


def test_a_database_that_cannot_be_opened_is_laid_to_the_workspace_that_was_given(tmp_path, monkeypatch):
    monkeypatch.setenv("SCARFORGE_HOME", str(tmp_path / "of the environment"))
    told = explain_told("sqlite3.OperationalError: unable to open database file", tmp_path / "given")
    assert told.startswith(f"{tmp_path / 'given'}: a database cannot be opened or written (unable to open database")
    assert "of the environment" not in told
    assert explain(sqlite3.OperationalError("unable to open database file")).startswith(
        f"{tmp_path / 'of the environment'}: a database cannot be opened"
    )


def test_a_database_behind_sqlalchemy_is_explained_alike():
    from sqlalchemy.exc import OperationalError

    assert "in use by another process" in explain(OperationalError("s", {}, sqlite3.OperationalError("is locked")))


def test_faults_of_our_own_are_not_explained_away(capsys):
    def fails():
        raise KeyError("nonesuch")

    assert explain(KeyError("nonesuch")) is None
    with pytest.raises(SystemExit) as ended:
        run_command(fails)
    assert ended.value.code == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.splitlines()[-1].startswith("scarforge: this is a fault of ScarForge or of a library (KeyError")


@pytest.mark.parametrize(("code", "status"), [(None, 2), (0, 0), (3, 3)])
def test_the_status_of_a_command_is_handed_on(code, status):
    def ends():
        raise SystemExit(code if code is not None else "words")

    with pytest.raises(SystemExit) as ended:
        run_command(ends)
    assert ended.value.code == status


COMMAND = """
import time
from pipeline import outermost
outermost._ENDS_WITHIN_S = 1.0
def waits():
    print("ready", flush=True)
    {body}
outermost.run_command(waits)
"""
BODIES = {
    "waits": "time.sleep(60)",
    "in a library that handles signals itself": (
        "import dagster._utils.interrupts as i\n    with i.capture_interrupts(): time.sleep(60)"
    ),
    "deaf": (
        "import signal\n    signal.signal(signal.SIGTERM, lambda *_: 0); signal.signal(signal.SIGINT, lambda *_: 0)"
        "\n    while True: time.sleep(0.1)"
    ),
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("body", BODIES)
def test_a_signal_ends_a_command_quietly_with_its_status(number, body):
    code = COMMAND.format(body=BODIES[body])
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3 if body == "waits" else 2.0)
    process.send_signal(number)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert errors == ""


LOST = """
import os, signal, time, weakref
from pipeline.outermost import run_command
class Held: pass
def works():
    {enter}
        held = Held()
        told = weakref.ref(held, lambda _: (os.kill(os.getpid(), signal.SIGINT), time.sleep(0.2)))
        del held  # Python drops what is raised in the callback
        time.sleep(5)
run_command(works)
"""


RAISING = """import dagster._utils.interrupts as i
    with i.capture_interrupts(), i.raise_interrupts_as(KeyboardInterrupt):"""


@pytest.mark.parametrize("enter", ["if True:", RAISING], ids=["ours", "a library's handler"])
def test_an_interruption_that_python_drops_ends_the_command_all_the_same(enter):
    line = [sys.executable, "-c", LOST.format(enter=enter)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (128 + signal.SIGINT, "")


TELLS_ITS_TERMINAL = (
    "try: time.sleep(60)\n    except BaseException: print('tidied up', flush=True); open({there!r}, 'w').close(); raise"
)


def test_a_command_whose_terminal_is_closed_tidies_up_and_ends(tmp_path):
    there = tmp_path / "tidied_up"
    code = COMMAND.format(body=TELLS_ITS_TERMINAL.format(there=str(there)))
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", code])
    assert os.read(terminal, 100).startswith(b"ready")
    time.sleep(0.5)  # until it waits
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGHUP
    assert there.exists()


def test_a_command_under_nohup_outlives_its_terminal():
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)" + COMMAND.format(body="time.sleep(1.0)")
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=10) == ("", "")
    assert process.returncode == 0


def scarforge(*arguments, home, **environment):
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "SCARFORGE_HOME": str(home), **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_a_workspace_that_is_a_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    result = scarforge("run", "--profile", "tiny", home=tmp_path / "file")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert str(tmp_path / "file") in result.stderr


@pytest.mark.parametrize("port", ["99999", "0", "-1"])
def test_a_port_that_cannot_be_is_refused(tmp_path, port):
    result = scarforge("ui", "--dagster-port", port, home=tmp_path)
    assert result.returncode == 2
    assert re.search(r"Invalid value for .--dagster-port.: Input should be (less|greater) than", result.stderr)


def test_an_ascii_terminal_gets_question_marks_instead_of_an_error(tmp_path):
    result = scarforge("sources", home=tmp_path, PYTHONIOENCODING="ascii")
    assert result.returncode == 0
    assert not result.stderr
