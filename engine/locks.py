"""A lock file that says whom it waits for. The kernel frees it when its holder dies, however that happens."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from common.config import YES
from common.progress import warn

LOCKS = "locks"  # the folder of a workspace


def accelerator_lock(locks: Path) -> str:
    """Return the lock file that keeps two processes from sharing a workspace's accelerator, empty where they may.

    `SCARFORGE_SHARE_ACCELERATOR=true` allows it; the pool `gpu` of Dagster then needs more than one slot too.
    """
    if os.environ.get("SCARFORGE_SHARE_ACCELERATOR", "").lower() in YES:
        return ""
    locks.mkdir(parents=True, exist_ok=True)
    return str(locks / "accelerator_0.lock")


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
        tell_of_wait(holder, [path])
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def tell_of_wait(holder: str, paths: Iterable[Path]) -> None:
    """Say who is waited for, and which lock files they hold."""
    warn(f"    waits for {holder}, which holds {' and '.join(map(str, paths))}")


def is_held(path: Path) -> bool:
    """Tell whether a process holds the lock of `path`."""
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False
