"""The outermost layer of every command: what ends it is one line and an exit status, whatever it was.

| status | what happened |
|---|---|
| 0 | all is well |
| 1 | a fault of ScarForge itself or of a library; its traceback is printed, to be reported |
| 2 | wrong input, or surroundings that a person has to put right |
| 129, 130, 143 | the terminal was closed (SIGHUP), Ctrl-C, SIGTERM |
"""

import builtins
import errno
import os
import re
import signal
import sqlite3
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NoReturn

import yaml

from common.errors import InputError, is_out_of_memory, one_line, tells_no_memory
from common.processes import send_again_where_lost, was_lost
from engine.workspace import home_of

WRONG_INPUT, OWN_FAULT = 2, 1
_ENDS_WITHIN_S = 9.0
_OF_DAGSTERS_SETTINGS = ("Errors whilst loading dagster ", "attempting to load the configurable class")
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)
_MOST_LETTERS = 400
_NUMBER, _NAMED = re.compile(r"\[Errno (\d+)\]"), re.compile(r": '([^']+)'")  # as Python words an error of the system

_REMEDIES = {
    errno.ENOSPC: "the disk is full; free some space, or move SCARFORGE_HOME to another disk, and run this again",
    errno.EDQUOT: "your quota is used up; free some space, or move SCARFORGE_HOME elsewhere, and run this again",
    errno.EACCES: "you may not read or write it; ask its owner for the right, or choose another place",
    errno.EPERM: "you may not read or write it; ask its owner for the right, or choose another place",
    errno.EROFS: "it lies on a disk that is read-only; choose another place, such as another SCARFORGE_HOME",
    errno.ENOTDIR: "a part of this path is a file, not a folder; choose another place",
    errno.EEXIST: "there is a file where a folder is wanted; choose another place",
    errno.EISDIR: "is a folder where a file is wanted; name the file",
    errno.ENOENT: "does not exist; check the name",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter path",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n 4096) and run this again",
    errno.ENOMEM: "the memory is used up; end other programs, or use fewer processes (--set processes=1)",
}


def run_command(command: Callable[[], object]) -> NoReturn:
    """Run a command and end the process with its status; faults and signals are told in one line.

    SIGINT, SIGTERM and, unless `nohup` has it ignored, SIGHUP interrupt the command; one that has not ended nine
    seconds later is ended. Processes that the command starts import nothing from the current folder, which may hold a
    `yaml.py` or a `pipeline/` of its own.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    received = _SignalWatch()
    send_again_where_lost(signal.SIGTERM)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without a letter gets a question mark for it
    try:
        command()
        sys.stdout.flush()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else WRONG_INPUT
    except (InterruptedCommand, KeyboardInterrupt):
        status = received.status()
    except BrokenPipeError:  # whoever read our lines, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 128 + signal.SIGPIPE
    except Exception as error:  # noqa: BLE001 # the last place where an exception can become a line
        status = _tell(error)
    sys.exit(status)


class InterruptedCommand(BaseException):  # it is no error
    """A signal ends the command. No `KeyboardInterrupt`, which typer would tell of in words of its own."""


def explain(error: BaseException) -> str | None:
    """Return what went wrong and what to do, in one line; None for a fault that is ScarForge's own."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, UnicodeDecodeError):
        return f"a text is not UTF-8 ({error.reason} at byte {error.start}); save the file as UTF-8"
    if any(words in str(error) for words in _OF_DAGSTERS_SETTINGS):
        place = Path(os.environ.get("DAGSTER_HOME", ""), "dagster.yaml")
        return f"{place}: {one_line(error)}; correct it, or move it away to have a new one written"
    if isinstance(error, yaml.YAMLError):
        return f"{' '.join(str(error).split())[:_MOST_LETTERS]}; correct the YAML file"
    if is_out_of_memory(error):
        return _REMEDIES[errno.ENOMEM]
    if isinstance(error, sqlite3.Error) or type(error).__module__.startswith("sqlalchemy"):
        return _explain_database(error)
    if isinstance(error, OSError):
        return _explain_system(error)
    return None


def explain_told(told: str, home: Path) -> str:
    """Return what a step met, in one line with its remedy, where only the class and the words of its error are left.

    Args:
        told: Such as `sqlite3.OperationalError: disk I/O error`. What is no fault of the surroundings is left as it is.
        home: The workspace, which a database's words do not name.
    """
    kind, _, words = told.strip().partition(": ")
    if kind.startswith(("sqlite3.", "sqlalchemy.")):
        told_of = _explain_database(Exception(words), home)
        return told_of if told_of.startswith(str(home)) else f"{home}: {told_of}"
    if kind.endswith("MemoryError") or (kind == RuntimeError.__name__ and tells_no_memory(words)):
        return _REMEDIES[errno.ENOMEM]
    number, named = _NUMBER.match(words), _NAMED.findall(words)
    if number is None or not _is_system_error(kind):
        return told.strip()
    error = OSError(int(number[1]), os.strerror(int(number[1])), named[-1] if named else str(home))
    return _explain_system(error) or told.strip()


