"""Brings MLflow's model registry to what an event says: a version, its tags, and the aliases that point at it.

Sending an event twice, or after a later one, leaves the registry as sending it once and in order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

TRAINING_TAG = "training_key"
_JUDGED_AT_TAG = "judged_at"
_VALUE_LENGTH = 4900  # MLflow's limit for a tag of a version is 5,000 bytes


class TrainingNotThereError(Exception):
    """The training that a version is about has not reached the store, or not with a model."""


def register_version(client: MlflowClient, experiment: str, event: dict[str, Any], training_tag: str) -> None:
    """Find or create the version of one training's model, and set its description, tags and aliases.

    Args:
        client: Of the store.
        experiment: Id of the experiment that holds the training.
        event: `name` of the registered model, `about` it, `training` (key), `tags`, `aliases`, `description`, `time`.
        training_tag: The tag by which a training's run is found.

    Raises:
        TrainingNotThereError: No run has that key, or it holds no model.
    """
    _ensure_registered_model(client, event["name"], event["about"])
    tags = {**event["tags"], TRAINING_TAG: _key(event), _JUDGED_AT_TAG: event["time"]}
    tags = {name: str(value)[:_VALUE_LENGTH] for name, value in tags.items()}
    version = _find(client, event) or _create(client, experiment, event, training_tag, tags)
    for name, value in tags.items():
        if version.tags.get(name) != value and int(version.tags.get(_JUDGED_AT_TAG, 0)) <= event["time"]:
            client.set_model_version_tag(event["name"], version.version, name, value)
    for alias in event["aliases"]:
        if _judged_at(client, event["name"], alias) <= event["time"]:
            client.set_registered_model_alias(event["name"], alias, version.version)


def _ensure_registered_model(client: MlflowClient, name: str, about: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=about)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _find(client: MlflowClient, event: dict[str, Any]) -> ModelVersion | None:
    found = client.search_model_versions(f"name = '{event['name']}' and tags.{TRAINING_TAG} = '{_key(event)}'")
    return found[0] if found else None


def _create(
    client: MlflowClient, experiment: str, event: dict[str, Any], training_tag: str, tags: dict[str, str]
) -> ModelVersion:
    key = _key(event)
    runs = client.search_runs([experiment], f"tags.{training_tag} = '{key}'", max_results=1)
    if not runs:
        raise TrainingNotThereError(f"the training {key} is not in this store")
    outputs = runs[0].outputs
    if not outputs or not outputs.model_outputs:
        raise TrainingNotThereError(f"the training {key} has no exported model in this store")
    model_id = outputs.model_outputs[-1].model_id
    return client.create_model_version(
        event["name"],
        # Not `models:/<id>`, which MLflow 3.17 looks up in the store of the environment instead of this client's.
        source=client.get_logged_model(model_id).artifact_location,
        run_id=runs[0].info.run_id,
        tags=tags,
        description=event["description"],
        model_id=model_id,
    )


def _key(event: dict[str, Any]) -> str:
    return str(event["training"]).replace("'", "")  # MLflow's filters cannot hold a quote


def _judged_at(client: MlflowClient, name: str, alias: str) -> int:
    """Return when the version under `alias` was judged, so that a late event does not take the alias back."""
    from mlflow.exceptions import MlflowException

    try:
        tags = client.get_model_version_by_alias(name, alias).tags
    except MlflowException as error:
        if error.error_code not in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
            raise
        return 0
    return int(tags.get(_JUDGED_AT_TAG, 0))
