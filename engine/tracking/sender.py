"""The thread that sends a run's spool while the training goes on.

Sends what earlier runs left in the spool.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from engine.tracking.delivery import Delivery, StoreUnavailableError
from engine.tracking.spool import RunSpool, run_spools
from engine.tracking.store import connect, shown

if TYPE_CHECKING:
    from mlflow import MlflowClient


_logger = logging.getLogger("scarforge.tracking")


def replay(spool: Path, uri: str, stop: Callable[[], bool] = lambda: False) -> int:
    """Send what earlier runs could not, each once, with its own timestamps and steps.

    Runs whose process was killed end as `KILLED`. Several processes may do this at the same time.

    Args:
        spool: The spool folder.
        uri: Tracking URI to send to.
        stop: Asked before each event; what is left stays in the spool.

    Returns:
        How many events were sent. It stops, with a warning, at the first sign that the store is away.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    runs = list(run_spools(spool))
    sent = 0
    try:
        client = connect(uri) if runs else None
        for run in runs:
            if client is None or stop():
                break
            run.close_if_abandoned()
            sent += Delivery(run, client).drain(stop)
    except (StoreUnavailableError, MlflowException, SQLAlchemyError, OSError) as error:
        _logger.warning(
            "MLflow at %s is not available (%s); the rest stays in %s", shown(uri), shown(str(error)), spool
        )
    return sent


_FIRST_PAUSE_S = 0.5  # a locked database is free again soon
_LONGEST_PAUSE_S = 30.0
_OTHERS_PAUSE_S = 0.2  # another process sends this run's events just now
_LAST_ATTEMPTS = 3
_PATIENCE_S = 5.0  # how long the end of a run waits without any progress
_BYTES_A_SECOND = 2e6  # a file may take this much longer, such as a large model on its way to a server
_LONGEST_WAIT_S = 300.0


class Sender:
    """Sends one run's events in the background, then those of older runs; never in the caller's way."""

    def __init__(self, run: RunSpool, uri: str, spool: Path) -> None:
        self.run_id: str | None = None
        self.experiment_id = ""
        self._run, self._uri, self._spool = run, uri, spool
        self._delivery: Delivery | None = None
        self._news, self._closing = threading.Event(), threading.Event()
        self._changed = threading.Condition()
        self._settled = self._down = False
        self._moved = time.monotonic()
        self._news.set()
        self._thread = threading.Thread(target=self._work, name="mlflow-sender", daemon=True)
        self._thread.start()

    def notify(self) -> None:
        """Say that there is something to send."""
        with self._changed:
            self._settled = False
            self._news.set()

    def wait_for_run(self) -> None:
        """Wait until the run exists in the store, the store turns out to be away, or time is up."""
        with self._changed:
            self._changed.wait_for(lambda: self.run_id is not None or self._down, timeout=_PATIENCE_S)

    def close(self) -> bool:
        """Wait for what is still on its way as long as it moves; give whether all of it was sent."""
        give_up = time.monotonic() + _LONGEST_WAIT_S
        self._moved = time.monotonic()
        self._closing.set()
        self._news.set()
        with self._changed:
            while not self._settled and self._thread.is_alive():
                if time.monotonic() > min(give_up, self._moved + self._patience_s()):
                    break
                self._changed.wait(timeout=0.1)
            return self._settled

    def _patience_s(self) -> float:
        moving = self._delivery.bytes_moving if self._delivery else 0
        return _PATIENCE_S + moving / _BYTES_A_SECOND

    def _work(self) -> None:
        pause, attempts, older = _FIRST_PAUSE_S, 0, True
        while attempts < _LAST_ATTEMPTS:
            self._news.clear()
            try:
                self._deliver()
            except StoreUnavailableError as error:
                self._note_absence(error)
                attempts += self._closing.is_set()
                if not self._closing.wait(pause):
                    pause = min(2 * pause, _LONGEST_PAUSE_S)
                else:
                    time.sleep(_OTHERS_PAUSE_S)
                continue
            pause = _FIRST_PAUSE_S
            if self._run.pending():
                time.sleep(_OTHERS_PAUSE_S)
                continue
            if self._settle() and self._closing.is_set():
                return
            if older:
                replay(self._spool, self._uri, stop=self._news.is_set)
                older = self._news.is_set()
            self._news.wait()

    def _deliver(self) -> None:
        self._delivery = self._delivery or Delivery(self._run, self._connect())
        self._delivery.drain(on_progress=self._note_progress)
        self._note_progress()

    def _connect(self) -> MlflowClient:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            return connect(self._uri)
        except (MlflowException, SQLAlchemyError, OSError) as error:
            raise StoreUnavailableError(str(error).splitlines()[0]) from error

    def _note_progress(self) -> None:
        assert self._delivery is not None
        with self._changed:
            if self._down:
                _logger.warning("MLflow at %s is back; what was kept has been sent", shown(self._uri))
            self._down, self._moved = False, time.monotonic()
            self.run_id, self.experiment_id = self._delivery.run_id, self._delivery.experiment_id
            self._changed.notify_all()

    def _note_absence(self, error: StoreUnavailableError) -> None:
        with self._changed:
            if not self._down:
                _logger.warning(
                    "MLflow at %s is not available (%s); keeping this run in %s",
                    shown(self._uri),
                    shown(str(error)),
                    self._spool,
                )
            self._down = True
            self._changed.notify_all()

    def _settle(self) -> bool:
        with self._changed:
            self._settled = not self._news.is_set() or not self._run.pending()
            self._changed.notify_all()
            return self._settled
