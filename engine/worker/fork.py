"""A training's own process: forked from a server that has imported torch and MLflow, which takes 6 to 7 s.

A step that was itself forked (`engine.cluster.executor`) has its training forked from the same server.

One fork server for the steps of a run and for their trainings.

Python tells a fork of its server everything but the server's address: a step would start a server of its own for its
training, which imports torch and MLflow anew (7 s). So the server keeps its address in mind, and forks find it there.
"""

import atexit
import contextlib
import multiprocessing
import os
import re
import signal
import socket
import sys
from collections.abc import Mapping
from multiprocessing import forkserver, reduction
from multiprocessing.process import BaseProcess
from typing import Any

from common.workers import interrupts_held
from runtime.orphans import die_with_parent, end_with_spawner, name_process

_KNOWN = sys.version_info < (3, 14)  # from then on the server also wants a key that forks are not told
_COMMAND = re.compile(r"from multiprocessing\.forkserver import main; main\((\d+), ")

_address: str | bytes = ""


def remember_address() -> None:
    """Keep the address of the fork server in mind, where this process is one that imports what it is to preload."""
    global _address
    command = _COMMAND.match(sys.orig_argv[-1]) if _KNOWN else None
    if command:
        with socket.socket(fileno=os.dup(int(command[1]))) as listener:
            _address = listener.getsockname()


def join_server() -> bool:
    """Have children of this process forked from the server it came from; say whether it came from one."""
    if not _address or multiprocessing.parent_process() is None:
        return False
    server: Any = vars(forkserver)["_forkserver"]
    server._forkserver_address = _address
    server.ensure_running = lambda: None  # it is: it waits for this process
    return True


def end_server() -> None:
    """End the server that this process started: it would else first import all, which takes seconds, to no end."""
    started = vars(forkserver)["_forkserver"]._forkserver_pid
    if started is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(started, signal.SIGTERM)


PROCESS_NAME = "scarforge-train"  # as `top` shows it; Linux keeps 15 letters


def start_server() -> None:
    """Have a server import the libraries in the background, for the trainings to come. Does not wait."""
    if not join_server() and _context().get_start_method() == "forkserver":
        _context().set_forkserver_preload(["engine.worker.preloaded"])
        with interrupts_held():  # while it imports, too
            forkserver.ensure_running()
        atexit.register(end_server)


def start_training(pipes: Mapping[str, str]) -> BaseProcess:
    """Start the process that does what Pipes says; it writes where this one writes and ends when this one ends.

    Args:
        pipes: The variables that lead to Dagster Pipes (`PipesSession.get_bootstrap_env_vars`).
    """
    start_server()
    environment = {**os.environ, **pipes}
    process = _context().Process(target=_train, args=(_Stream(1), _Stream(2), environment), name=PROCESS_NAME)
    with interrupts_held():
        process.start()
    return process


def _context() -> Any:
    """Return how processes are started: a fork is safe where no framework starts threads when it is imported."""
    return multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")


class _Stream:
    """An open file that a process takes along: a fork of the server would else write where the server does."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (reduction.DupFd(self.number),)


def _received(duplicate: Any) -> _Stream:
    return _Stream(duplicate.detach())


def _train(output: _Stream, errors: _Stream, environment: Mapping[str, str]) -> None:
    """Train, in the new process."""
    import engine.worker.preloaded  # noqa: F401 # a fork has it; a process that was spawned sets its threads here
    from engine.worker.process import main

    for received, number in ((output, 1), (errors, 2)):
        os.dup2(received.number, number)
        os.close(received.number)
    os.environ.clear()
    os.environ.update(environment)
    name_process(PROCESS_NAME)
    die_with_parent()  # the server
    end_with_spawner()  # the step
    try:
        _heed_one_interrupt()
        main()
    except KeyboardInterrupt:  # the step tells of it
        raise SystemExit(128 + signal.SIGINT) from None


def _heed_one_interrupt() -> None:
    """Have the first SIGINT end the training in order: a cancellation's, which may follow the terminal's own."""

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # the server holds it
