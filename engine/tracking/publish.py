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
        every: Also those that another store has, or that the store has lost; else those that none has.
        stop: Asked before each folder.

    Returns:
        How many runs were sent. It stops, with a warning, at the first sign that the store is away.
    """
    sent = 0
    try:
        for run in _lacking(places, every):
            if stop():
                break
            with contextlib.suppress(TrainingAwaitedError, FileNotFoundError):  # put in place, or deleted, meanwhile
                sent += bool(publish(run.folder, places))
    except StoreAwayError as error:
        _logger.warning("MLflow at %s %s; what it lacks stays in the workspace", shown(places.uri), error)
    return sent


def waiting_runs(places: TrackingPlaces) -> int:
    """Count the runs of a workspace that MLflow lacks."""
    return sum(not run.is_sent() for run in run_folders(places.home))


def _lacking(places: TrackingPlaces, every: bool) -> list[RunFolder]:
    """Return the folders whose runs are to be published."""
    runs = run_folders(places.home)
    there = _run_ids(places) if every and runs else frozenset()
    return [
        run
        for run in runs
        if not run.is_sent() or (every and (sent := run.sent()) is not None and sent.run_id not in there)
    ]


def _run_ids(places: TrackingPlaces) -> frozenset[str]:
    """Return the ids of all runs in the store, deleted ones too: those were deleted on purpose."""
    from mlflow.entities import ViewType

    found, token = [], None
    with _store_errors():
        require_answer(places.uri)
        client = connect(places.uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        while experiment is not None:
            page = client.search_runs([experiment.experiment_id], "", ViewType.ALL, page_token=token)
            found += [run.info.run_id for run in page]
            if not (token := page.token):
                break
    return frozenset(found)


class Publisher:
    """Publishes one folder, once or step by step; holds the client and, once known, the run's id."""

    def __init__(self, run: RunFolder, places: TrackingPlaces) -> None:
        self.run, self.places = run, places
        self.run_id = ""
        self.experiment_id = ""
        self.moved = time.monotonic()  # when the store last took something
        self.bytes_moving = 0  # of the file that is being sent just now
        self.refused: list[str] = []
        self._client: MlflowClient | None = None
        self._last: dict[str, int] = {}
        self._is_new = self._is_found = self._is_running = False

    def course(self) -> None:
        """Bring the run to where it is while it goes on."""
        notes = self._notes()
        with self._told():
            self._find(notes)
            if not self._is_running:
                self.client.update_run(self.run_id, status="RUNNING")
                self._is_running = True
            self._send_course()

    def whole(self) -> None:
        """Bring the run to all that its folder says; one without an end was killed."""
        notes, digest = self._notes(), self.run.digest()
        with self._told():
            self._find(notes)
            self._send_course()
            self._results(notes)
            self._datasets(notes)
            self._artifacts(notes)
            self._model(notes)
            self._versions(notes)
            self.client.set_terminated(self.run_id, notes.status or "KILLED", notes.end_time)
        self.run.note_sent(Sent(shown(self.places.uri), self.run_id, digest, tuple(self.refused)))

    @property
    def client(self) -> MlflowClient:
        """The client, which opens the store."""
        if self._client is None:
            self._client = connect(self.places.uri)
        return self._client

    def _notes(self) -> RunNotes:
        notes = self.run.notes()
        if notes is None:
            raise FileNotFoundError(self.run.own / "run.json")
        return notes

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Look for the run again after an error: the store may be another one. One that hangs costs a second."""
        try:
            with _store_errors():
                require_answer(self.places.uri)
                yield
        except StoreAwayError:
            self._is_found = False
            raise

    def _find(self, notes: RunNotes) -> None:
        """Find the run by its key, or create it; bring its tags and parameters to what is said."""
        if self._is_found:
            return
        self.experiment_id = experiment_id(self.client, EXPERIMENT, self.places.artifact_root)
        self.places.spool.mkdir(parents=True, exist_ok=True)
        with FileLock(self.places.spool / "new_runs.lock", timeout=_LOCK_TIMEOUT_S):
            tags = {**notes.tags, KEY_TAG: notes.key, **self._parent_tag(notes)}
            found = self._run_of(notes.key)
            self._is_new = found is None
            if found is None:
                found = self.client.create_run(self.experiment_id, notes.start_time, tags, notes.name)
        self.run_id, self._is_running = found.info.run_id, found.info.status == "RUNNING"
        self._last = {}
        self._tags_and_params(tags, notes, found)
        self._is_found = True
        self._note_progress()

    def _run_of(self, key: str) -> Run | None:
        found = self.client.search_runs([self.experiment_id], f"tags.{KEY_TAG} = '{key}'", max_results=1)
        return found[0] if found else None

    def _parent_tag(self, notes: RunNotes) -> dict[str, str]:
        """Return the tag that shows a run under another, making that one where it is not there yet."""
        if not notes.parent:
            return {}
        key, name, stage = (notes.parent[part] for part in ("key", "name", "stage"))
        parent = self._run_of(key)
        if parent is None:
            own = {tag: notes.tags[tag] for tag in _OF_A_NIGHT if tag in notes.tags} | {"stage": stage, KEY_TAG: key}
            if stage == "night":
                self._close_unfinished_nights(notes)
            parent = self.client.create_run(self.experiment_id, notes.start_time, own, name)
        return {"mlflow.parentRunId": parent.info.run_id}

    def _close_unfinished_nights(self, notes: RunNotes) -> None:
        """End earlier nights whose runs failed before the end of the graph, which alone ends a night."""
        of_kind = [f"tags.{name} = '{notes.tags[name]}'" for name in ("source", "profile") if name in notes.tags]
        earlier = f"attributes.start_time < {notes.start_time}"  # a night may be told of during a later one
        query = " and ".join(["tags.stage = 'night'", "attributes.status = 'RUNNING'", earlier, *of_kind])
        for run in self.client.search_runs([self.experiment_id], query):
            self.client.set_terminated(run.info.run_id, "KILLED")

    def _tags_and_params(self, tags: dict[str, str], notes: RunNotes, found: Run) -> None:
        from mlflow.entities import Param, RunTag

        known = found.data.params
        params = [Param(key, text) for key, text in notes.params.items() if key not in known]
        texts = [RunTag(key, value) for key, value in tags.items()]
        for start in range(0, max(len(params), 1), _PARAMS_PER_CALL):
            self.client.log_batch(self.run_id, params=params[start : start + _PARAMS_PER_CALL], tags=texts)
        changed = {key for key, text in notes.params.items() if known.get(key, text) != text}
        if changed:
            _logger.warning("resumed with other values of %s: MLflow keeps the first", sorted(changed))

    def _send_course(self) -> None:
        """Send the steps that the run lacks; a resumed training repeats those since its checkpoint."""
        from mlflow.entities import Metric

        rows = self.run.course()
        last = {name: self._last_step(name) for row in rows for name in row.metrics}
        news, seen = [], dict(last)
        for row in rows:
            for name, value in row.metrics.items():
                if row.step > seen[name]:
                    seen[name] = row.step
                    news.append(Metric(name, value, row.time, row.step))
        self._send_metrics(news)
        self._last |= seen

    def _last_step(self, name: str) -> int:
        if name not in self._last:
            history = [] if self._is_new else self.client.get_metric_history(self.run_id, name)
            self._last[name] = max((point.step for point in history), default=-1)
        return self._last[name]

    def _results(self, notes: RunNotes) -> None:
        from mlflow.entities import Metric

        there = self.client.get_run(self.run_id).data.metrics
        news = []
        for name, (value, told) in notes.results.items():
            points = self.client.get_metric_history(self.run_id, name) if name in there else []
            if not any(point.step == 0 and point.timestamp == told for point in points):
                news.append(Metric(name, value, told, 0))
        self._send_metrics(news)

    def _send_metrics(self, metrics: Sequence[Metric]) -> None:
        for start in range(0, len(metrics), _METRICS_PER_CALL):
            batch = metrics[start : start + _METRICS_PER_CALL]
            if self._refusal(batch):  # of one of them
                for metric in batch:
                    if reason := self._refusal([metric]):
                        self._note_refusal(f"metric {metric.key}", reason)

    def _refusal(self, metrics: Sequence[Metric]) -> str:
        """Send metrics; return why the store refuses them for good, nothing where it took them."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.log_batch(self.run_id, metrics=metrics)
        except MlflowException as error:
            if error.error_code not in _REFUSED_FOR_GOOD:
                raise
            return str(error)
        self._note_progress()
        return ""

    def _note_refusal(self, what: str, reason: str) -> None:
        refusal = f"{what}: {reason}"
        if refusal not in self.refused:
            _logger.warning("MLflow refuses %s", refusal)
            self.refused.append(refusal)

    def _note_progress(self) -> None:
        self.moved = time.monotonic()

    def _datasets(self, notes: RunNotes) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        for told in notes.datasets:
            tags = [InputTag("mlflow.data.context", told["context"])]
            self.client.log_inputs(self.run_id, [DatasetInput(Dataset(**told["dataset"]), tags)])

    def _artifacts(self, notes: RunNotes) -> None:
        for name, folder in notes.artifacts:
            path = self.run.folder / name
            if not path.is_file():
                self._note_refusal(f"file {name}", "it is gone")
                continue
            with self._moving(path):
                self.client.log_artifact(self.run_id, str(path), folder or None)

    def _model(self, notes: RunNotes) -> None:
        graph = self.run.own / "model"
        if notes.model and graph.is_dir():
            with self._moving(graph):
                log_model(self.client, self.experiment_id, self.run_id, graph, notes.model, KEY_TAG, notes.key)

    def _versions(self, notes: RunNotes) -> None:
        for told in notes.versions:
            try:
                register_version(self.client, self.experiment_id, told, KEY_TAG)
            except TrainingNotThereError as error:
                if self._is_waiting(told["training"]):
                    raise TrainingAwaitedError(f"{error} yet") from error
                self._note_refusal("a version", str(error))

    def _is_waiting(self, training: str) -> bool:
        """Tell whether a training has still to be told to MLflow."""
        runs = (run for run in run_folders(self.places.home) if not run.is_sent())
        return any(notes.key == training for run in runs if (notes := run.notes()) is not None)

    @contextlib.contextmanager
    def _moving(self, path: Path) -> Iterator[None]:
        files = path.rglob("*") if path.is_dir() else [path]
        self.bytes_moving = sum(file.stat().st_size for file in files if file.is_file())
        try:
            yield
        finally:
            self.bytes_moving = 0
            self._note_progress()


@contextlib.contextmanager
def _store_errors() -> Iterator[None]:
    """Turn what a store that is away raises into one error with one line."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except FileNotFoundError:
        raise
    except (MlflowException, SQLAlchemyError, OSError) as error:
        reason = (str(error).splitlines() or [""])[0][:120]
        raise StoreAwayError(f"is not available ({shown(reason)})") from error
