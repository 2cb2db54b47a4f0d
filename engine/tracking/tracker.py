"""The tracker: what a training, an evaluation, a comparison or a night tells MLflow, and never waits for.

Every call writes into the run's folder and returns; a thread copies that to MLflow (`engine.tracking.publish`). So a
tracking server that is down, slow or restarted costs a run nothing, and what it could not be told is sent by the next
run or by `scarforge track replay`. MLflow is imported inside functions: it costs 2.8 s.

What the machine is doing while a network trains, under the names that MLflow's system page shows.

What a night's own run holds: the same figures under the same names every night.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from common.errors import InputError
from engine.run_tags import PARENT_KEY_TAG, RunIdentity, night_name, night_tags
from engine.tracking.publish import Publisher, StoreAwayError, replay
from engine.tracking.registered_models import save_mlflow_model
from engine.tracking.run_folder import RunFolder, RunNotes, drop_when_told, metric_name, spool_folder
from engine.tracking.store import quieten, shown, tracking_places

if TYPE_CHECKING:
    import dagster as dg
    import pandas as pd
    from numpy import float32
    from numpy.typing import NDArray

    from engine.forge import Forge
    from segmentation.model_kind import ModelKind


_PREFIX = "system/"
_PARAM_LENGTH = 6000  # MLflow's limit
_OF_A_MODEL = ("weights.safetensors", "config.json", "model_card.json")
_PATIENCE_S = 5.0  # how long the end of a run waits without any progress
_BYTES_A_SECOND = 2e6  # a file may take this much longer, such as a large model on its way to a server
_LONGEST_WAIT_S = 300.0
_logger = logging.getLogger("scarforge.tracking")


class SystemSampler:
    """Samples processor, memory and, where there is one, GPU; one sample a call.

    It uses MLflow's monitors without their thread and client, so that the values take the same safe way as
    the others.
    """

    def __init__(self) -> None:
        import psutil

        self._process = psutil.Process()
        self._monitors = _monitors()
        psutil.cpu_percent()  # the first call has nothing to compare with

    def sample(self) -> dict[str, float]:
        """Give the present values, such as `system/cpu_utilization_percentage`."""
        values = {f"{_PREFIX}process_memory_megabytes": self._process.memory_info().rss / 1e6}
        for monitor in self._monitors:
            monitor.collect_metrics()
            values.update({_PREFIX + name: value for name, value in monitor.aggregate_metrics().items()})
            monitor.clear_metrics()
        return values


def _monitors() -> list[Any]:
    from mlflow.system_metrics.metrics import cpu_monitor, gpu_monitor

    cpu_class: Any = cpu_monitor.CPUMonitor  # untyped
    gpu_class: Any = gpu_monitor.GPUMonitor
    try:
        return [cpu_class(), gpu_class()]
    except (ImportError, RuntimeError):  # no nvidia-ml-py, or no GPU
        return [cpu_class()]


class Live:
    """The thread that keeps MLflow up with a run's folder, and publishes it whole at the end."""

    def __init__(self, publisher: Publisher) -> None:
        self.publisher = publisher
        self._news, self._closing, self._done = threading.Event(), threading.Event(), threading.Event()
        self._is_away = False
        self._news.set()
        threading.Thread(target=self._work, name="mlflow", daemon=True).start()

    def notify(self) -> None:
        """Say that there is something new in the folder."""
        self._news.set()

    def close(self) -> bool:
        """Publish the folder and wait for that as long as it moves; give whether MLflow has all of it."""
        self.publisher.moved = time.monotonic()
        self._closing.set()
        self._news.set()
        give_up = time.monotonic() + _LONGEST_WAIT_S
        while not self._done.wait(0.05):
            patience_s = _PATIENCE_S + self.publisher.bytes_moving / _BYTES_A_SECOND
            if time.monotonic() > min(give_up, self.publisher.moved + patience_s):
                return False
        return not self._is_away

    def _work(self) -> None:
        try:
            with self.publisher.run.owned():
                self._follow()
        finally:  # only now can another process, or the caller of `close`, tell of this run
            self._done.set()

    def _follow(self) -> None:
        older = True
        while True:
            self._news.wait()
            self._news.clear()
            if self._closing.is_set():
                self._publish(self.publisher.whole)
                return
            self._publish(self.publisher.course)
            if older and not self._is_away:
                replay(self.publisher.places, every=False, stop=self._news.is_set)
                older = self._news.is_set()

    def _publish(self, tell: Callable[[], None]) -> None:
        uri, folder = shown(self.publisher.places.uri), self.publisher.run.folder
        was_away, self._is_away = self._is_away, True
        try:
            tell()
            self._is_away = False
            if was_away:
                _logger.warning("MLflow at %s is back", uri)
        except StoreAwayError as error:
            if not was_away:
                _logger.warning("MLflow at %s %s; %s has what it lacks", uri, error, folder)
        except (OSError, InputError) as error:  # the folder was moved or deleted, or its disk fails or is full
            _logger.warning("what MLflow is to be told of %s cannot be read or noted: %s", folder, error)


