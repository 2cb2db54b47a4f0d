"""The resource behind every asset: which source, which profile, where, and the cache around each build.

The fields of the resource `forge` as the environment sets them.
"""

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field, PrivateAttr

from common.config import FrozenConfig
from common.errors import InputError
from common.processes import end_with_starter
from common.progress import begin, finish, say
from engine.cluster.executor import executor_name
from engine.finished import Finished, Inputs
from engine.links import Links, noted_mlflow, run_page
from engine.locks import accelerator_lock
from engine.outcome import Outcome, check_results_of, metadata_of
from engine.record import (
    Elsewhere,
    Neighbours,
    Record,
    built_for,
    cache_key,
    is_finished,
    produce,
    read_record,
    versions_of,
)
from engine.remote import Remote
from engine.run_config import (
    ProfileName,
    SettingsChanges,
    SourceName,
    flatten,
    overrides_of,
)
from engine.run_tags import PARENT_KEY_TAG, RunIdentity, forced_attempt, night_name, night_tags, run_name
from engine.tracking.store import shown
from engine.transient import retried
from engine.workspace import Workspace, home_of
from segmentation.model_kind import model_kinds

if TYPE_CHECKING:
    from engine.settings import Settings


__version__ = version("scarforge")
UNPARTITIONED = frozenset({"studies", "patient_split", "comparison"})
# What a forced run makes again; what reads them follows where they differ.
TRAINED = frozenset({"lv_localiser", "pix2pix", *(kind.name for kind in model_kinds())})


Place = tuple[str, int | None, int | None]  # asset, fold, seed


