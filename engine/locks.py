"""A lock file that says whom it waits for. The kernel frees it when its holder dies, however that happens."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def held(path: Path, holder: str) -> Iterator[None]:
    """Hold the lock of `path`, waiting as long as another process does.

    Args:
        path: The lock file.
        holder: Who may hold it, for the line that tells of the wait, such as `another training`.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"    waits for {holder}, which holds {path}", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
