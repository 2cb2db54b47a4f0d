"""Blocks of work made by one process or several, handed over in order, with the same result; and no process left over.

Each block goes through a pipe, which holds a worker back until the parent has read: memory does not grow with
the number of blocks. A worker whose parent has died finds its pipe closed and ends.

No orphan keeps training: a process ends when the one that started it is gone, however that one ended. So do the steps
of a run that was killed, the training of a step, and the ranks of a torchrun. How many processes are started depends on
the cores that this machine lets us use.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any, Protocol, TypeVar

from common.errors import InputError

_ENDING = [getattr(signal, name) for name in ("SIGHUP", "SIGINT", "SIGTERM") if hasattr(signal, name)]

Block = TypeVar("Block")
Block_co = TypeVar("Block_co", covariant=True)


class BlockTask(Protocol[Block_co]):
    """Work that is cut into blocks; it must pickle, since workers are spawned."""

    @property
    def blocks(self) -> int:
        """How many blocks there are."""

    def maker(self) -> Callable[[int], Block_co]:
        """Return what makes the block of a number; called once in each process."""


def make_blocks(task: BlockTask[Block], processes: int, what: str) -> Generator[Block, None, None]:
    """Yield the task's blocks in order, made by `processes` processes.

    Args:
        task: What is made.
        processes: 1 works in this process.
        what: Names a worker in messages, such as `an augmentation process`.

    Raises:
        InputError: A worker failed, or ended without a word.
    """
    processes = min(processes, task.blocks)
    if processes > 1:
        yield from _blocks_from_workers(task, processes, what)
        return
    make = task.maker()
    for block in range(task.blocks):
        yield make(block)


def _blocks_from_workers(task: BlockTask[Block], processes: int, what: str) -> Generator[Block, None, None]:
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        pipes = []
        for number in range(processes):
            ours, theirs = context.Pipe(duplex=False)
            worker = context.Process(target=_work, args=(theirs, task, number, processes), daemon=True)
            with interrupts_held():
                worker.start()
            theirs.close()  # so that the end of the worker is the end of the pipe
            stack.callback(worker.join)
            stack.callback(worker.terminate)  # runs before the join: a worker in the midst of a block writes nothing
            stack.callback(ours.close)
            pipes.append(ours)
        for block in range(task.blocks):
            yield _receive(pipes[block % processes], what)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back for a moment: what is started meanwhile never hears of it, from its first instruction on.

    A terminal sends it to all processes of a command. It reaches this one when the moment is over.
    """
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # lets go of what is held, where it has to start first
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def signals_wait() -> Iterator[None]:
    """Let the signals that Python hears come when the block is over, and then as always.

    Python handles a signal within whatever of it runs just then. Where a library has called us back, as HDF5 and
    PyTorch do to write through our file, an exception that this raises is lost, told as another, or ends the process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers run in the main thread alone
        return
    came: list[int] = []
    handlers = {number: handler for number in _ENDING if callable(handler := signal.getsignal(number))}
    for number in handlers:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in came[:1]:
            signal.raise_signal(number)


def _receive(pipe: "Connection[Any, Any]", what: str) -> Any:
    try:
        failed, message = pipe.recv()
    except (EOFError, OSError) as error:  # between two messages, or within one
        raise InputError(
            f"{what} ended without a word, as when memory runs out; use fewer processes (--set processes=1)"
        ) from error
    if failed:
        raise InputError(f"{what} failed: {message}")
    return message


def _work(pipe: "Connection[Any, Any]", task: BlockTask[Any], number: int, processes: int) -> None:
    """Send every `processes`-th block, from `number` on; runs in a process of its own."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # elsewhere than where it is held; the parent closes the pipe
    # albumentations imports torch only for a converter not used here: 1.5 s and 500 MB for each worker.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type] # None makes the import fail at once
    try:
        make = task.maker()
        for block in range(number, task.blocks, processes):
            pipe.send((False, make(block)))
    except BrokenPipeError:
        pass  # the parent has stopped or is gone
    except InputError as error:
        pipe.send((True, str(error)))
    except (ArithmeticError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        pipe.send((True, f"{type(error).__name__}: {error}"))


def usable_cores() -> int:
    """Return the cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def worker_processes(configured: int) -> int:
    """Return the configured number of worker processes, or one a usable core where it is 0."""
    return configured or usable_cores()


_INTERRUPTIONS = ("InterruptedCommand", "KeyboardInterrupt", "DagsterExecutionInterruptedError")
_AGAIN_S = 0.05
_lost = threading.Event()


def send_again_where_lost(number: signal.Signals) -> None:
    """Send this process a signal where Python drops an interruption: in a callback as an object is freed.

    Its handler asks `was_lost`, to tell such a signal from one that a person sends a second time.
    """

    def heed(ignored: "sys.UnraisableHookArgs") -> None:
        if type(ignored.exc_value).__name__ not in _INTERRUPTIONS:
            sys.__unraisablehook__(ignored)
            return
        _lost.set()
        again = threading.Timer(_AGAIN_S, os.kill, (os.getpid(), number))
        again.daemon = True
        with suppress(RuntimeError):  # Python ends as it is
            again.start()

    sys.unraisablehook = heed


def was_lost() -> bool:
    """Tell, once, whether Python has dropped an interruption."""
    lost = _lost.is_set()
    _lost.clear()
    return lost


_EVERY_S = 0.2
_GRACE_S = 10.0


@cache
def end_with_starter(starter: int | None = None) -> None:
    """Have this process terminated when the one that started it is gone, and ended if it stays.

    Args:
        starter: Process id of the one that started it, where it is known: it may be gone before this is called.
    """
    spawner = multiprocessing.parent_process()  # of a fork server's children it is not the parent that the system knows
    gone = spawner.join if spawner else partial(_wait_until_adopted, starter or os.getppid())
    threading.Thread(target=_end_after, args=(gone,), name="end_with_starter", daemon=True).start()


def _wait_until_adopted(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_EVERY_S)


def _end_after(gone: Callable[[], None]) -> None:
    gone()
    os.kill(os.getpid(), signal.SIGTERM)  # Dagster's handler stops a step in order
    time.sleep(_GRACE_S)
    os._exit(1)
