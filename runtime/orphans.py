"""No orphan keeps training: a process ends when the one that started it is gone, however that one ended.

So do the steps of a run that was killed, the training of a step, and the ranks of a torchrun.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from functools import cache, partial
from threading import Thread

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
    Thread(target=_end_after, args=(gone,), name="end_with_starter", daemon=True).start()


def _wait_until_adopted(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_EVERY_S)


def _end_after(gone: Callable[[], None]) -> None:
    gone()
    os.kill(os.getpid(), signal.SIGTERM)  # Dagster's handler stops a step in order
    time.sleep(_GRACE_S)
    os._exit(1)
