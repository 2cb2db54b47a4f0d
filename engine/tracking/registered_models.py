"""Models in MLflow: the exported network of a training, and the versions of the registry with their aliases.

A network is exported as a graph, which holds no pickled code. Telling the registry something twice, or after something
later, leaves it as telling it once and in order.
"""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import give_usual_rights

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion
    from numpy import float32
    from numpy.typing import NDArray

TRAINING_TAG = "training_key"
_CARRIED = ("config.json", "model_card.json")  # the weights are in the graph
_JUDGED_AT_TAG = "judged_at"
_VALUE_LENGTH = 4900  # MLflow's limit for a tag of a version is 5,000 bytes


def save_mlflow_model(target: Path, folder: Path, module_factory: Callable[[], Any], example: NDArray[float32]) -> None:
    """Write an MLflow model (`pt2`) with signature, example and requirements; no server is needed.

    Args:
        target: Folder to create.
        folder: Our model folder, whose configuration and card go along.
        module_factory: Gives the network, on the CPU and in `eval()`.
        example: Input of shape (2, 1, H, W); a batch of one would be frozen into the graph.

    Raises:
        RuntimeError, ValueError, TypeError, MlflowException: The network cannot be exported.
    """
    import mlflow.pytorch

    module = module_factory().to("cpu").eval()
    extra = [str(folder / name) for name in _CARRIED if (folder / name).exists()]
    torch_logger = logging.getLogger("torch.export")
    level = torch_logger.level
    torch_logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's remarks are about its own internals
            mlflow.pytorch.save_model(
                module,
                str(target),
                input_example=example,
                pip_requirements=[f"{name}=={version(name)}" for name in ("torch", "numpy")],
                extra_files=extra or None,
                serialization_format="pt2",
            )
    finally:
        torch_logger.setLevel(level)
    for path in target.rglob("*"):  # MLflow copies files by way of a folder that is its owner's alone
        give_usual_rights(path)


def log_model(
    client: MlflowClient, experiment: str, run_id: str, graph: Path, name: str, key_tag: str, key: str
) -> None:
    """Give a run the network that `save_mlflow_model` wrote, unless it has one; one half sent is sent again.

    Args:
        client: Of the store.
        experiment: Id of the experiment.
        run_id: Of the training.
        graph: The folder that was written.
        name: Of the model.
        key_tag: The tag by which the model is found again.
        key: Its value, the training's.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    run = client.get_run(run_id)
    found = client.search_logged_models([experiment], f"tags.{key_tag} = '{key}'")
    tags = {name: text for name, text in run.data.tags.items() if not name.startswith("mlflow.")}
    model = found[0] if found else client.create_logged_model(experiment, name, run_id, tags, {}, "pytorch")
    if model.status == LoggedModelStatus.READY:
        return
    if model.model_id not in {output.model_id for output in (run.outputs.model_outputs if run.outputs else [])}:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    _name_model(graph, model, run_id)
    client.log_model_artifacts(model.model_id, str(graph))
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def _name_model(graph: Path, model: LoggedModel, run_id: str) -> None:
    from mlflow.models import Model

    description = Model.load(str(graph))
    description.model_id = description.model_uuid = model.model_id
    description.run_id, description.artifact_path = run_id, model.artifact_location
    description.save(str(graph / "MLmodel"))
    for cache in graph.rglob("__pycache__"):
        shutil.rmtree(cache, ignore_errors=True)


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
