"""A night in MLflow: one parent run, made by whichever of the night's runs arrives first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from pipeline.night import PARENT_KEY_TAG, night_name

if TYPE_CHECKING:
    from mlflow import MlflowClient

_LOCK_TIMEOUT_S = 30.0
_SHARED = ("night", "started_by", "source", "profile")


def parent_tags(
    client: MlflowClient, experiment: str, tags: Mapping[str, str], spool: Path, key_tag: str, start_time: int
) -> dict[str, str]:
    """Return the tag that shows a run under its night, making the night's run where it is not there yet.

    Args:
        client: Of the store.
        experiment: Id of the experiment.
        tags: Of the run that belongs to the night; without a parent's key there is nothing to do.
        spool: Of the workspace, whose processes must not make the night twice.
        key_tag: The tag that holds a run's key.
        start_time: Of the run, in milliseconds.
    """
    key = tags.get(PARENT_KEY_TAG)
    if not key:
        return {}
    with FileLock(spool / "night.lock", timeout=_LOCK_TIMEOUT_S):
        found = client.search_runs([experiment], f"tags.{key_tag} = '{key}'", max_results=1)
        parent = found[0].info.run_id if found else _begin(client, experiment, tags, key_tag, key, start_time)
    return {"mlflow.parentRunId": parent}


def _begin(
    client: MlflowClient, experiment: str, tags: Mapping[str, str], key_tag: str, key: str, start_time: int
) -> str:
    _close_unfinished(client, experiment, tags, start_time)
    own = {name: tags[name] for name in _SHARED if name in tags}
    own |= {"stage": "night", key_tag: key}
    return client.create_run(experiment, start_time, own, night_name(tags)).info.run_id


def _close_unfinished(client: MlflowClient, experiment: str, tags: Mapping[str, str], before: int) -> None:
    """End earlier nights whose runs failed before the end of the graph, which alone ends a night."""
    of_kind = [f"tags.{name} = '{tags[name]}'" for name in ("source", "profile") if name in tags]
    earlier = f"attributes.start_time < {before}"  # a night that waited in the spool may arrive during a later one
    query = " and ".join(["tags.stage = 'night'", "attributes.status = 'RUNNING'", earlier, *of_kind])
    for run in client.search_runs([experiment], query):
        client.set_terminated(run.info.run_id, "KILLED")
