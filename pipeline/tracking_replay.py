"""Sends what earlier runs left in the spool."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from pipeline.tracking_delivery import Delivery, StoreUnavailableError
from pipeline.tracking_spool import run_spools
from pipeline.tracking_store import connect, shown

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
