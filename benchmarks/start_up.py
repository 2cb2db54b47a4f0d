"""Processor seconds, seconds and peak memory of commands of `scarforge`, each in a process of its own.

    python -m benchmarks.start_up "--version" "models list" "predict STUDY -o OUT"

Processor seconds are what the command computes on all cores together, imports included; other work on the machine
changes the seconds, and these hardly.
"""

import os
import shlex
import sys
import time
from typing import NamedTuple

PROGRAM = (sys.executable, "-P", "-m", "pipeline.cli")


class Cost(NamedTuple):
    """What one command took, and its exit status."""

    processor_s: float
    seconds: float
    peak_mb: float
    status: int


def cost_of(arguments: list[str]) -> Cost:
    """Run a command to its end."""
    start = time.monotonic()
    child = os.posix_spawn(PROGRAM[0], [*PROGRAM, *arguments], os.environ)
    _, status, used = os.wait4(child, 0)
    return Cost(
        used.ru_utime + used.ru_stime,
        time.monotonic() - start,
        used.ru_maxrss / 1024,
        os.waitstatus_to_exitcode(status),
    )


def main() -> None:
    """Print a table of the commands that were given."""
    print("| command | processor s | s | peak MB |\n|---|---|---|---|")
    for text in sys.argv[1:] or ["--version", "models list"]:
        cost = cost_of(shlex.split(text))
        told = text if cost.status in (0, 3) else f"{text} (exit status {cost.status})"
        print(f"| {told} | {cost.processor_s:.1f} | {cost.seconds:.1f} | {cost.peak_mb:.0f} |", flush=True)


if __name__ == "__main__":
    main()
