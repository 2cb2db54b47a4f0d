"""Links that open the runs of both arms in MLflow's compare view."""

import json
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from engine.forge import Forge
from engine.outcome import Fact
from engine.record import read_record
from engine.tracking.run_folder import RunFolder
from segmentation.model_kind import ModelKind

_LABEL = "compare_{}_in_mlflow"


def compare_url(server: str, run_ids: Sequence[str], experiment_ids: Sequence[str]) -> str:
    """Return the address that opens runs side by side in the interface of MLflow 3, among its pages for model training.

    Args:
        server: Address of MLflow's server.
        run_ids: In the order of the columns.
        experiment_ids: That the runs belong to.
    """
    runs, experiments = (quote(json.dumps(list(ids), separators=(",", ":"))) for ids in (run_ids, experiment_ids))
    return f"{server.rstrip('/')}/#/compare-runs?runs={runs}&experiments={experiments}&workflowType=machine_learning"


def compare_facts(forge: Forge, found: Sequence[tuple[ModelKind, int, int]]) -> dict[str, Fact]:
    """Return a link for each network: its evaluations after real-only training beside those with GAN slices.

    Args:
        forge: Of the run.
        found: (model kind, fold, seed) that were compared. Those that MLflow did not get are left out.
    """
    runs: dict[str, list[str]] = {}
    for kind, fold, seed in sorted(found, key=lambda place: (place[1:], place[0])):
        run_id = run_id_of(forge.folder(kind.scores, fold, seed), kind.scores)
        if run_id:
            runs.setdefault(kind.network, []).append(run_id)
    experiment = _experiment_id(forge) if runs else None
    if experiment is None:
        return {}
    return {
        _LABEL.format(network): Fact("url", compare_url(forge.mlflow_server(), ids, [experiment]))
        for network, ids in sorted(runs.items())
        if len(ids) > 1
    }


def saved_links(forge: Forge) -> dict[str, str]:
    """Return the links of the finished comparison, by network."""
    prefix, suffix = _LABEL.split("{}")
    facts = forge.finished("comparison").record.outcome.facts
    return {
        name.removeprefix(prefix).removesuffix(suffix): str(fact.value)
        for name, fact in facts.items()
        if name.startswith(prefix) and name.endswith(suffix)
    }


def run_id_of(folder: Path, asset: str) -> str:
    """Return the MLflow run of a finished result, as its record says or a later replay; empty where it has none."""
    sent = RunFolder(folder).sent()
    return read_record(folder, asset).outcome.run_id or (sent.run_id if sent else "")


def _experiment_id(forge: Forge) -> str | None:
    """Return the experiment's id, None while the store cannot be reached."""
    from engine.tracking.store import EXPERIMENT, find_experiment

    return find_experiment(forge.tracking_uri(), EXPERIMENT)
