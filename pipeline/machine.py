"""What this machine has."""

import os


def usable_cores() -> int:
    """Return the cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def worker_processes(configured: int) -> int:
    """Return the configured number of worker processes, or one a usable core where it is 0."""
    return configured or usable_cores()