class Forge(dg.ConfigurableResource):
    """What a run is about. In the UI these are fields; `SCARFORGE_SOURCE`, `_ROOT`, `_PROFILE` set their defaults."""

    source: SourceName = Field(
        default="phantom", description="Format of the studies; `scarforge sources` tells layouts."
    )
    root: str = Field(default="", description="Folder of the studies; the phantom needs none.")
    profile: ProfileName = Field(
        default="demo",
        description="demo: the phantom; quick: two CPU cores; best: LGE; paper: a GPU; tiny: to try the wiring.",
    )
    home: str = Field(default="", description="The workspace; empty: SCARFORGE_HOME, else ./workspace.")
    changes: SettingsChanges = Field(
        default=SettingsChanges(),
        description="Settings that differ from the profile's, such as {pix2pix: {steps: 5000}, training_slices: 6000}.",
    )
    overrides: list[str] = Field(default=[], description="The same as key=value, laid over the changes.")
    seeds: list[int] = Field(
        default=[], description="One segmenter is trained for each, in place of the profile's; empty: the profile's."
    )
    experiment: str = Field(
        default="", description="<experiment>/arms/<arm> where the assets are an arm's; empty: the graph's own."
    )
    _inputs: Inputs | None = PrivateAttr(None)  # of what is being built

    def settings(self) -> "Settings":
        """Return the resolved settings of this run."""
        from engine.settings import load_settings

        return load_settings(self.profile, self.all_overrides, self.seeds)

    @property
    def all_overrides(self) -> list[str]:
        """What is laid over the profile, as `key=value`."""
        return [*overrides_of(self.changes.model_dump(mode="json", exclude_none=True)), *self.overrides]

    @property
    def workspace(self) -> Workspace:
        """Return the folders of this source and profile."""
        home = Path(self.home).absolute() if self.home else home_of(os.environ)
        return Workspace(home, self.source, self.profile, self.experiment)

    @cached_property
    def remote(self) -> Remote | None:
        """Where finished folders lie besides the workspace (`SCARFORGE_REMOTE`), None where they lie nowhere else."""
        return Remote.of(self.workspace.home, os.environ)

    @cached_property
    def elsewhere(self) -> Elsewhere | None:
        """Where a result is looked for before it is built: an arm of an experiment shares what others have made."""
        return Neighbours(self.workspace.same_elsewhere, self.remote) if self.experiment else self.remote

    @property
    def experiment_tags(self) -> dict[str, str]:
        """The MLflow tags of an arm's runs, none outside experiments."""
        if not self.experiment:
            return {}
        experiment, _, arm = self.experiment.split("/")
        name, patients, _ = arm.rsplit("-", 2)
        return {"experiment": experiment, "arm": name, "patients": patients}

    def folder(self, asset: str, fold: int | None = None, seed: int | None = None) -> Path:
        """Return the folder of a finished asset, fetched first where another machine has published it."""
        place = self.workspace.place(asset, None if asset in UNPARTITIONED else fold, seed)
        if self.remote is not None:
            self.remote.refresh(place)
        return place

    def finished(self, asset: str, fold: int | None = None, seed: int | None = None) -> Finished:
        """Open the finished folder of an asset, whose files are compared with its record as they are read.

        While an asset is built, that is one of its inputs or stands behind one, and is compared with what that records.

        Raises:
            InputError: It has not been materialised, or is another than the inputs were made of; the message says so.
        """
        opened = Finished.open(self.folder(asset, fold, seed), asset)
        if self._inputs is not None:
            self._inputs.note(self.key(asset, fold, seed), opened.record)
        return opened

    def key(self, asset: str, fold: int | None = None, seed: int | None = None) -> str:
        """Return the name of an asset's place in the workspace: `real_slices/fold_0`."""
        place = self.workspace.place(asset, None if asset in UNPARTITIONED else fold, seed)
        return place.relative_to(self.workspace.root).as_posix()

    def record(self, asset: str, fold: int | None = None, seed: int | None = None) -> Record:
        """Return the record of a finished asset.

        Raises:
            InputError: It has not been materialised; the message says so.
        """
        return read_record(self.folder(asset, fold, seed), asset)

    def records(self, places: Iterable[Place]) -> dict[str, Record]:
        """Return the records of finished assets by their places, as `produce` takes them."""
        return {self.key(*place): self.record(*place) for place in places}

    def inputs(self, reader: str, nearest: Mapping[str, Record]) -> Inputs:
        """Return what an asset with these nearest inputs may read."""
        return Inputs(reader, nearest, self._present)

    def _present(self, key: str) -> Record | None:
        """Return the record of what lies in a place of this workspace; nothing is fetched only to be compared."""
        place = self.workspace.root / key
        if not is_finished(place):
            return None
        if self.remote is not None:
            self.remote.refresh(place)
        return read_record(place, key.partition("/")[0])

    def version(self, asset: str, fold: int | None, seed: int | None = None) -> str:
        """Return the data version of a finished asset.

        Raises:
            InputError: It has not been materialised; the message says so.
        """
        return self.record(asset, fold, seed).data_version

    def materialise(
        self,
        context: dg.AssetExecutionContext,
        build: Callable[[Path], Outcome],
        config: FrozenConfig | Mapping[str, Any] | None = None,
        extra_parents: Mapping[str, str] | None = None,
        inputs: Sequence[Place] | None = None,
    ) -> dg.MaterializeResult:
        """Build an asset, or return what an earlier run built from the same code, inputs and configuration.

        Args:
            context: Of the asset; its code version and dependencies go into the cache key.
            build: Fills the folder it is given and says what it did.
            config: Everything else that decides the result.
            extra_parents: Versions of what is read and no asset made.
            inputs: The nearest inputs, where these are not the dependencies in the same fold.
        """
        asset, fold = context.asset_key.to_user_string(), fold_of(context)
        nearest = self.nearest(context) if inputs is None else self.records(inputs)
        record, folder = self.produce(context, asset, fold, None, {**nearest, **(extra_parents or {})}, config, build)
        return dg.MaterializeResult(
            metadata=metadata_of(record.outcome, folder, self.links) | {"path": dg.MetadataValue.path(str(folder))},
            check_results=check_results_of(record.outcome),
            data_version=dg.DataVersion(record.data_version),
        )

    def nearest(self, context: dg.AssetExecutionContext) -> dict[str, Record]:
        """Return the records of the dependencies of the asset that is being built, by place."""
        fold = fold_of(context)
        names = sorted(key.to_user_string() for key in context.assets_def.asset_deps[context.asset_key])
        return self.records(place for name in names for place in self._places(name, fold))

    def _places(self, asset: str, fold: int | None) -> list[Place]:
        """Return where an asset lies: in one folder, or in one for each seed."""
        seeds = self.settings().seeds
        if is_finished(self.folder(asset, fold)) or not any(self.folder(asset, fold, seed).exists() for seed in seeds):
            return [(asset, fold, None)]
        return [(asset, fold, seed) for seed in seeds]

    def versions_behind(self) -> dict[str, str]:
        """Return the data version of every asset that what is being built may be made of."""
        found: dict[str, list[str]] = {}
        for place, told in (self._inputs.known if self._inputs else {}).items():
            found.setdefault(place.partition("/")[0], []).append(told)
        return {asset: "+".join(versions) for asset, versions in sorted(found.items())}

    def produce(
        self,
        context: dg.AssetExecutionContext,
        asset: str,
        fold: int | None,
        seed: int | None,
        parents: Mapping[str, Record | str],
        config: FrozenConfig | Mapping[str, Any] | None,
        build: Callable[[Path], Outcome],
    ) -> tuple[Record, Path]:
        """Build one folder of an asset through the cache, and say so on standard error.

        Args:
            context: Of the asset.
            asset: Its name.
            fold: Its fold.
            seed: Its seed, where it has one.
            parents: Records of its nearest inputs by place, and versions of what no asset made by any other name.
            config: Everything else that decides the result.
            build: Fills the folder it is given and says what it did.

        Raises:
            InputError: An input was made of another content than lies there; the message names what to make again.
        """
        inputs = self.inputs(asset, {place: one for place, one in parents.items() if isinstance(one, Record)})
        inputs.require_current()
        versions = versions_of(parents)
        plain = config.model_dump(mode="json") if isinstance(config, FrozenConfig) else dict(config or {})
        code_version = context.assets_def.code_versions_by_key[context.asset_key] or ""
        place = self.workspace.place(asset, fold, seed)
        self.workspace.mark()
        start = time.monotonic()
        made_of: dict[str, Any] = {"code_version": code_version, "parents": versions, "config": plain}
        key = cache_key(**made_of)
        attempt = _forced(context, key) if asset in TRAINED else ""
        if context.job_def.executor_def.name == dg.multiprocess_executor.name:
            end_with_starter()
        noted = self.noting(inputs, build)
        where = asset + (f", seed {seed}" if seed is not None else "")
        begin(where)
        with retried(context.retry_number):
            record, found = produce(
                place, asset, key, noted, attempt, self.elsewhere, made_of, lambda line: say(f"    {line}")
            )
        seconds = time.monotonic() - start
        say(f"  {'=' if found else '+'} {where:<46} {'unchanged' if found else f'{seconds:6.1f} s'}")
        finish("stages")
        return record, place

    def noting(self, inputs: Inputs, build: Callable[[Path], Outcome]) -> Callable[[Path], Outcome]:
        """Return `build`, noting in its outcome what it was made of."""

        def noting(folder: Path) -> Outcome:
            self._inputs = inputs
            try:
                return replace(build(folder), behind=dict(sorted(inputs.behind.items())))
            finally:
                self._inputs = None

        return noting

    def tracking_uri(self) -> str:
        """Return `MLFLOW_TRACKING_URI` where it is set, else the SQLite store of the workspace."""
        return os.environ.get("MLFLOW_TRACKING_URI") or self.workspace.tracking_uri

    def told(
        self,
        run: RunIdentity,
        name: str,
        tags: Mapping[str, str],
        params: Mapping[str, Any],
        folder: Path | None = None,
        parent: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Return what a tracker is told of any run before it begins, as plain values.

        Args:
            run: Which one it is.
            name: For people.
            tags: `stage`, `network`, `training_set` and what else it can be found by.
            params: The configuration.
            folder: Of the result; None for a run without an asset's folder.
            parent: `key`, `name` and `stage` of the run that it is shown under.
        """
        where = {"source": self.source}
        where |= {part: str(value) for part, value in (("fold", run.fold), ("seed", run.seed)) if value is not None}
        above = {} if parent is None else {PARENT_KEY_TAG: parent["key"]}
        kind = {part: tags[part] for part in ("stage", "network", "training_set") if part in tags}
        return {
            "uri": self.tracking_uri(),
            "home": str(self.workspace.home),
            "folder": "" if folder is None else str(folder),
            "key": run.key,
            "name": name,
            # A tag alone: profiles that agree in what an asset depends on share its run, and parameters never change.
            "tags": {**tags, **where, "profile": self.profile, **above, "asset": run.asset},
            "params": {**flatten(params), **kind, **where},
            "parent": dict(parent or {}),
            "dataset": f"{tags.get('training_set', 'data')} fold {run.fold}",
        }

    def tracking(
        self,
        context: dg.AssetExecutionContext,
        name: str,
        folder: Path,
        config: FrozenConfig | Mapping[str, Any],
        seed: int,
        **tags: str,
    ) -> dict[str, Any]:
        """Return what a tracker is told of the training or evaluation of an asset that is being built.

        Args:
            context: Of the asset.
            name: For people.
            folder: That is being built; a resumed training continues the run of the same asset and cache key.
            config: Logged as parameters.
            seed: Of the training.
            **tags: `stage`, `network`, `training_set`.
        """
        asset, key = built_for(folder)
        params = config.model_dump(mode="json") if isinstance(config, FrozenConfig) else config
        night = night_tags(context.run.tags, self.source, self.profile)
        own = {"source": self.source, "profile": self.profile}
        parent = {"key": night[PARENT_KEY_TAG], "name": night_name(night | own), "stage": "night"} if night else None
        told = {**tags, **self.experiment_tags, **night, "dagster_run_id": context.run.run_id}
        return self.told(RunIdentity(asset, fold_of(context), seed, key), name, told, params, folder, parent)

    def track_evaluation(
        self,
        context: dg.AssetExecutionContext,
        folder: Path,
        parts: Sequence[str],
        scores: Mapping[str, float],
        artifacts: Sequence[Path],
        seed: int = 0,
        **tags: str,
    ) -> str:
        """Record the evaluation that `folder` is built for as an MLflow run; return its id, empty if MLflow is away."""
        from engine.tracking.tracker import Tracker

        title = run_name(fold_of(context), seed, *parts)
        with Tracker.of(self.tracking(context, title, folder, {}, seed, **tags)) as tracker:
            tracker.final({key: value for key, value in scores.items() if math.isfinite(value)})
            for path in artifacts:
                tracker.artifact(path)
        return tracker.run_id

    @property
    def links(self) -> Links:
        """Where the links of Dagster's pages lead."""
        return Links.of(self.workspace.home, self.mlflow_server(), lambda: self.experiment_id)

    @cached_property
    def experiment_id(self) -> str:
        """The id of the experiment in MLflow, empty while the store cannot be reached."""
        from engine.tracking.store import EXPERIMENT, find_experiment

        return find_experiment(self.tracking_uri(), EXPERIMENT) or ""

    def run_url(self, run_id: str) -> str:
        """Return the address of a run on the MLflow server."""
        return f"{self.mlflow_server()}/#/{run_page(run_id, self.experiment_id)}"

    def mlflow_server(self) -> str:
        """Return the address at which browsers find MLflow, for links.

        That is `SCARFORGE_MLFLOW_URL`; where it is not set, the tracking server, or where `scarforge ui` serves it.
        """
        uri = os.environ.get("SCARFORGE_MLFLOW_URL") or self.tracking_uri()
        return shown(uri).rstrip("/") if uri.startswith("http") else noted_mlflow(self.workspace.home)

    def accelerator_lock(self) -> str:
        """Return the lock file that keeps two trainings from sharing an accelerator, empty where they may."""
        return accelerator_lock(self.workspace.locks)

    def training_lock(self, folder: Path) -> str:
        """Return the lock file of a training into `folder`: the accelerator's, where this machine's steps share one.

        Ray and Kubernetes give each step an accelerator of its own. The lock then only keeps two processes from
        training into one folder, such as a step on a machine that was lost and the one that replaces it.
        """
        shared = self.accelerator_lock()
        if not shared or executor_name(os.environ) == "multiprocess":
            return shared
        parts = folder.absolute().relative_to(self.workspace.root).parts
        return str(self.workspace.locks / ("_".join(parts) + ".lock"))

    def manifest(self) -> dict[str, str]:
        """Return what score tables must share before they may be compared."""
        return {
            "source": self.source,
            "profile": self.profile,
            "settings": self.settings().digest,
            "studies": self.version("studies", None),
            "patient_split": self.version("patient_split", None),
            "code_version": __version__,
        }


def _forced(context: dg.AssetExecutionContext, key: str) -> str:
    return forced_attempt(context.run.tags, context.run.root_run_id or context.run.run_id, key)


def fold_of(context: dg.AssetExecutionContext) -> int | None:
    """Return the fold of a partitioned asset, None for `studies`, `patient_split` and `comparison`."""
    if context.asset_key.to_user_string() in UNPARTITIONED:
        return None
    return int(context.partition_key)


def require_fold(context: dg.AssetExecutionContext) -> int:
    """Return the fold of a partitioned asset."""
    fold = fold_of(context)
    if fold is None:
        raise InputError(f"{context.asset_key.to_user_string()}: choose a fold, 0 to 4")
    return fold
