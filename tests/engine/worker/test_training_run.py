"""The words that a failed training leaves for people, and the lock that keeps two trainings apart."""

import contextlib
import errno
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import numpy as np
import pytest
import torch
from filelock import FileLock, Timeout
from PIL import Image

from assets.parts import training_run
from assets.parts.training_run import TrainingProcessError, run_pipes
from common.errors import InputError
from engine.forge import Forge
from engine.transient import PassingFaultError
from engine.worker import accelerator as accelerator_module
from engine.worker import process
from engine.worker.accelerator import accelerator, borrowed, device_of_command
from engine.worker.process import Trained, _verdict, run_task
from engine.worker.task import PASSING_FAULT, WRONG_INPUT, TrainingTask
from runtime.model_card import read_model_json
from runtime.report import TrainingDivergedError


def training_that(monkeypatch, tmp_path, code, words=None):
    """Run a task whose process ends with `code` after leaving `words`."""

    def start(command, **_):
        assert command[1:] == ["-P", "-m", "engine.worker", str(os.getpid())]
        if words is not None:
            (tmp_path / "error.txt").write_text(words)
        ends = f"import os; os.kill(os.getpid(), {-code}) if {code} < 0 else os._exit({code})"
        return popen([sys.executable, "-c", ends])

    popen = subprocess.Popen
    run_pipes_of(monkeypatch, tmp_path, start)


def run_pipes_of(monkeypatch, tmp_path, start):
    """Run a task whose process is what `start` starts, without a step of Dagster's around it."""
    session = contextlib.nullcontext(SimpleNamespace(get_bootstrap_env_vars=dict))
    monkeypatch.setattr("dagster._core.pipes.subprocess.open_pipes_session", lambda **_: session)
    monkeypatch.setattr("dagster._core.pipes.subprocess.Popen", start)
    name = {"name": "halsr_net real_only fold 0 seed 0"}
    context = SimpleNamespace(log=logging.getLogger(__name__))
    run_pipes(context, SimpleNamespace(folder=str(tmp_path), tracking=name, to_extras=dict))


@pytest.mark.parametrize(
    ("code", "words", "kind", "message"),
    [
        (WRONG_INPUT, "batch 7 is odd", InputError, "^batch 7 is odd$"),
        (PASSING_FAULT, "the share is away", PassingFaultError, "^the share is away$"),
        (1, "KeyError: 'x'", TrainingProcessError, "fold 0 seed 0: KeyError: 'x'; rematerialising starts anew"),
        (1, None, TrainingProcessError, "ended with status 1; the step's log holds its last words"),
        (-9, None, TrainingProcessError, r"killed by SIGKILL, as Linux does when memory runs out \(dmesg tells\)"),
        (-11, None, TrainingProcessError, "killed by SIGSEGV; rematerialising"),
    ],
)
def test_the_end_of_a_training_process_is_told_in_words(monkeypatch, tmp_path, code, words, kind, message):
    with pytest.raises(kind, match=message):
        training_that(monkeypatch, tmp_path, code, words)


def test_it_is_said_whether_a_checkpoint_is_there(monkeypatch, tmp_path):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "last.pt").touch()
    with pytest.raises(TrainingProcessError, match="rematerialising continues from the last checkpoint"):
        training_that(monkeypatch, tmp_path, -9)


def test_words_of_an_earlier_attempt_are_not_repeated(monkeypatch, tmp_path):
    (tmp_path / "error.txt").write_text("old words")
    with pytest.raises(TrainingProcessError, match="killed by SIGKILL"):
        training_that(monkeypatch, tmp_path, -9)


DEAF = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
time.sleep(600)
"""


class Interrupted(subprocess.Popen):
    """A process during the wait for which the step is interrupted."""

    interrupted = False

    def wait(self, timeout=None):
        if not self.interrupted:
            self.interrupted = True
            raise dg.DagsterExecutionInterruptedError
        return super().wait(timeout)


def test_a_step_whose_training_does_not_heed_an_interruption_counts_as_cancelled(monkeypatch, tmp_path):
    """The training ends when the step's process does: see `test_own_process`."""
    assert training_run._STOPS_WITHIN_S < 10
    monkeypatch.setattr(training_run, "_STOPS_WITHIN_S", 0.5)
    processes = []

    def start(*_, **__):
        processes.append(Interrupted([sys.executable, "-c", DEAF]))
        return processes[0]

    try:
        with pytest.raises(dg.DagsterExecutionInterruptedError):
            run_pipes_of(monkeypatch, tmp_path, start)
    finally:
        processes[0].kill()
        processes[0].communicate()


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (InputError("batch 7 is odd"), WRONG_INPUT, "batch 7 is odd"),
        (TrainingDivergedError("the loss is nan"), WRONG_INPUT, "the loss is nan"),
        (OSError(errno.EIO, "Input/output error"), PASSING_FAULT, "Input/output error"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried"),
            1,
            "out of memory; set a smaller batch",
        ),
        (KeyError("x"), 1, "KeyError: 'x'"),
    ],
)
def test_the_training_process_tells_wrong_input_from_what_passes(error, code, words):
    status, said = _verdict(error)
    assert status == code
    assert words in said


