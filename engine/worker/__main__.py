"""The process that trains: `python -m engine.worker STEP`, STEP being the process id of the step that started it.

It hears of signals, and of its step's end, before it imports torch and MLflow, which takes seconds.
"""

import os
import signal
import sys
from types import FrameType

from common.processes import end_with_starter, send_again_where_lost, was_lost

_ENDS_WITHIN_S = 6  # of an interruption, by the system itself; the step waits for a second more


def main() -> None:
    """Train as Dagster Pipes says; an interruption, of which the step tells, ends it quietly."""
    try:
        signal.signal(signal.SIGINT, _interrupt_once)
        send_again_where_lost(signal.SIGINT)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a closed terminal's; the step interrupts this one in order
        end_with_starter(int(sys.argv[1]))
        # How long a thread spins before it sleeps. For ever (OpenMP's default) takes the cores from whatever else
        # runs; not at all makes a training alone a seventh slower (`docs/speed.md`). Read when torch is imported.
        os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"}
        from engine.worker.process import main as train

        try:
            train()
        finally:  # Python puts the libraries away, and would tell of an interruption meanwhile
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:
        os._exit(128 + signal.SIGINT)  # all is closed; Python would take seconds to put the libraries away


def _interrupt_once(number: int, _: FrameType | None) -> None:
    """End the training in order: by a cancellation's interrupt, or the terminal's own, which the other may follow."""
    signal.signal(number, _interrupt_if_lost)
    if sys.platform != "win32":
        signal.alarm(_ENDS_WITHIN_S)
    raise KeyboardInterrupt


def _interrupt_if_lost(*_: object) -> None:
    if was_lost():
        raise KeyboardInterrupt


if __name__ == "__main__":
    main()
