"""Faults that pass by themselves, and the wait for that: a share that answers late, a database that is locked."""

import errno
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

RETRIES = 3
FIRST_WAIT_S = 10.0
_PASSING = frozenset(
    getattr(errno, name)
    for name in (
        *("EIO", "EAGAIN", "EBUSY", "EINTR", "ENOLCK", "ESTALE", "EREMOTEIO"),  # a file system or a device
        *("ETIMEDOUT", "ECONNRESET", "ECONNREFUSED", "ECONNABORTED"),  # another machine
        *("ENETDOWN", "ENETUNREACH", "ENETRESET", "EHOSTDOWN", "EHOSTUNREACH"),
    )
    if hasattr(errno, name)  # not every system knows each
)


class PassingFaultError(Exception):
    """What another process has met and found to be a fault that passes."""


def is_transient(error: BaseException | None) -> bool:
    """Tell whether an error, or what it was raised from, passes by itself; wrong input and full disks do not."""
    while error is not None:
        if isinstance(error, PassingFaultError | TimeoutError | ConnectionError):
            return True
        if isinstance(error, sqlite3.OperationalError) and ("locked" in str(error) or "busy" in str(error)):
            return True
        if isinstance(error, OSError) and _number(error) in _PASSING:
            return True
        error = error.__cause__
    return False


@contextmanager
def retried(attempt: int) -> Iterator[None]:
    """Turn a fault that passes into the wish to try the step again: after 10, 20 and 40 s, then no more.

    Args:
        attempt: How often the step was tried again already (`context.retry_number`).

    Raises:
        RetryRequested: For Dagster. Every other error is left as it is.
    """
    try:
        yield
    except Exception as error:
        if attempt >= RETRIES or not is_transient(error):
            raise
        from dagster import RetryRequested  # a training process asks `is_transient` only

        raise RetryRequested(RETRIES, FIRST_WAIT_S * 2**attempt) from error


def _number(error: OSError) -> int | None:
    if error.errno is not None:
        return error.errno
    found = re.search(r"errno = (\d+)", str(error))  # HDF5 tells the number in its text only
    return int(found[1]) if found else None
