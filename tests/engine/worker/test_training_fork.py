"""The process that trains is a fork of a server that has the libraries, and behaves like a child of its step."""

import subprocess
import sys

import pytest

from engine.worker import fork as training_fork
from engine.worker.fork import start_training

WHAT_PRELOADING_DOES = """
import threading
import torch

touched = []
for name in ("is_available", "device_count", "init", "_lazy_init"):
    setattr(torch.cuda, name, lambda *_, name=name: touched.append(name))
import engine.worker.preloaded

assert touched == [], touched
assert threading.enumerate() == [threading.main_thread()], threading.enumerate()
"""


@pytest.mark.slow
def test_preloading_starts_no_thread_of_pythons_and_touches_no_gpu():
    done = subprocess.run([sys.executable, "-c", WHAT_PRELOADING_DOES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_process_speaks_where_its_step_does_and_has_its_variables(capfd, monkeypatch):
    training_fork.start_server()
    monkeypatch.setenv("DAGSTER_PIPES_CONTEXT", "not what Pipes writes")  # later than the server was started
    process = start_training({})
    process.join()
    assert process.exitcode == 1
    assert "dagster_pipes" in capfd.readouterr().err  # the traceback