class Tracker:
    """One run, told into its folder and found in MLflow by its key, never by a carried handle.

    As a context manager it ends the run: `FINISHED`, `FAILED` on an exception, `KILLED` on an interruption.
    No method raises because of the store or a full disk: it warns, and the training goes on.
    """

    def __init__(self, run: RunFolder, notes: RunNotes, publisher: Publisher) -> None:
        self._run, self._notes = run, notes
        self._sampler = SystemSampler()
        self._publisher, self._live = publisher, Live(publisher)
        self._ended = False

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Tracker:
        """Start, or continue, the run that `engine.forge.told` describes.

        A folder in which the same run was told of before, as a resumed training's, is continued.
        """
        _load_mlflow()
        places = tracking_places(Path(told["home"]), {"MLFLOW_TRACKING_URI": told["uri"]})
        key = told["key"].replace("'", "")  # MLflow's filters cannot hold a quote
        folder = Path(told["folder"]) if told["folder"] else spool_folder(places.spool, key)
        run = RunFolder(folder.absolute())
        before = run.notes()
        notes = RunNotes(
            key=key,
            name=told["name"],
            tags={name: str(value) for name, value in told["tags"].items()},
            params={name: str(value)[:_PARAM_LENGTH] for name, value in told["params"].items()},
            parent=dict(told["parent"]),
            start_time=_now(),
        )
        if before is not None and before.key == key:
            notes.start_time, notes.results = before.start_time, before.results
        _without_disk_faults(lambda: run.write(notes))
        return cls(run, notes, Publisher(run, places))

    @property
    def run_id(self) -> str:
        """The run's id in MLflow, empty while the store has not been reached."""
        return self._publisher.run_id

    def progress(self, step: int) -> None:
        """Say that `history.csv` holds one step more, and note what the machine was doing; call it once an epoch.

        A resumed training may repeat steps that MLflow has already: those are left as they are.
        """
        _without_disk_faults(lambda: self._run.note_system(step, self._sampler.sample()))
        self._live.notify()

    def final(self, values: Mapping[str, float]) -> None:
        """Log results without a step, such as `dice/positive/infarct`, which runs are compared by."""
        known = self._notes.results
        fresh = {metric_name(name): (float(value), _now()) for name, value in values.items()}
        known |= {name: told for name, told in fresh.items() if name not in known or known[name][0] != told[0]}
        self._write()

    def dataset(self, name: str, digest: str, source: str, context: str, rows: pd.DataFrame) -> None:
        """Log what the run reads as an MLflow dataset.

        Args:
            name: Such as `training_set_real_only`.
            digest: The store's digest.
            source: Path of the store.
            context: `training`, `validation` or `test`.
            rows: One row a slice or patient; only its columns and its length are kept, never an image.
        """
        types = {"i": "long", "u": "long", "f": "double", "b": "boolean"}
        columns = [
            {"type": types.get(kind.kind, "string"), "name": str(name), "required": True}
            for name, kind in rows.dtypes.items()
        ]
        told = {
            "name": name,
            "digest": digest[:36],  # MLflow's limit
            "source_type": "local",
            "source": json.dumps({"uri": source}),
            "schema": json.dumps({"mlflow_colspec": columns}),
            "profile": json.dumps({"num_rows": len(rows), "digest": digest}),
        }
        self._notes.datasets.append({"context": context, "dataset": told})
        self._write()

    def artifact(self, path: Path, folder: str = "") -> None:
        """Log a file, which is uploaded at the end of the run.

        Args:
            path: In the run's folder; one that lies elsewhere is copied as it is now.
            folder: Where it goes among the run's artifacts.
        """
        place: list[str] = []
        _without_disk_faults(lambda: place.append(self._run.copied(path)))
        self._notes.artifacts += [(name, folder) for name in place]
        self._write()

    def model(self, folder: Path, module_factory: Callable[[], Any], example: NDArray[float32], name: str) -> None:
        """Log a trained network as an MLflow model that can be loaded without this project.

        Args:
            folder: Our model folder; its configuration and card go along.
            module_factory: Gives the network on the CPU in `eval()`.
            example: Input of shape (2, 1, H, W); the batch stays free, H and W do not.
            name: Name of the model.

        A network that cannot be exported is logged as its plain model folder instead, with a warning.
        """
        from mlflow.exceptions import MlflowException

        graph = self._run.own / "model"
        shutil.rmtree(graph, ignore_errors=True)
        try:
            save_mlflow_model(graph, folder, module_factory, example)
        except (MlflowException, RuntimeError, ValueError, TypeError, AssertionError, OSError) as error:
            shutil.rmtree(graph, ignore_errors=True)
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            _logger.warning("%s cannot be exported for MLflow (%s); logging its folder instead", name, reason)
            for file in filter(Path.is_file, (folder / each for each in _OF_A_MODEL)):
                self.artifact(file, "model")
            return
        self._notes.model = name
        self._write()

    def version(self, name: str, training: str, aliases: Sequence[str], tags: Mapping[str, str], **texts: str) -> None:
        """Put the model of a finished training into the model registry, or bring its version up to date.

        Args:
            name: Of the registered model.
            training: The key of the training.
            aliases: That are to point at this version, such as `candidate`.
            tags: Of the version.
            **texts: `about` the registered model, `description` of the version.
        """
        plain = {key: str(value) for key, value in tags.items()}
        told = {"name": name, "training": training, "aliases": list(aliases), "tags": plain, "time": _now(), **texts}
        self._notes.versions.append(told)
        self._write()

    def end(self, status: str = "FINISHED") -> None:
        """End the run and wait while MLflow takes it: some seconds, longer only while a large file moves."""
        if self._ended:
            return
        self._ended = True
        self._notes.status, self._notes.end_time = status, _now()
        self._write()
        if self._live.close():
            drop_when_told(self._run, self._publisher.places.spool)
            return
        folder = self._run.folder
        _logger.warning("MLflow lacks the run of %s; the next run or `scarforge track replay` sends it", folder)

    def __enter__(self) -> Tracker:
        """Give the tracker itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run with the status that the exception, if any, stands for."""
        if kind is None:
            self.end()
        else:  # interruptions, such as Dagster's, are no `Exception`
            self.end("FAILED" if issubclass(kind, Exception) else "KILLED")

    def _write(self) -> None:
        _without_disk_faults(lambda: self._run.write(self._notes))


