"""Copies a run's folder to MLflow, so that doing it twice leaves the store as doing it once.

A run is found by its tag `scarforge_key`; of its course the steps that are not there are sent, with their own times;
files are written over those of the same name; an exported model is sent where the run has none. So whoever was cut
off simply starts again, and a store that was lost is filled again from the folders.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from common.errors import InputError
from engine.run_tags import KEY_TAG
from engine.tracking.registered_models import TrainingNotThereError, log_model, register_version
from engine.tracking.run_folder import RunFolder, RunNotes, Sent, drop_when_told, run_folders
from engine.tracking.store import EXPERIMENT, TrackingPlaces, connect, experiment_id, require_answer, shown

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

_REFUSED_FOR_GOOD = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS"}
_METRICS_PER_CALL = 1000  # MLflow's limits for one batch
_PARAMS_PER_CALL = 100
_LOCK_TIMEOUT_S = 30.0
_OF_A_NIGHT = ("night", "started_by", "source", "profile")
_logger = logging.getLogger("scarforge.tracking")


class StoreAwayError(Exception):
    """The store does not take what it is told now; the folder has it all."""


class TrainingAwaitedError(StoreAwayError):
    """A version cannot be registered before MLflow has its training."""


def publish(folder: Path, places: TrackingPlaces) -> str:
    """Bring MLflow to what a folder says, also one whose run goes on no more without having ended.

    Returns:
        The run's id in MLflow; empty where the run's own process tells of it, or nothing is told in the folder.

    Raises:
        StoreAwayError: The store cannot be reached, or a training that is needed is not there yet.
    """
    run = RunFolder(folder)
    if run.notes() is None:
        return ""
    with run.owned() as mine:
        if not mine:
            return ""
        publisher = Publisher(run, places)
        publisher.whole()
    drop_when_told(run, places.spool)
    return publisher.run_id


def replay(places: TrackingPlaces, every: bool = True, stop: Callable[[], bool] = lambda: False) -> int:
    """Publish the folders of a workspace that MLflow lacks; several processes may do this at the same time.

    Args:
        places: Workspace and store.
        every: Also those that another store has, or that this one has lost.
        stop: Asked before each folder.

    Returns:
        How many runs were sent. It stops, with a warning, at the first sign that the store is away.
    """
    sent = 0
    try:
        for run in run_folders(places.home):
            if stop():
                break
            if run.is_sent() and not (every and _is_lost(run, places)):
                continue
            with contextlib.suppress(TrainingAwaitedError, FileNotFoundError):  # put in place, or deleted, meanwhile
                sent += bool(publish(run.folder, places))
    except (StoreAwayError, OSError, InputError) as error:
        _logger.warning("MLflow at %s %s; what it lacks stays in the workspace", shown(places.uri), error)
    return sent


def waiting_runs(places: TrackingPlaces) -> int:
    """Count the runs of a workspace that MLflow lacks."""
    return sum(not run.is_sent() for run in run_folders(places.home))


def _is_lost(run: RunFolder, places: TrackingPlaces) -> bool:
    """Tell whether the store lacks a run that some store was told of; one that was deleted there is not lost."""
    from mlflow.exceptions import MlflowException

    sent = run.sent()
    with _store(places.uri):
        try:
            return sent is None or not connect(places.uri).get_run(sent.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return True


class Publisher:
    """Publishes one folder, once or step by step; holds the client and, once known, the run's id."""

    def __init__(self, run: RunFolder, places: TrackingPlaces) -> None:
        self.run, self.places = run, places
        self.run_id = self.experiment_id = ""
        self.moved = time.monotonic()  # when the store last took something
        self.bytes_moving = 0  # of the file that is being sent just now
        self._found: MlflowClient | None = None  # once the run is found
        self._last: dict[str, int] = {}  # step by metric

    def course(self) -> None:
        """Bring the run to where it is while it goes on."""
        with self._open() as (client, _):
            self._send_course(client)

    def whole(self) -> None:
        """Bring the run to all that its folder says; one without an end was killed."""
        digest = self.run.digest()
        with self._open() as (client, notes):
            self._send_course(client)
            self._send_results(client, notes)
            self._send_inputs(client, notes)
            self._send_files(client, notes)
            self._register(client, notes)
            last_seen = max((row.time for row in self.run.course()), default=notes.start_time)
            client.set_terminated(self.run_id, notes.status or "KILLED", notes.end_time or last_seen)
        self.run.note_sent(Sent(self.run_id, digest))

    @contextlib.contextmanager
    def _open(self) -> Iterator[tuple[MlflowClient, RunNotes]]:
        """Give the client, with the run found or made, and what is said; after an error the run is looked for again."""
        notes = self.run.notes()
        if notes is None:
            raise FileNotFoundError(self.run.own / "run.json")
        try:
            with _store(self.places.uri):
                if self._found is None:
                    self._found = self._find(connect(self.places.uri), notes)
                yield self._found, notes
        except StoreAwayError:
            self._found = None
            raise

    def _find(self, client: MlflowClient, notes: RunNotes) -> MlflowClient:
        """Find the run by its key, or create it; bring its status, tags and parameters to what is said."""
        self.experiment_id = experiment_id(client, EXPERIMENT, self.places.artifact_root)
        self.places.spool.mkdir(parents=True, exist_ok=True)
        with FileLock(self.places.spool / "new_runs.lock", timeout=_LOCK_TIMEOUT_S):
            tags = {**notes.tags, KEY_TAG: notes.key, **self._parent_tag(client, notes)}
            run = self._run_of(client, notes.key)
            if run is None:
                run = client.create_run(self.experiment_id, notes.start_time, tags, notes.name)
        self.run_id = run.info.run_id
        if run.info.status != "RUNNING":
            client.update_run(self.run_id, status="RUNNING")
        self._last = {}
        self._send_tags_and_params(client, tags, notes, run.data.params)
        return client

    def _run_of(self, client: MlflowClient, key: str) -> Run | None:
        found = client.search_runs([self.experiment_id], f"tags.{KEY_TAG} = '{key}'", max_results=1)
        return found[0] if found else None

    def _parent_tag(self, client: MlflowClient, notes: RunNotes) -> dict[str, str]:
        """Return the tag that shows a run under another, making that one where it is not there yet."""
        if not notes.parent:
            return {}
        key, name, stage = (notes.parent[part] for part in ("key", "name", "stage"))
        parent = self._run_of(client, key)
        if parent is None:
            own = {tag: notes.tags[tag] for tag in _OF_A_NIGHT if tag in notes.tags} | {"stage": stage, KEY_TAG: key}
            if stage == "night":
                self._close_unfinished_nights(client, notes)
            parent = client.create_run(self.experiment_id, notes.start_time, own, name)
        return {"mlflow.parentRunId": parent.info.run_id}

    def _close_unfinished_nights(self, client: MlflowClient, notes: RunNotes) -> None:
        """End earlier nights whose runs failed before the end of the graph, which alone ends a night."""
        of_kind = [f"tags.{name} = '{notes.tags[name]}'" for name in ("source", "profile") if name in notes.tags]
        earlier = f"attributes.start_time < {notes.start_time}"  # a night may be told of during a later one
        query = " and ".join(["tags.stage = 'night'", "attributes.status = 'RUNNING'", earlier, *of_kind])
        for run in client.search_runs([self.experiment_id], query):
            client.set_terminated(run.info.run_id, "KILLED")

    def _send_tags_and_params(
        self, client: MlflowClient, tags: dict[str, str], notes: RunNotes, known: dict[str, str]
    ) -> None:
        from mlflow.entities import Param, RunTag

        params = [Param(key, text) for key, text in notes.params.items() if key not in known]
        texts = [RunTag(key, value) for key, value in tags.items()]
        for start in range(0, max(len(params), 1), _PARAMS_PER_CALL):
            client.log_batch(self.run_id, params=params[start : start + _PARAMS_PER_CALL], tags=texts)
        if changed := sorted(key for key, text in notes.params.items() if known.get(key, text) != text):
            _logger.warning("resumed with other values of %s: MLflow keeps the first", changed)

    def _send_course(self, client: MlflowClient) -> None:
        """Send the steps that the run lacks; a resumed training repeats those since its checkpoint."""
        from mlflow.entities import Metric

        rows, news, last = self.run.course(), [], dict(self._last)
        if unknown := {name for row in rows for name in row.metrics} - last.keys():
            there = client.get_run(self.run_id).data.metrics
            for name in unknown:
                points = client.get_metric_history(self.run_id, name) if name in there else []
                last[name] = max((point.step for point in points), default=-1)
        for row in rows:
            fresh = {name: value for name, value in row.metrics.items() if row.step > last[name]}
            news += [Metric(name, value, row.time, row.step) for name, value in fresh.items()]
            last |= dict.fromkeys(fresh, row.step)
        self._send_metrics(client, news)
        self._last = last

    def _send_results(self, client: MlflowClient, notes: RunNotes) -> None:
        from mlflow.entities import Metric

        there, news = client.get_run(self.run_id).data.metrics, []
        for name, (value, told) in notes.results.items():
            points = client.get_metric_history(self.run_id, name) if name in there else []
            if (0, told) not in {(point.step, point.timestamp) for point in points}:
                news.append(Metric(name, value, told, 0))
        self._send_metrics(client, news)

    def _send_metrics(self, client: MlflowClient, metrics: Sequence[Metric]) -> None:
        for start in range(0, len(metrics), _METRICS_PER_CALL):
            with self._moving("metrics"):
                client.log_batch(self.run_id, metrics=metrics[start : start + _METRICS_PER_CALL])

    def _send_inputs(self, client: MlflowClient, notes: RunNotes) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        for told in notes.datasets:
            tags = [InputTag("mlflow.data.context", told["context"])]
            with self._moving("the dataset"):
                client.log_inputs(self.run_id, [DatasetInput(Dataset(**told["dataset"]), tags)])

    def _send_files(self, client: MlflowClient, notes: RunNotes) -> None:
        for name, folder in notes.artifacts:
            path = self.run.folder / name
            if not path.is_file():
                _logger.warning("%s: is gone, MLflow does not get it", path)
                continue
            with self._moving(name, path):
                client.log_artifact(self.run_id, str(path), folder or None)
        graph = self.run.own / "model"
        if notes.model and graph.is_dir():
            with self._moving("the model", *filter(Path.is_file, graph.rglob("*"))):
                log_model(client, self.experiment_id, self.run_id, graph, notes.model, KEY_TAG, notes.key)

    def _register(self, client: MlflowClient, notes: RunNotes) -> None:
        for told in notes.versions:
            try:
                with self._moving("a version"):
                    register_version(client, self.experiment_id, told, KEY_TAG)
            except TrainingNotThereError as error:
                if self._is_waiting(told["training"]):
                    raise TrainingAwaitedError(f"{error} yet") from error
                _logger.warning("MLflow cannot register a version: %s", error)

    def _is_waiting(self, training: str) -> bool:
        """Tell whether a training has still to be told to MLflow."""
        runs = [run.notes() for run in run_folders(self.places.home) if not run.is_sent()]
        return any(notes is not None and notes.key == training for notes in runs)

    @contextlib.contextmanager
    def _moving(self, what: str, *files: Path) -> Iterator[None]:
        """Keep account of what is moving; what the store refuses for good is left out with a warning."""
        from mlflow.exceptions import MlflowException

        self.bytes_moving = sum(file.stat().st_size for file in files)
        try:
            yield
        except MlflowException as error:
            if error.error_code not in _REFUSED_FOR_GOOD:
                raise
            _logger.warning("MLflow refuses %s of %s: %s", what, self.run.folder, error)
        finally:
            self.bytes_moving, self.moved = 0, time.monotonic()


@contextlib.contextmanager
def _store(uri: str) -> Iterator[None]:
    """Ask a store for a sign of life, and turn what it raises when it is away into one error with one line."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        require_answer(uri)
        yield
    except FileNotFoundError:  # of the folder
        raise
    except (MlflowException, SQLAlchemyError, OSError) as error:
        reason = (str(error).splitlines() or [""])[0][:120]
        raise StoreAwayError(f"is not available ({shown(reason)})") from error
