"""No orphan keeps training: a child process asks the kernel to be told when its parent is gone.

No step outlives its run: a process that `multiprocessing` spawned learns that its spawner is gone, and ends.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from functools import cache
from multiprocessing.connection import wait
from threading import Thread

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


def die_with_parent(parent: int | None = None, signal_number: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel send `signal_number` to this process when its parent dies (Linux; elsewhere does nothing).

    Args:
        parent: Process id of the parent, where it is known: it may have died before this is called.
        signal_number: What ends this process.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = parent or os.getppid()
    ctypes.CDLL("libc.so.6", use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal_number))
    if os.getppid() != parent:  # it died before the line above
        os.kill(os.getpid(), signal_number)


def name_process(name: str) -> None:
    """Have `top` and `ps` call this process by a name of at most 15 letters (Linux; elsewhere does nothing)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL("libc.so.6", use_errno=True).prctl(_PR_SET_NAME, name.encode())


_GRACE_S = 10.0


@cache
def end_with_spawner() -> None:
    """Interrupt this process when the one that spawned it is gone, and end it if it stays.

    Dagster's run worker spawns its steps so, and a step would outlive a worker that was killed. The kernel's own
    signal (`runtime.orphans`) would tell of the end of the thread that spawned, not of the process.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        Thread(target=_end_after, args=(parent.sentinel,), name="end_with_spawner", daemon=True).start()


def _end_after(sentinel: int) -> None:
    wait([sentinel])
    os.kill(os.getpid(), signal.SIGTERM)  # Dagster's handler stops a training in order
    time.sleep(_GRACE_S)
    os._exit(1)
