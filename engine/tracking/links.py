"""Links that open the runs of both arms in MLflow's compare view."""

from collections.abc import Sequence
from pathlib import Path

from engine.forge import Forge
from engine.links import compare_page
from engine.outcome import Fact
from engine.record import read_record
from engine.tracking.run_folder import RunFolder
from segmentation.model_kind import ModelKind

_LABEL = "compare_{}_in_mlflow"


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
    if not runs or not forge.experiment_id:
        return {}
    return {
        _LABEL.format(network): Fact("mlflow", compare_page(ids, [forge.experiment_id]))
        for network, ids in sorted(runs.items())
        if len(ids) > 1
    }


def saved_links(forge: Forge) -> dict[str, str]:
    """Return the addresses that open the finished comparison's runs, by network, where browsers find MLflow."""
    prefix, suffix = _LABEL.split("{}")
    facts = forge.finished("comparison").record.outcome.facts
    return {
        name.removeprefix(prefix).removesuffix(suffix): _address(forge, fact)
        for name, fact in facts.items()
        if name.startswith(prefix) and name.endswith(suffix)
    }


def _address(forge: Forge, fact: Fact) -> str:
    return f"{forge.mlflow_server()}/#/{fact.value}" if fact.kind == "mlflow" else str(fact.value)


def run_id_of(folder: Path, asset: str) -> str:
    """Return the MLflow run of a finished result, as its record says or a later replay; empty where it has none."""
    sent = RunFolder(folder).sent()
    return read_record(folder, asset).outcome.run_id or (sent.run_id if sent else "")