def _is_system_error(kind: str) -> bool:
    found = getattr(builtins, kind, None)
    return isinstance(found, type) and issubclass(found, OSError)


def _explain_system(error: OSError) -> str | None:
    if "AF_UNIX path too long" in str(error):
        return f"{tempfile.gettempdir()}: is too long a path for a socket; set TMPDIR to a shorter one, such as /tmp"
    named = error.filename if error.filename is not None else ""
    place = f"{os.fsdecode(named) if isinstance(named, bytes) else named}: " if named else ""
    if error.errno in _REMEDIES:
        return f"{place}{_REMEDIES[error.errno]}"
    return f"{place}{error.strerror or _first_line(error)}; check the disk or the connection, and run this again"


def _explain_database(error: BaseException, home: Path | None = None) -> str:
    words = _first_line(getattr(error, "orig", None) or error)
    if "locked" in words or "busy" in words:
        return f"a database is in use by another process ({words}); wait for it, or end it, and run this again"
    if "readonly" in words or "unable to open" in words:
        return _explain_unopened(words, home or home_of(os.environ))
    if "full" in words:
        return f"{words}: {_REMEDIES[errno.ENOSPC]}"
    if "disk i/o" in words.lower():
        return f"a database of the workspace cannot be read or written ({words}); check the disk, and run this again"
    if damaged := _damaged_databases():
        return (
            f"{', '.join(damaged)}: is damaged ({words}); restore a backup. Only without one move the file away: all "
            "results stay, but Dagster's list of what ran starts anew"
        )
    return f"a database of the workspace cannot be used ({words}); restore it from a backup, or use another workspace"


def _explain_unopened(words: str, home: Path) -> str:
    read_only = home.exists() and os.statvfs(home).f_flag & os.ST_RDONLY
    remedy = _REMEDIES[errno.EROFS] if read_only else "check the rights and the space of SCARFORGE_HOME"
    return f"{home}: a database cannot be opened or written ({words}); {remedy}"


def _damaged_databases() -> list[str]:
    """Return the files of Dagster's that SQLite finds damaged: its errors do not name the file."""
    home = os.environ.get("DAGSTER_HOME")
    return [str(path) for path in sorted(Path(home).rglob("*.db")) if not _is_sound(path)] if home else []


def _is_sound(path: Path) -> bool:
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            return bool(database.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
    except sqlite3.OperationalError:  # in use, or not to be opened
        return True
    except sqlite3.DatabaseError:
        return False


def _tell(error: Exception) -> int:
    line = explain(error)
    if line is not None:
        print(f"scarforge: {line}", file=sys.stderr, flush=True)
        return WRONG_INPUT
    traceback.print_exception(error)
    print(
        f"scarforge: this is a fault of ScarForge or of a library ({type(error).__name__}: {_first_line(error)}); "
        "please report it with the lines above",
        file=sys.stderr,
        flush=True,
    )
    return OWN_FAULT


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:_MOST_LETTERS]


class _SignalWatch:
    """Remembers which signal came first, whoever handles it, and ends a process that does not heed it.

    The number of each signal is written to a pipe by Python itself, before any handler runs: Dagster puts its own
    handlers in the place of ours while it executes a run.
    """

    def __init__(self) -> None:
        self._number, self._told = int(signal.SIGINT), threading.Event()
        if threading.current_thread() is not threading.main_thread():
            return  # handlers and the pipe belong to the main thread
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in _INTERRUPTS:  # a shell has commands in the background ignore SIGINT
            signal.signal(number, _interrupt)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # `nohup` has it ignored
            terminals = [stream for stream in (1, 2) if os.isatty(stream)]
            signal.signal(signal.SIGHUP, lambda *_: _hang_up(terminals))
        threading.Thread(target=self._watch, args=(reading,), name="signal watch", daemon=True).start()

    def status(self) -> int:
        """Return the exit status of the signal that has come; Ctrl-C's where none was seen."""
        self._told.wait(1.0)
        return 128 + self._number

    def _watch(self, pipe: int) -> None:
        ends = {int(number) for number in (*_INTERRUPTS, signal.SIGHUP)}
        while number := os.read(pipe, 1):
            if number[0] in ends:
                self._number = number[0]
                self._told.set()
                time.sleep(_ENDS_WITHIN_S)  # a daemon thread: it ends with the process
                os._exit(self.status())


def _hang_up(terminals: list[int]) -> None:
    """End the command as SIGTERM does, which Dagster handles, too, and write no more to a terminal that is gone."""
    signal.signal(signal.SIGHUP, lambda *_: None)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in terminals:
        os.dup2(nowhere, stream)
    os.kill(os.getpid(), signal.SIGTERM)


def _interrupt(*_: object) -> None:
    for number in _INTERRUPTS:  # once is enough: a second one would break off the tidying up
        signal.signal(number, _interrupt_if_lost)
    raise InterruptedCommand


def _interrupt_if_lost(*_: object) -> None:
    if was_lost():
        raise InterruptedCommand
