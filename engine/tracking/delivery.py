"""Sends the events of a spool to MLflow, so that sending one twice leaves the store as sending it once.

Runs are found by their `scarforge_key`, metrics are identical down to their timestamps, a model carries the
id of its event. So a sender that was cut off simply starts again.

A night in MLflow: one parent run, made by whichever of the night's runs arrives first.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from engine.run_tags import PARENT_KEY_TAG, night_name
from engine.tracking.registered_models import TrainingNotThereError, register_version
from engine.tracking.spool import Event, RunSpool
from engine.tracking.store import experiment_id

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


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


KEY_TAG = "scarforge_key"

_REFUSED_FOR_GOOD = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS"}
_METRICS_PER_CALL = 1000  # MLflow's limits for one batch
_PARAMS_PER_CALL = 100

_logger = logging.getLogger("scarforge.tracking")


class StoreUnavailableError(Exception):
    """The store cannot be reached now: what was not sent stays in the spool."""


class Delivery:
    """Sends one run's events; holds the client and, once known, the run's id."""

    def __init__(self, run: RunSpool, client: MlflowClient) -> None:
        self.run = run
        self.client = client
        self.run_id: str | None = None
        self.experiment_id = ""
        self._header = run.header() or {}
        self._created = False  # whether this delivery made the run, so that nothing in it can be older
        self._steps_sent: dict[str, int] = {}
        self.bytes_moving = 0  # of the file that is being sent just now

    def drain(self, stop: Callable[[], bool] = lambda: False, on_progress: Callable[[], None] = lambda: None) -> int:
        """Send what waits, oldest first, until it is empty, `stop()` holds or the store cannot be reached.

        Returns:
            How many events were dealt with; 0 also when another process is sending them.

        Raises:
            StoreUnavailableError: The store cannot be reached; the rest is kept.
        """
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        with self.run.sending() as allowed:
            if not allowed:
                return 0
            try:
                return self._drain(stop, on_progress)
            except (MlflowException, SQLAlchemyError, OSError) as error:
                reason = (str(error).splitlines() or [""])[0][:120]
                raise StoreUnavailableError(reason) from error

    def _drain(self, stop: Callable[[], bool], on_progress: Callable[[], None]) -> int:
        if self.run_id is None:
            self.find_or_create_run()
            on_progress()
        done, ended = 0, False
        while not stop() and (events := self.run.claim()):
            remaining = list(events)
            try:
                for group in _groups(events):
                    if stop():
                        break
                    self._send_or_reject(group)
                    del remaining[: len(group)]
                    done, ended = done + len(group), group[-1]["kind"] == "end"
                    on_progress()
            finally:
                self.run.keep(remaining, ended)
        return done

    def find_or_create_run(self) -> None:
        """Find the run by its key, or create it with the header's name, tags and start time."""
        header = self._header = self.run.header() or self._header
        workspace = self.run.folder.parents[1]  # of the spool, beside which artifacts lie; it may have been moved
        root = workspace / header["artifact_root"] if header["artifact_root"] else None
        self.experiment_id = experiment_id(self.client, header["experiment"], root)
        found = self._find(header["tags"][KEY_TAG])
        self._created = found is None
        if found is None:
            found = self.client.create_run(self.experiment_id, header["start_time"], self._tags(), header["name"])
        self.run_id = found.info.run_id
        if self._created:
            self._open()

    def _find(self, key: str) -> Run | None:
        runs = self.client.search_runs([self.experiment_id], f"tags.{KEY_TAG} = '{key}'", max_results=1)
        return runs[0] if runs else None

    def _send_or_reject(self, group: Sequence[Event]) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._send(group)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # deleted for good, or a new store
                self.run_id = None
                raise
            if error.error_code not in _REFUSED_FOR_GOOD:
                raise
            if len(group) > 1:  # find the one that is refused
                for event in group:
                    self._send_or_reject([event])
                return
            self._reject(group[0], str(error))
        except (KeyError, TypeError, ValueError) as error:  # written by another version of this program
            for event in group:
                self._reject(event, repr(error))

    def _reject(self, event: Event, reason: str) -> None:
        _logger.warning("set aside %s of this run: %s", event.get("kind"), reason)
        self.run.reject(event, reason)

    def _send(self, group: Sequence[Event]) -> None:
        event = group[0]
        match event["kind"]:
            case "open":
                self._open()
            case "metrics":
                self._metrics(group)
            case "dataset":
                self._dataset(event)
            case "artifact":
                self._artifact(event)
            case "model":
                self._model(event)
            case "version":
                self._version(event)
            case "end":
                self.client.set_terminated(self._id, event["status"], event["time"])
            case other:
                self.run.reject(event, f"unknown kind {other!r}")

    @property
    def _id(self) -> str:
        assert self.run_id is not None
        return self.run_id

    def _open(self) -> None:
        """Bring the run's status, tags and parameters to what the header says."""
        from mlflow.entities import Param, RunTag

        header = self._header = self.run.header() or self._header
        run = self.client.get_run(self._id)
        if run.info.status != "RUNNING":
            self.client.update_run(self._id, status="RUNNING")
        tags = [RunTag(key, value) for key, value in self._tags().items()]
        known = run.data.params
        params = [Param(key, text) for key, text in header["params"].items() if key not in known]
        for start in range(0, max(len(params), 1), _PARAMS_PER_CALL):
            self.client.log_batch(self._id, params=params[start : start + _PARAMS_PER_CALL], tags=tags)
        changed = {key for key, text in header["params"].items() if known.get(key, text) != text}
        if changed:
            _logger.warning("resumed with other values of %s: MLflow keeps the first", sorted(changed))

    def _tags(self) -> dict[str, str]:
        """The header's tags, and the night's run as parent."""
        tags, started = self._header["tags"], self._header["start_time"]
        spool = self.run.folder.parent
        return {**tags, **parent_tags(self.client, self.experiment_id, tags, spool, KEY_TAG, started)}

    def _version(self, event: Event) -> None:
        training = RunSpool.of_key(self.run.folder.parent, event["training"])
        if training.pending():  # also where it was begun again and so comes later: each would wait for the other
            Delivery(training, self.client).drain()
        try:
            register_version(self.client, self.experiment_id, event, KEY_TAG)
        except TrainingNotThereError as error:
            if training.pending():
                raise StoreUnavailableError(f"{error} yet") from error
            self._reject(event, str(error))

    def _metrics(self, group: Sequence[Event]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(key, value, event["time"], event["step"])
            for event in group
            for key, value in event["values"].items()
            if event.get("final") or event["step"] > self._last_step(key)
        ]
        for start in range(0, len(metrics), _METRICS_PER_CALL):
            self.client.log_batch(self._id, metrics=metrics[start : start + _METRICS_PER_CALL])

    def _last_step(self, key: str) -> int:
        """The last step an earlier process logged; a resumed training repeats those since its checkpoint."""
        if self._created:
            return -1
        if key not in self._steps_sent:
            history = self.client.get_metric_history(self._id, key)
            self._steps_sent[key] = max((metric.step for metric in history), default=-1)
        return self._steps_sent[key]

    def _dataset(self, event: Event) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        tags = [InputTag("mlflow.data.context", event["context"])]
        self.client.log_inputs(self._id, [DatasetInput(Dataset(**event["dataset"]), tags)])

    def _artifact(self, event: Event) -> None:
        path = self.run.folder / event["path"]
        if not path.exists():
            self._reject(event, "the file is gone")
            return
        with self._moving(event["path"]):
            self.client.log_artifact(self._id, str(path), event["folder"] or None)
        self.run.discard(event["path"])

    def _model(self, event: Event) -> None:
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus

        path = self.run.folder / event["path"]
        model = self._logged_model(event)
        if model.status == LoggedModelStatus.READY or not path.exists():
            self.run.discard(event["path"])
            return
        outputs = self.client.get_run(self._id).outputs
        if model.model_id not in {output.model_id for output in (outputs.model_outputs if outputs else [])}:
            self.client.log_outputs(self._id, [LoggedModelOutput(model.model_id, step=0)])
        self._name_model(path, model)
        with self._moving(event["path"]):
            self.client.log_model_artifacts(model.model_id, str(path))
        self.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        self.run.discard(event["path"])

    @contextlib.contextmanager
    def _moving(self, place: str) -> Iterator[None]:
        self.bytes_moving = self.run.size(place)
        try:
            yield
        finally:
            self.bytes_moving = 0

    def _logged_model(self, event: Event) -> Any:
        found = self.client.search_logged_models([self.experiment_id], f"tags.scarforge_event = '{event['id']}'")
        if found:
            return found[0]
        tags = {**self._header["tags"], "scarforge_event": event["id"]}
        return self.client.create_logged_model(
            self.experiment_id, event["name"], self._id, tags, event["params"], "pytorch"
        )

    def _name_model(self, path: Path, model: Any) -> None:
        from mlflow.models import Model

        description = Model.load(str(path))
        description.model_id = description.model_uuid = model.model_id
        description.run_id = self._id
        description.artifact_path = model.artifact_location
        description.save(str(path / "MLmodel"))
        for cache in path.rglob("__pycache__"):
            shutil.rmtree(cache, ignore_errors=True)


def _groups(events: Sequence[Event]) -> Iterator[list[Event]]:
    """Put neighbouring metrics into one batch; everything else goes by itself."""
    number = itertools.count()

    def kind(event: Event) -> str:
        return "metrics" if event["kind"] == "metrics" else str(next(number))

    for _, group in itertools.groupby(events, kind):
        yield from _chunks(list(group), 100)


def _chunks(events: list[Event], size: int) -> Iterator[list[Event]]:
    for start in range(0, len(events), size):
        yield events[start : start + size]
