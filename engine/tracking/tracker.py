"""The tracker: what a training, an evaluation or a comparison tells MLflow, and never waits for.

Every call writes to the spool and returns; a thread sends it (`engine.tracking.sender`). So a tracking
server that is down, slow or restarted costs a run nothing, and what it could not be told is sent by the next
run or by `scarforge track replay`. MLflow is imported inside functions: it costs 2.8 s.

What the machine is doing while a network trains, under the names that MLflow's system page shows.

A trained network as an MLflow model on disk: an exported graph, which holds no pickled code.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from engine.tracking.delivery import KEY_TAG
from engine.tracking.sender import Sender, replay
from engine.tracking.spool import Event, RunSpool, pending_events
from engine.tracking.store import EXPERIMENT, prepare_store, quieten, shown, tracking_places

if TYPE_CHECKING:
    import pandas as pd
    from numpy import float32
    from numpy.typing import NDArray


_PREFIX = "system/"


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


_CARRIED = ("config.json", "model_card.json")  # the weights are in the graph


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


__all__ = ["EXPERIMENT", "Tracker", "pending_events", "prepare_store", "replay", "tracking_places"]

_PARAM_LENGTH = 6000  # MLflow's limit
_logger = logging.getLogger("scarforge.tracking")


class Tracker:
    """One MLflow run, found by its tag `scarforge_key` and never by a carried handle.

    As a context manager it ends the run: `FINISHED`, `FAILED` on an exception, `KILLED` on an interruption.
    No method raises because of the store or a full disk: it warns, and the training goes on.
    """

    def __init__(self, run: RunSpool, uri: str, spool: Path) -> None:
        self._run, self._uri = run, uri
        self._sender = Sender(run, uri, spool)
        self._sampler = SystemSampler()
        self._ended = False

    @classmethod
    def of(cls, tracking: Mapping[str, Any]) -> Tracker:
        """Start, or continue, the run that `Forge.tracking` or a training task describes; see `start`."""
        return cls.start(
            uri=tracking["uri"],
            experiment=tracking["experiment"],
            name=tracking["name"],
            tags=tracking["tags"],
            params=tracking["params"],
            spool=Path(tracking["spool"]),
            artifact_root=Path(tracking["artifact_root"]),
        )

    @classmethod
    def start(
        cls,
        uri: str,
        experiment: str,
        name: str,
        tags: Mapping[str, str],
        params: Mapping[str, Any],
        spool: Path,
        artifact_root: Path | None = None,
    ) -> Tracker:
        """Start a run, or continue the run with the same tag `scarforge_key`, as a resumed training does.

        Args:
            uri: Tracking URI.
            experiment: Name of the experiment; created when it does not exist.
            name: Name of the run, for people.
            tags: What it can be found by; without `scarforge_key` the run is a new one.
            params: The resolved configuration; nested mappings become `section.name`.
            spool: Folder where unsent events wait; one for all runs of a workspace.
            artifact_root: Where a new experiment keeps files, for SQLite; a server knows its own place.

        Returns:
            The tracker, after at most five seconds; `run_id` is known if the store could be reached by then.
        """
        _load_mlflow()
        header: dict[str, Any] = {
            "name": name,
            "experiment": experiment,
            "tags": {key: str(value) for key, value in {KEY_TAG: uuid.uuid4().hex, **tags}.items()},
            "params": _flat(params),
            "start_time": int(time.time() * 1000),
            "artifact_root": _from_workspace(artifact_root, spool) if artifact_root else None,
        }
        spool = spool.absolute()
        key = header["tags"][KEY_TAG].replace("'", "")  # MLflow's filters cannot hold a quote
        header["tags"][KEY_TAG] = key
        run = RunSpool.of_key(spool, key)
        _without_disk_faults(lambda: run.open(header, {"kind": "open"}))
        tracker = cls(run, uri, spool)
        tracker._sender.wait_for_run()
        return tracker

    @property
    def run_id(self) -> str | None:
        """The run's id in MLflow, or None while the store has not been reached."""
        return self._sender.run_id

    def url(self) -> str | None:
        """Give the run's page on the server, or None for a file or while the run is not there yet."""
        if self.run_id is None or not self._uri.startswith("http"):
            return None
        return f"{shown(self._uri).rstrip('/')}/#/experiments/{self._sender.experiment_id}/runs/{self.run_id}"

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log metrics of one step, and what the machine was doing; call it once an epoch.

        A resumed training may repeat steps that were logged already: those are left as they are.
        """
        self._tell("metrics", step=int(step), values=_numbers({**values, **self._sampler.sample()}))

    def final(self, values: Mapping[str, float]) -> None:
        """Log results without a step, such as `dice/positive/infarct`, which runs are compared by."""
        self._tell("metrics", step=0, values=_numbers(values), final=True)

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
        self._tell(
            "dataset",
            context=context,
            dataset={
                "name": name,
                "digest": digest[:36],  # MLflow's limit
                "source_type": "local",
                "source": json.dumps({"uri": source}),
                "schema": json.dumps({"mlflow_colspec": columns}),
                "profile": json.dumps({"num_rows": len(rows), "digest": digest}),
            },
        )

    def artifact(self, path: Path, folder: str = "") -> None:
        """Log a file or a folder as it is now; later changes to it do not matter.

        Args:
            path: File or folder; `checkpoint/` folders are left out.
            folder: Where it goes among the run's artifacts.
        """
        self._tell("artifact", path=self._copied(path), folder=folder)

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

        place = f"files/{uuid.uuid4().hex[:12]}/model"
        try:
            save_mlflow_model(self._run.folder / place, folder, module_factory, example)
        except (MlflowException, RuntimeError, ValueError, TypeError, AssertionError, OSError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            _logger.warning("%s cannot be exported for MLflow (%s); logging its folder instead", name, reason)
            self.artifact(folder)
            return
        self._tell("model", path=place, name=name, params={"folder": str(folder.absolute())})

    def version(self, name: str, training: str, aliases: Sequence[str], tags: Mapping[str, str], **texts: str) -> None:
        """Put the model of a finished training into the model registry, or bring its version up to date.

        Args:
            name: Of the registered model.
            training: The `scarforge_key` of the training.
            aliases: That are to point at this version, such as `candidate`.
            tags: Of the version.
            **texts: `about` the registered model, `description` of the version.
        """
        plain = {key: str(value) for key, value in tags.items()}
        self._tell("version", name=name, training=training, aliases=list(aliases), tags=plain, **texts)

    def end(self, status: str = "FINISHED") -> None:
        """End the run and wait for what is on its way: some seconds, longer only while a large file moves."""
        if self._ended:
            return
        self._ended = True
        self._tell("end", status=status)
        sent = self._sender.close()
        self._run.release()
        if not sent:
            _logger.warning("run kept in %s; the next run or `scarforge track replay` sends it", self._run.folder)

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

    def _tell(self, kind: str, **content: Any) -> None:
        event: Event = {"kind": kind, **content}
        _without_disk_faults(lambda: self._run.append(event))
        self._sender.notify()

    def _copied(self, path: Path) -> str:
        place: list[str] = []
        _without_disk_faults(lambda: place.append(self._run.copy(path)))
        return place[0] if place else str(path.absolute())


def _load_mlflow() -> None:
    """Import MLflow here, so that the sending thread and the training do not import at the same time."""
    quieten()
    import mlflow  # noqa: F401


def _from_workspace(artifact_root: Path, spool: Path) -> str:
    """Return where files lie, seen from the workspace where they lie beside the spool, so that both may be moved."""
    root = artifact_root.absolute()
    return root.name if root.parent == spool.absolute().parent else str(root)


def _numbers(values: Mapping[str, float]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items()}


def _without_disk_faults(write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:  # a full disk, or a lock that is held for too long
        _logger.warning("a tracking event is lost: %s", error)


def _flat(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten a nested configuration to `section.name: text`, as MLflow's parameters need it."""
    flat: dict[str, str] = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = str(value)[:_PARAM_LENGTH]
    return flat
