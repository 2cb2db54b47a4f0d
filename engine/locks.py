"""A lock file that says whom it waits for. The kernel frees it when its holder dies, however that happens."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from common.progress import warn


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
