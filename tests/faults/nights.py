"""Many nights in one process: a study is added, changed or removed before each, and nothing but the results grows.

    python -m tests.faults.nights --nights 30

A night is a tick of the nightly schedule, whose request is carried out on the first stages of the miniature fold. Its
line gives memory, open files, the sizes of the databases, and how long it took to list the last runs as the interfaces
do; at the end a straight line through the later nights tells what each night adds.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import numpy as np
import psutil

from tests.faults import miniature
from tests.faults.sweep import up_to
from tests.imaging import fake_emidec

FIRST = datetime(2026, 1, 1, 2, tzinfo=UTC)
GUEST, RESCANNED = "Case_P009", "Case_P001"
LISTED_RUNS, LISTED_TRACKED = 10, 50  # of Dagster and of MLflow
WARM = 10  # nights after which both lists are full
MOST_GROWTH = {"memory_mb": 3.0, "open_files": 0.1, "listing_ms": 2.0}  # a night


@dataclass(frozen=True)
class Night:
    """What one night took, and what was there afterwards."""

    seconds: float
    memory_mb: float
    open_files: int
    mlflow_db_mb: float
    dagster_db_mb: float
    dagster_runs: int
    mlflow_runs: int
    listing_ms: float


def change_studies(studies: Path, night: int) -> None:
    """Add a patient, scan one anew, or take the added one away."""
    if night % 3 == 0:
        fake_emidec.write_case(studies, GUEST)
    elif night % 3 == 1:
        mask = fake_emidec.label_map(RESCANNED)
        fake_emidec.write_case(studies, RESCANNED, image=fake_emidec.image_of(mask, seed=night))
    else:
        shutil.rmtree(studies / GUEST)
        (studies / f"{GUEST.replace('_', ' ')}.txt").unlink()


def carry_out(instance: dg.DagsterInstance, night: int, until: str) -> None:
    """Evaluate the schedule's tick of a night, and do what it requests in this process."""
    from pipeline.definitions import defs

    context = dg.build_schedule_context(
        instance=instance,
        scheduled_execution_time=FIRST + timedelta(days=night),
        repository_def=defs.get_repository_def(),
    )
    (request,) = defs.resolve_schedule_def("nightly").evaluate_tick(context).run_requests
    config = request.run_config["resources"]["forge"]["config"] | {"overrides": miniature.SETTINGS}
    quiet = {"console": {"config": {"log_level": "CRITICAL"}}}
    done = defs.resolve_job_def("tiny_fold").execute_in_process(
        {"resources": {"forge": {"config": config}}, "loggers": quiet},
        instance,
        request.partition_key,
        raise_on_error=True,
        asset_selection=[dg.AssetKey(asset) for asset in up_to(until)] or None,
        tags=request.tags,
    )
    assert done.success


def listing_s(instance: dg.DagsterInstance, home: Path) -> float:
    """Return how long it takes to read what the first pages of both interfaces show."""
    from mlflow import MlflowClient

    from engine.workspace import sqlite_uri

    began = time.perf_counter()
    instance.get_run_records(limit=LISTED_RUNS)
    instance.get_asset_records(instance.all_asset_keys())
    client = MlflowClient(sqlite_uri(home))
    client.search_runs([one.experiment_id for one in client.search_experiments()], max_results=LISTED_TRACKED)
    return time.perf_counter() - began


def measured(instance: dg.DagsterInstance, home: Path, seconds: float) -> Night:
    """Look at this process and at the workspace."""
    from mlflow import MlflowClient

    from engine.workspace import sqlite_uri

    process, client = psutil.Process(), MlflowClient(sqlite_uri(home))
    ids = [one.experiment_id for one in client.search_experiments()]
    return Night(
        seconds,
        process.memory_info().rss / 1e6,
        process.num_fds(),
        _megabytes(home.glob("mlflow.db*")),
        _megabytes((home / "dagster").rglob("*.db*")),
        instance.get_runs_count(),
        len(client.search_runs(ids, max_results=10_000)),
        1000 * min(listing_s(instance, home) for _ in range(5)),
    )


def _megabytes(paths: Iterator[Path]) -> float:
    return sum(path.stat().st_size for path in paths) / 1e6


def growth(nights: list[Night]) -> dict[str, float]:
    """Return what each night adds, by a straight line through those after the lists are full."""
    late = np.array([astuple(night) for night in nights[WARM:]], float)
    slopes = np.polyfit(np.arange(len(late)), late, 1)[0]
    return {field.name: float(slope) for field, slope in zip(fields(Night), slopes, strict=True)}


def line(values: dict[str, float]) -> str:
    """Return a row of the table; memory as whole megabytes, except where it grows."""
    return "| " + " | ".join(f"{value:.0f}" if value > 100 else f"{value:.3g}" for value in values.values())


def start_anew() -> None:
    """Start this once more with the settings of the nights, which are read as the schedule is imported."""
    work = Path(tempfile.mkdtemp(prefix="scarforge_nights_"))
    of_nights = {"SCARFORGE_SOURCE": "emidec", "SCARFORGE_NIGHTLY_PROFILE": "tiny", "OMP_NUM_THREADS": "1"}
    places = {"SCARFORGE_HOME": "home", "SCARFORGE_ROOT": "studies", "DAGSTER_HOME": "home/dagster"}
    environment = os.environ | of_nights | {name: str(work / place) for name, place in places.items()}
    os.execve(sys.executable, [sys.executable, "-m", "tests.faults.nights", *sys.argv[1:]], environment)


def main() -> None:
    """Measure, print, and end with 1 where something grows that has no reason to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nights", type=int, default=30)
    parser.add_argument("--until", default="training_set_real_only", help="the last stage; empty for the whole fold")
    options = parser.parse_args()
    if options.nights < WARM + 2:
        parser.error(f"--nights {options.nights} tells no growth; give at least {WARM + 2}")
    if os.environ.get("SCARFORGE_NIGHTLY_PROFILE") != "tiny":
        start_anew()
    home = Path(os.environ["SCARFORGE_HOME"])
    work, studies = home.parent, Path(os.environ["SCARFORGE_ROOT"])
    miniature.write_studies(studies)
    miniature.new_home(home)
    miniature.prepare_process()
    miniature.train_here(work / "steps", lambda _: None)
    nights: list[Night] = []
    print("| night | " + " | ".join(field.name for field in fields(Night)) + " |", flush=True)
    with dg.DagsterInstance.get() as instance:
        for number in range(options.nights):
            change_studies(studies, number)
            start = time.monotonic()
            carry_out(instance, number, options.until)
            nights.append(measured(instance, home, time.monotonic() - start))
            print(f"| {number + 1} {line(asdict(nights[-1]))} |", flush=True)
    slopes = growth(nights)
    wrong = [name for name, most in MOST_GROWTH.items() if slopes[name] > most]
    print(f"| a night adds {line(slopes)} |\n{wrong or 'nothing else grows'}")
    shutil.rmtree(work)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
