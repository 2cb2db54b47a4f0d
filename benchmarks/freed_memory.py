"""Training steps of the quick profile with and without `keep_freed_memory`: milliseconds and page faults of each.

By default glibc returns large freed blocks to the system, and the next step's pages are mapped and zeroed anew. Both
ways run in turns in processes of their own; the best turn counts.

    python -m benchmarks.freed_memory [--steps 20] [--turns 3]
"""

import argparse
import resource

import pandas as pd

from benchmarks.measuring import in_own_process
from benchmarks.thread_waiting import step_ms
from runtime.compute import keep_freed_memory
from segmentation.networks.table import NETWORKS


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    rows = []
    for network in NETWORKS:
        turns = [
            {keeps: in_own_process(measure, network, keeps, options.steps) for keeps in (False, True)}
            for _ in range(options.turns)
        ]
        returned, kept = (min(turn[keeps] for turn in turns) for keeps in (False, True))
        milliseconds = {"returned, ms": returned[0], "kept, ms": kept[0], "ratio": returned[0] / kept[0]}
        faults = {"returned, faults": returned[1], "kept, faults": kept[1]}
        rows.append({"network": network, **milliseconds, **faults})
    print(pd.DataFrame(rows).round(2).to_string(index=False))


def measure(network: str, keeps: bool, steps: int) -> tuple[float, float]:
    """Return the milliseconds and page faults of a training step, freed memory kept or returned."""
    if keeps:
        keep_freed_memory()
    step_ms(network, 2)  # warms up
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    milliseconds = step_ms(network, steps)
    return milliseconds, (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / steps


if __name__ == "__main__":
    main()
