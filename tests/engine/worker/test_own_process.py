"""The process that trains: it says what its step is told, heeds one interruption, and ends with its step."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

ENDS_WITHIN_S = 30.0  # half a second on an idle machine


def started(code, *arguments):
    """Start Python with a few lines of ours and return the process when it has printed a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    return process, process.stdout.readline().strip()


@contextlib.contextmanager
def ended_at_last(*processes):
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


# A child that hears no interruption, and never leaves its own code.
DEAF = """
import os, signal, sys
from common.processes import end_with_starter
end_with_starter(int(sys.argv[1]))
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("ready", flush=True)
while True:
    pass
"""
STARTER = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_deaf_child_ends_with_the_process_that_started_it_however_that_ended(number):
    starter, line = started(STARTER, DEAF)
    child = psutil.Process(int(line))
    with starter, ended_at_last(starter, child):
        starter.send_signal(number)
        assert not psutil.wait_procs([child], ENDS_WITHIN_S)[1]


def test_a_child_whose_starter_was_gone_first_ends_too():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    child, line = started(DEAF, str(gone.pid))
    with child, ended_at_last(child):
        assert line in ("ready", "")
        assert child.wait(ENDS_WITHIN_S) == -signal.SIGTERM


SPAWNED = """
import multiprocessing, os, sys, time
def work(there):
    from common.processes import end_with_starter
    end_with_starter()
    there.set()
    time.sleep(600)
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    there = context.Event()
    child = context.Process(target=work, args=(there,))
    child.start()
    there.wait()
    print(child.pid, flush=True)
    time.sleep(600)
"""


def test_a_step_that_multiprocessing_started_ends_with_its_run(tmp_path):
    (tmp_path / "run.py").write_text(SPAWNED)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    run = subprocess.Popen([sys.executable, tmp_path / "run.py"], stdout=subprocess.PIPE, env=environment)
    step = psutil.Process(int(run.stdout.readline()))
    with run, ended_at_last(run, step):
        run.kill()
        assert not psutil.wait_procs([step], ENDS_WITHIN_S)[1]


TRAINING = [sys.executable, "-P", "-m", "engine.worker", str(os.getpid())]


@pytest.mark.slow
def test_the_training_process_speaks_where_its_step_does(tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_PIPES_CONTEXT", "not what Pipes writes")
    done = subprocess.run(TRAINING, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "dagster_pipes" in done.stderr  # the traceback


def test_an_interruption_while_the_libraries_are_imported_is_quiet_whether_it_comes_once_or_twice(tmp_path):
    with subprocess.Popen(TRAINING, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        until = time.monotonic() + ENDS_WITHIN_S
        while not any("libtorch" in found.path for found in psutil.Process(process.pid).memory_maps()):
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=ENDS_WITHIN_S)
    assert (process.returncode, errors) == (128 + signal.SIGINT, "")


# A training whose tidying up takes for ever, and which hears no further interruption.
SLOW_TO_TIDY = """
import sys, time, types
from engine.worker import __main__ as own
def train():
    try:
        print("ready", flush=True)
        time.sleep(600)
    finally:
        time.sleep(600)
sys.modules["engine.worker.process"] = types.SimpleNamespace(main=train)
own._ENDS_WITHIN_S = 1
own.main()
"""


def test_an_interrupted_training_that_does_not_come_to_its_end_is_ended_by_the_system():
    child, line = started(SLOW_TO_TIDY, str(os.getpid()))
    with child, ended_at_last(child):
        assert line == "ready"
        child.send_signal(signal.SIGINT)
        assert child.wait(ENDS_WITHIN_S) == -signal.SIGALRM


# A training whose interruption Python drops, since a callback runs just then as an object is freed.
DROPPED = """
import os, signal, sys, time, types, weakref
from engine.worker import __main__ as own
class Held: pass
def train():
    held = Held()
    told = weakref.ref(held, lambda _: (os.kill(os.getpid(), signal.SIGINT), time.sleep(0.2)))
    del held
    time.sleep(600)
sys.modules["engine.worker.process"] = types.SimpleNamespace(main=train)
own.main()
"""


def test_an_interruption_that_python_drops_ends_the_training_all_the_same():
    line = [sys.executable, "-c", DROPPED, str(os.getpid())]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (128 + signal.SIGINT, "")


# A training that is over, whose process is interrupted while Python puts the libraries away.
INTERRUPTED_WHILE_IT_ENDS = """
import atexit, os, signal, sys, time, types
from engine.worker import __main__ as own
def interrupted():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)
sys.modules["engine.worker.process"] = types.SimpleNamespace(main=lambda: atexit.register(interrupted))
own.main()
"""


def test_an_interruption_after_the_end_of_a_training_is_quiet():
    line = [sys.executable, "-c", INTERRUPTED_WHILE_IT_ENDS, str(os.getpid())]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
