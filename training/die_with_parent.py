"""No orphan keeps training: a child process asks the kernel to be told when its parent is gone."""

import ctypes
import os
import signal
import sys

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
