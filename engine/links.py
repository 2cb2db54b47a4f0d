"""Where links lead: from Dagster's pages to files of the workspace and to MLflow, from all else to MLflow.

Beside Dagster's own pages `scarforge ui` answers below `/scarforge` (`pipeline.services.linked_pages`): links of
Dagster's pages lead there, so that they keep to the host and port that the browser has found, and to where MLflow is
when they are followed. They are absolute where another server shows Dagster, whose address is `SCARFORGE_DAGSTER_URL`.

How MLflow lists our runs: by arm, network, fold, seed and Dice, without a filter to be typed.
"""

import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
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


# MLflow keeps a view that was saved in its interface as a tag of the experiment, and what a browser last looked at in
# that browser's own storage. Both are written here as MLflow 3.17 writes them.
_NAME = "Arms, networks, folds and Dice"
_SAVED_AT = 1_790_000_000_000  # of any view that was saved; the views are listed by it
# Columns and their widths in pixels: all of them are seen in a window of 1440.
_PARAMETERS = {"training_set": 108, "network": 126, "fold": 46, "seed": 50}
_DICE = {"infarct": 132, "no_reflow": 132, "cavity": 132, "normal_myocardium": 132}
_ALWAYS = {"attributes.`Run Name`": 158, "runDateAndNestInfo": 88}
_STORED = 'MLflowLocalStorage-1.1-ExperimentPage-["{}"]-ReactComponentState'


def arms_view() -> tuple[str, str]:
    """Return the tag of the experiment that holds the view, and its value."""
    told = {"name": _NAME, "createdAt": _SAVED_AT, "updatedAt": _SAVED_AT, "state": json.dumps(_state())}
    return f"mlflow.sharedViewState.{ARMS_VIEW}", json.dumps(told)


def browser_state(experiment: str) -> Mapping[str, str]:
    """Return what a browser stores that has the pages about trained models, and the view, from the start."""
    return {
        "mlflow.workflowType_v1": json.dumps("machine_learning"),
        "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",  # no assistant beside the first page
        _STORED.format(experiment): json.dumps(_state()),
    }


def _state() -> dict[str, Any]:
    """Return columns and charts; runs with the best infarct come first, those that nothing was scored in last."""
    metrics = [f"dice/positive/{tissue}" for tissue in _DICE]
    widths = dict(_ALWAYS)
    widths |= {f"params.`{name}`": width for name, width in _PARAMETERS.items()}
    widths |= {f"metrics.`dice/positive/{tissue}`": width for tissue, width in _DICE.items()}
    section = "scarforge-dice"
    return {
        "searchFilter": "",
        "orderByKey": f"metrics.`{metrics[0]}`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [name for name in widths if name.startswith(("params", "metrics"))],
        "columnOrder": list(widths),
        "columnWidths": widths,
        "isAccordionReordered": True,  # else sections are sorted by name
        "compareRunSections": [_section(section, "Dice of patients who have the tissue")],
        "compareRunCharts": [_bars(section, name) for name in metrics],
    }


def _section(identity: str, name: str) -> dict[str, Any]:
    kept = {"display": True, "isReordered": True, "deleted": False, "isGenerated": False}
    return {"uuid": identity, "name": name, **kept}


def _bars(section: str, metric: str) -> dict[str, Any]:
    named = {"uuid": f"scarforge-{metric}", "metricSectionId": section, "displayName": metric, "metricKey": metric}
    return {**named, "type": "BAR", "runsCountToCompare": 10, "deleted": False, "isGenerated": False}