def _load_mlflow() -> None:
    """Import MLflow here, so that the thread and the training do not import at the same time."""
    quieten()
    import mlflow  # noqa: F401


def _now() -> int:
    return int(time.time() * 1000)


def _without_disk_faults(write: Callable[[], None]) -> None:
    try:
        write()
    except (OSError, InputError) as error:  # a full disk
        _logger.warning("what MLflow should be told is lost: %s", error)


def track_night(context: dg.AssetExecutionContext, forge: Forge, figures: Mapping[str, float]) -> None:
    """Write the figures of one fold into the night's run and end it; nothing for a run that a person started.

    The figures are written whether or not anything was trained, so that any two nights can be compared.
    """
    tags = night_tags(context.run.tags, forge.source, forge.profile)
    if not tags:
        return
    key = tags.pop(PARENT_KEY_TAG)
    named = night_name({**tags, "source": forge.source, "profile": forge.profile})
    told = forge.told(RunIdentity("night", None, None, ""), named, tags | {"stage": "night"}, forge.manifest())
    # All folds share this run; each tells of it in a folder of its own.
    folder = spool_folder(forge.workspace.spool, "/".join([key, *sorted(figures)]))
    with Tracker.of(told | {"key": key, "folder": str(folder)}) as tracker:
        tracker.final({name: value for name, value in figures.items() if math.isfinite(value)})


def night_figures(forge: Forge, kinds: Sequence[ModelKind], fold: int) -> dict[str, float]:
    """Return the Dice of every model, the mean over seeds, as `fold_0/<model>/dice/<rule>/<tissue>`."""
    import pandas as pd

    figures: dict[str, float] = {}
    for kind in kinds:
        rows = [forge.finished(kind.scores, fold, seed).record.outcome.facts for seed in forge.settings().seeds]
        dice = [{key: fact.value for key, fact in facts.items() if key.startswith("dice/")} for facts in rows]
        means = pd.DataFrame(dice, dtype=float).mean()
        figures |= {f"fold_{fold}/{kind.name}/{key}": float(value) for key, value in means.items()}
    return figures
