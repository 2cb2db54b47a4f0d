"""ScarForge as a team runs it: `scarforge ui` with steps on Ray, and both tools' records in PostgreSQL."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.cluster.local_postgres import Postgres
from tests.cluster.local_ray import free_port

RUNNING = frozenset({"QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING"})


@dataclass(frozen=True)
class ForgeOnRay:
    """A workspace whose runs are launched through Dagster's webserver."""

    home: Path
    postgres: Postgres
    dagster_port: int

    def launch(self, fold: int, assets: list[str] | None = None, *overrides: str) -> str:
        config = {"resources": {"forge": {"config": {"profile": "tiny", "source": "phantom", "home": str(self.home)}}}}
        config["resources"]["forge"]["config"]["overrides"] = list(overrides)
        tags = {"dagster/partition": str(fold)}
        with self._webserver() as client:
            return client.submit_job_execution("tiny_fold", run_config=config, tags=tags, asset_selection=assets)

    def cancel(self, run: str) -> None:
        with self._webserver() as client:
            client.terminate_run(run)

    @contextlib.contextmanager
    def _webserver(self) -> Iterator[Any]:
        from dagster_graphql import DagsterGraphQLClient

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Using variable_values and operation_name")  # by Dagster
            yield DagsterGraphQLClient("127.0.0.1", self.dagster_port)

    def status(self, run: str) -> str:
        """Return what Dagster's database says of a run."""
        return self.postgres.rows("dagster", "SELECT status FROM runs WHERE run_id = %s", run)[0][0]

    def wait_for_end(self, run: str, seconds: float) -> str:
        wait_until(lambda: self.status(run) not in RUNNING, seconds, f"run {run} goes on")
        return self.status(run)

    def events(self, run: str, kind: str) -> list[str]:
        """Return the steps of which Dagster's database holds events of a kind, such as `STEP_SUCCESS`."""
        query = "SELECT step_key FROM event_logs WHERE run_id = %s AND dagster_event_type = %s ORDER BY id"
        return [row[0] for row in self.postgres.rows("dagster", query, run, kind)]

    def problems(self, run: str) -> str:
        """Return what Dagster's database holds of failures of a run, for a person to read."""
        query = (
            "SELECT event FROM event_logs WHERE run_id = %s AND (dagster_event_type IN "
            "('STEP_FAILURE', 'STEP_UP_FOR_RETRY', 'PIPELINE_FAILURE') OR event LIKE '%%SerializableErrorInfo%%')"
        )
        return "\n".join(row[0][:3000] for row in self.postgres.rows("dagster", query, run))

    def trainings(self) -> list[psutil.Process]:
        """Return the training processes of this workspace, and of no other."""
        return [process for process in psutil.process_iter() if self._trains(process)]

    def _trains(self, process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error):
            if "engine.worker" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                return process.environ().get("SCARFORGE_HOME") == str(self.home)
        return False

    def checkpoint_step(self, asset: str, fold: int) -> int:
        """Return the step of the checkpoint of an unfinished training, 0 where there is none."""
        import torch

        for path in (self.home / "phantom" / "tiny" / asset).glob(f".fold_{fold}.*.partial/checkpoint/last.pt"):
            return int(torch.load(path, map_location="cpu", weights_only=True)["state"]["step"])
        return 0

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-4000:] for path in (self.home / "logs").glob("*.log"))


@contextlib.contextmanager
def forge_on_ray(home: Path, postgres: Postgres, ray_address: str) -> Iterator[ForgeOnRay]:
    """Start `scarforge ui`, give what it serves, and end it with all its runs."""
    forge = ForgeOnRay(home, postgres, free_port())
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "MLFLOW_"))}
    environment |= {
        "SCARFORGE_HOME": str(home),
        "SCARFORGE_EXECUTOR": "ray",
        "RAY_ADDRESS": ray_address,
        "SCARFORGE_DAGSTER_POSTGRES": postgres.create("dagster"),
        "MLFLOW_TRACKING_URI": postgres.create("mlflow"),
        "OMP_NUM_THREADS": "1",
        "DAGSTER_STEP_DELEGATING_EXECUTOR_SLEEP_SECONDS": "0.3",
    }
    command = [sys.executable, "-m", "pipeline.cli", "ui"]
    command += ["--dagster-port", str(forge.dagster_port), "--mlflow-port", str(free_port())]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        assert lines[1].startswith("MLflow"), forge.logs()
        yield forge
    finally:
        assert process.stdout is not None
        process.stdout.close()
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=60)
        process.kill()
        process.wait()


def wait_until(condition: Callable[[], Any], seconds: float, in_vain: str) -> Any:
    give_up = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < give_up, f"after {seconds:.0f} s: {in_vain}"
        time.sleep(0.2)
    return found
