"""Where links lead: from Dagster's pages to files of the workspace and to MLflow, from all else to MLflow.

Beside Dagster's own pages `scarforge ui` answers below `/scarforge` (`pipeline.services.linked_pages`): links of
Dagster's pages lead there, so that they keep to the host and port that the browser has found, and to where MLflow is
when they are followed. They are absolute where another server shows Dagster, whose address is `SCARFORGE_DAGSTER_URL`.
"""

import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from common.files import write_text

SERVED = "/scarforge"
SHOWN_FILES = frozenset({".html", ".png"})
_DEFAULT_MLFLOW = "http://127.0.0.1:5000"
_NOTE = "mlflow.url"  # in the workspace: where `scarforge ui` last served MLflow
_TRAINING = "workflowType=machine_learning"  # MLflow's pages are about language models otherwise
ARMS_VIEW = "scarforge"  # the experiment's view of the runs with the columns that tell arms apart


def run_page(run_id: str, experiment: str = "") -> str:
    """Return the page of a run, as MLflow's interface names it behind `#/`.

    Without its experiment MLflow finds the run, too, but shows it among the pages about language models.
    """
    return f"experiments/{experiment}/runs/{run_id}?{_TRAINING}" if experiment else f"runs/{run_id}?{_TRAINING}"


def runs_page(experiment: str) -> str:
    """Return the page that lists the runs of an experiment by arm, network, fold, seed and Dice, in any browser."""
    return f"{first_runs_page(experiment)}&viewStateShareKey={ARMS_VIEW}"


def first_runs_page(experiment: str) -> str:
    """Return the same page for a browser that stores the view, or the one that its user has made of it."""
    return f"experiments/{experiment}/runs?{_TRAINING}"


def compare_page(run_ids: Sequence[str], experiment_ids: Sequence[str]) -> str:
    """Return the page that shows runs side by side.

    Args:
        run_ids: In the order of the columns.
        experiment_ids: That the runs belong to.
    """
    runs, experiments = (quote(json.dumps(list(ids), separators=(",", ":"))) for ids in (run_ids, experiment_ids))
    return f"compare-runs?runs={runs}&experiments={experiments}&{_TRAINING}"


def note_mlflow(home: Path, address: str) -> None:
    """Write down where `scarforge ui` serves MLflow, for the links of what runs beside it."""
    write_text(home / _NOTE, f"{address}\n")


def noted_mlflow(home: Path) -> str:
    """Return where `scarforge ui` last served MLflow, its usual address where it never did."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return (home / _NOTE).read_text(encoding="utf-8").strip() or _DEFAULT_MLFLOW
    return _DEFAULT_MLFLOW


@dataclass(frozen=True)
class Links:
    """The links of Dagster's pages.

    Attributes:
        home: The workspace.
        mlflow: Address of MLflow's server as browsers know it.
        experiment: Asks MLflow for the experiment's id, which is empty while it cannot be reached.
        served: Whether `scarforge ui` shows Dagster.
    """

    home: Path
    mlflow: str
    experiment: Callable[[], str]
    served: bool = True

    @classmethod
    def of(
        cls, home: Path, mlflow: str, experiment: Callable[[], str], environment: Mapping[str, str] = os.environ
    ) -> "Links":
        """Return the links as the environment has them."""
        return cls(home.absolute(), mlflow, experiment, served=not environment.get("SCARFORGE_DAGSTER_URL"))

    def to_mlflow(self, page: str) -> str:
        """Return the link to a page of MLflow, such as `compare_page` gives."""
        return f"{SERVED}/mlflow/{page}" if self.served else f"{self.mlflow}/#/{page}"

    def to_run(self, run_id: str) -> str:
        """Return the link to a run's page; who serves it asks for the experiment when it is followed."""
        return f"{SERVED}/mlflow/runs/{run_id}" if self.served else self.to_mlflow(run_page(run_id, self.experiment()))

    def to_file(self, path: Path) -> str:
        """Return the link to a page or picture of the workspace, empty where nobody serves it."""
        if not self.served or path.suffix not in SHOWN_FILES or not path.is_relative_to(self.home):
            return ""
        return f"{SERVED}/files/{quote(path.relative_to(self.home).as_posix())}"
