"""No step outlives its run: a process that `multiprocessing` spawned learns that its spawner is gone, and ends."""

import multiprocessing
import os
import signal
import time
from functools import cache
from multiprocessing.connection import wait
from threading import Thread

_GRACE_S = 10.0


@cache
def end_with_spawner() -> None:
    """Interrupt this process when the one that spawned it is gone, and end it if it stays.

    Dagster's run worker spawns its steps so, and a step would outlive a worker that was killed. The kernel's own
    signal (`training.die_with_parent`) would tell of the end of the thread that spawned, not of the process.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        Thread(target=_end_after, args=(parent.sentinel,), name="end_with_spawner", daemon=True).start()


def _end_after(sentinel: int) -> None:
    wait([sentinel])
    os.kill(os.getpid(), signal.SIGTERM)  # Dagster's handler stops a training in order
    time.sleep(_GRACE_S)
    os._exit(1)
