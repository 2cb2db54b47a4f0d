"""How MLflow's interface shows our runs: by arm, network, fold, seed and Dice, without a filter to be typed.

MLflow keeps a view that was saved in its interface as a tag of the experiment, and what a browser last looked at in
that browser's own storage. Both are written here as MLflow 3.17 writes them.
"""

import json
from collections.abc import Mapping
from typing import Any

from engine.links import ARMS_VIEW

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