def test_two_trainings_share_an_accelerator_only_where_that_is_allowed(tmp_path, monkeypatch):
    monkeypatch.delenv("SCARFORGE_SHARE_ACCELERATOR", raising=False)
    forge = Forge(home=str(tmp_path))
    lock = forge.accelerator_lock()
    with accelerator("cpu", lock), pytest.raises(Timeout):
        FileLock(lock, timeout=0).acquire()
    FileLock(lock, timeout=0).acquire()
    monkeypatch.setenv("SCARFORGE_SHARE_ACCELERATOR", "true")
    assert forge.accelerator_lock() == ""
    with accelerator("cpu", ""):
        pass


def test_the_lock_is_free_as_soon_as_its_holder_is_killed(tmp_path):
    code = f"""
from filelock import FileLock
import time
lock = FileLock({str(tmp_path / "lock")!r})
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        with pytest.raises(Timeout):
            FileLock(tmp_path / "lock", timeout=0).acquire()
        holder.kill()
        holder.wait()
        FileLock(tmp_path / "lock").acquire(timeout=5)


class Uploads:
    """A tracker that can only be told of a result while nobody holds the accelerator."""

    run_id = "abc"

    def __init__(self, lock):
        self.lock, self.told = lock, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.upload()

    def upload(self, *_, **__):
        FileLock(self.lock, timeout=0).acquire()
        self.told.append("something")

    final = artifact = model = upload


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_uploaded_keeps_no_other_training_from_the_accelerator(tmp_path, monkeypatch, fails):
    lock = tmp_path / "lock"
    uploads = Uploads(lock)

    def train(*_):
        with pytest.raises(Timeout):
            FileLock(lock, timeout=0).acquire()
        if fails:
            raise TrainingDivergedError("the loss is nan")
        (tmp_path / "history.csv").write_text("step,loss\n1,0.5\n2,0.25\n")
        return Trained({}, lambda: None, np.zeros(0), Image.new("RGB", (2, 2)))

    monkeypatch.setattr(process, "start_tracker", lambda _: uploads)
    monkeypatch.setattr(process, "STAGES", {"segmenter": train})
    task = TrainingTask("segmenter", str(tmp_path), {}, {}, 0, 0, "cpu", "fp32", {}, {"name": "x"}, str(lock))
    with pytest.raises(TrainingDivergedError) if fails else contextlib.nullcontext():
        run_task(task)
    assert len(uploads.told) == (1 if fails else 6)  # two pictures among them
    assert fails or read_model_json(tmp_path, "training_result.json")["run_id"] == "abc"


@pytest.fixture
def four_gpus(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid=f"GPU-{number}"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    return str(tmp_path / "accelerator_0.lock")


def test_as_many_trainings_run_as_there_are_gpus(four_gpus, monkeypatch, capsys):
    with contextlib.ExitStack() as trainings:
        others = contextlib.ExitStack()
        chosen = [others.enter_context(accelerator("auto", four_gpus))]
        chosen += [trainings.enter_context(accelerator("cuda", four_gpus)) for _ in range(3)]
        assert chosen == [0, 1, 2, 3]
        monkeypatch.setattr("time.sleep", lambda _: others.close())
        assert trainings.enter_context(accelerator("auto", four_gpus)) == 0  # the one that became free
    assert capsys.readouterr().err.count("waits for another training") == 1


def test_a_gpu_that_another_workspace_of_the_user_holds_is_passed_over(four_gpus, tmp_path):
    with accelerator("auto", str(tmp_path / "other" / "accelerator_0.lock")), accelerator("auto", four_gpus) as gpu:
        assert gpu == 1


def test_a_training_that_ray_placed_holds_its_folder_and_its_gpu(four_gpus, tmp_path):
    with accelerator("auto", str(tmp_path / "halsr_net_fold_0.lock")), pytest.raises(Timeout):
        FileLock(tmp_path / "halsr_net_fold_0.lock", timeout=0).acquire()


def test_a_command_holds_the_gpu_that_trainings_hold(four_gpus, tmp_path, monkeypatch):
    monkeypatch.setattr(accelerator_module, "choose_compute", lambda *_, gpu, **__: gpu)
    home = tmp_path / "home"
    with device_of_command(home) as gpu:  # a workspace that does not exist is not made
        assert gpu == 0
    assert not home.exists()
    home.mkdir()
    with accelerator("auto", str(home / "locks" / "accelerator_0.lock")), device_of_command(home) as gpu:
        assert gpu == 1
        assert (home / "locks" / "accelerator_GPU-1.lock").exists()


def test_only_one_place_chooses_a_command_s_device():
    """What a pack measures of itself it measures on the CPU, which needs no lock; a GPU is taken in one place."""
    commands = Path(__file__).parents[3] / "pipeline" / "commands"
    calls = re.compile(r"choose_compute\((?!\"cpu\")")
    choosing = [path.name for path in commands.rglob("*.py") if calls.search(path.read_text(encoding="utf-8"))]
    assert choosing == []


def test_steps_that_predict_hold_a_gpu_and_never_the_cpu(four_gpus, monkeypatch):
    monkeypatch.setattr(accelerator_module, "choose_compute", lambda *_, gpu, **__: gpu)
    with accelerator("auto", four_gpus), borrowed("auto", "auto", four_gpus) as gpu:
        assert gpu == 1
    with accelerator("cpu", four_gpus), borrowed("cpu", "auto", four_gpus) as compute:
        assert compute == 0
