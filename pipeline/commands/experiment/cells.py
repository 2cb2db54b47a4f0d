"""The cells of an experiment: trainings of the graph, each arm in folders of its own, found again when finished.

An arm's folders are `experiments/<name>/arms/<arm>-<patients>-<settings>/<asset>/fold_<K>[/seed_<S>]` below those of
source and profile. Before something is built there, an equal result is taken over from the graph's own folders or from
any arm's, so that arms share all that their settings do not change, and changed settings overwrite nothing.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from common.errors import InputError, some_of
from common.files import write_atomically, write_json
from common.progress import expect, finish, say, warn
from engine.finished import Finished
from engine.forge import UNPARTITIONED, Forge
from engine.locks import held, is_held
from engine.outcome import Check, Outcome, number
from engine.preflight import check_before_run
from engine.record import Record, cache_key, is_finished, produce, read_record, versions_of
from engine.settings import Settings
from engine.workspace import ARMS, EXPERIMENTS, Workspace
from imaging.phantom import PhantomConfig
from imaging.slices.store import SliceStore
from imaging.sources.table import source_labels, source_root
from pipeline.commands.experiment.plan import Arm, Patients, Plan, resolved_arms
from pipeline.commands.output import HOME, check_folder
from pipeline.commands.run import FAILED_CHECK, execute, prepare_stores, raise_failure
from runtime.model_card import ModelCard
from segmentation.model_kind import REAL_ONLY, REAL_PLUS_GAN, ModelKind
from segmentation.scoring.scores import RULES_VERSION, ScoreIdentity, read_scores, score_table, write_scores

if TYPE_CHECKING:
    from dagster._core.execution.execution_result import ExecutionResult

JUDGE = "attention_res_unet_real_only"
QUALITY = "synthesis_quality"
_OF_STUDIES = ("studies", "patient_split")
_REAL = ("lv_localiser", "real_slices", "augmented_slices", "training_set_real_only")
_SYNTHETIC = (JUDGE, "pix2pix", "lesion_masks", "synthetic_slices", QUALITY)
# Raised when scoring validation patients changes what comes out.
_CODE_VERSION = "1"
DONE, RUNNING, BEGUN, REFUSED, TO_DO = "done", "running", "begun", "refused by checks", "to do"


@dataclass(frozen=True)
class Cell:
    """One training: a network and a seed of a bench."""

    network: str
    seed: int


@dataclass(frozen=True)
class Bench:
    """One arm on one fold with so many patients: what its cells share, and where it lies."""

    plan: Plan
    arm: Arm
    patients: Patients
    fold: int
    home: Path

    @cached_property
    def settings(self) -> Settings:
        """The arm's settings with these patients."""
        return self.arm.with_patients(self.patients)[1]

    @cached_property
    def _workspace(self) -> Workspace:
        return self.forge().workspace

    def forge(self, seed: int | None = None) -> Forge:
        """Return the arm's resource, for one seed, or for what all seeds share."""
        return Forge(
            source=self.plan.source,
            root=str(self.plan.root.absolute()) if self.plan.root else "",
            profile=self.plan.profile,
            home=str(self.home),
            overrides=list(self.arm.with_patients(self.patients)[0]),
            seeds=[self.plan.seeds[0] if seed is None else seed],
            experiment=f"{self.plan.name}/{ARMS}/{self.arm.name}-{self.patients}-{self.settings.digest[:8]}",
        )

    @property
    def name(self) -> str:
        """The arm's name, with the number of patients where the plan has several."""
        return self.named(self.arm.name)

    def named(self, arm: str) -> str:
        """Return what an arm of the same patients is called."""
        return arm if len(self.plan.patients) == 1 else f"{arm}, {self.patients} patients"

    @property
    def cells(self) -> list[Cell]:
        """What is trained here."""
        return [Cell(network, seed) for network in self.plan.networks for seed in self.plan.seeds]

    @property
    def upstream(self) -> tuple[str, ...]:
        """The assets that all cells share, without those of all folds."""
        return _REAL if self.arm.training_set == REAL_ONLY else (*_REAL, *_SYNTHETIC)

    @property
    def _mixed(self) -> tuple[str, ...]:
        """The training set that its own synthetic slices go into; that of real slices alone is among `upstream`."""
        return () if self.arm.training_set == REAL_ONLY else (self.kind(self.cells[0]).slices,)

    def kind(self, cell: Cell) -> ModelKind:
        """Return what a cell trains."""
        return ModelKind(cell.network, self.arm.training_set)

    def model(self, cell: Cell) -> str:
        """Return the asset that trains a cell."""
        return self.kind(cell).name

    def scores(self, cell: Cell) -> str:
        """Return the asset, or the folder like an asset's, of a cell's scores."""
        asset = self.kind(cell).scores
        return asset if self.plan.scored_on == "test" else f"{asset}_of_{self.plan.scored_on}"

    def place(self, asset: str, seed: int) -> Path:
        """Return the folder of an asset; `seed` is that of models and scores, but the judge has the first."""
        fold, of_seed = None if asset in UNPARTITIONED else self.fold, asset.startswith(self.plan.networks) or None
        judge = asset == JUDGE and self.arm.training_set == REAL_PLUS_GAN
        return self._workspace.place(asset, fold, self.plan.seeds[0] if judge else of_seed and seed)

    def run(self) -> None:
        """Train and score every cell that is not done.

        Raises:
            InputError: Something cannot be made, or checks of the synthetic slices failed and the plan has them block.
        """
        waiting = [cell for cell in self.cells if not self.done(cell)]
        say(f"fold {self.fold}, {self.name}: {len(waiting)} of {len(self.cells)} cells to do")
        if not waiting:
            return
        self._prepare()
        for cell in waiting:
            self._train(cell)
            finish("cells")

    def _prepare(self) -> None:
        result = self._execute(self.forge(), (*_OF_STUDIES, *self.upstream))
        failed = self.failed_checks()
        if not result.success and not (failed and _only_of_quality(result)):
            raise_failure(result, self.forge().workspace.home)
        if failed and self.plan.checks == "block":
            raise InputError(
                f"{self.arm.name}, fold {self.fold}: synthetic slices fail {some_of(map(told, failed), between='; ')}; "
                "change the arm, or write checks: warn into the plan, which trains on them and tells it"
            )
        if self.arm.training_set == REAL_PLUS_GAN:
            self._made(self.forge(), self._mixed)

    def _train(self, cell: Cell) -> None:
        forge = self.forge(cell.seed)
        if self.plan.scored_on == "test":
            self._made(forge, [self.model(cell), self.scores(cell)])
        else:
            self._made(forge, [self.model(cell)])
            self._score(forge, cell)

    def _execute(self, forge: Forge, assets: Sequence[str]) -> "ExecutionResult":
        return execute(forge, self.fold, _has_lesions(self.plan, self.arm), assets)

    def _made(self, forge: Forge, assets: Sequence[str]) -> None:
        result = self._execute(forge, assets)
        if not result.success:
            raise_failure(result, forge.workspace.home)

    def _score(self, forge: Forge, cell: Cell) -> None:
        name, start = self.scores(cell), time.monotonic()
        nearest = forge.records([(self.model(cell), self.fold, cell.seed)])
        inputs = forge.inputs(name, nearest)
        inputs.require_current()
        made_of: dict[str, Any] = {
            "code_version": _scoring_version(),
            "parents": versions_of(nearest),
            "config": {"seed": cell.seed, "part": self.plan.scored_on},
        }
        _, found = produce(
            self.place(name, cell.seed),
            name,
            cache_key(**made_of),
            forge.noting(inputs, lambda folder: self._scored(forge, cell, folder)),
            elsewhere=forge.elsewhere,
            made_of=made_of,
            tell=lambda line: say(f"    {line}"),
        )
        say(f"  {'=' if found else '+'} {name:<46} {'unchanged' if found else f'{time.monotonic() - start:6.1f} s'}")

    def _scored(self, forge: Forge, cell: Cell, folder: Path) -> Outcome:
        """Score the validation patients as the scores assets score test patients."""
        from assets.scores import dice_means, held_out
        from engine.worker.accelerator import borrowed
        from segmentation.prediction.segmenter import load_segmenter

        patients = held_out(forge, self.fold, "validation")
        model = forge.finished(self.model(cell), self.fold, cell.seed).model()
        settings, lock = self.settings, forge.accelerator_lock()
        with borrowed(settings.device, settings.precision, lock, settings.deterministic) as compute:
            drawn = load_segmenter(model, compute).labels(patients.images())
        identity = ScoreIdentity(self.fold, cell.network, self.arm.training_set, cell.seed)
        table = score_table(patients.cases(drawn), identity, patients.labels)
        write_scores(folder / "scores.csv", table)
        write_json(folder / "manifest.json", forge.manifest())
        means = {f"dice/{row['rule']}/{row['tissue']}": row["dice"] for row in dice_means(table).to_dict("records")}
        return Outcome({name: number(value) for name, value in means.items() if math.isfinite(value)})

    def failed_checks(self) -> list[Check]:
        """Return the blocking checks that this arm's synthetic slices failed."""
        place = self.place(QUALITY, self.plan.seeds[0])
        if self.arm.training_set == REAL_ONLY or not is_finished(place):
            return []
        checks = read_record(place, QUALITY).outcome.checks
        return [check for check in checks if not check.passed and check.name in _blocking_checks()]

    def done(self, cell: Cell) -> bool:
        """Tell whether a cell's scores lie there, and all they are made of is of today's code and of each other."""
        chain = (*_OF_STUDIES, *self.upstream, *self._mixed, self.model(cell), self.scores(cell))
        places = {asset: self.place(asset, cell.seed) for asset in chain}
        records = {asset: _record(place) for asset, place in places.items()}
        lying = {place.relative_to(self._workspace.root).as_posix(): records[asset] for asset, place in places.items()}
        return (
            all(record is not None and _is_of(asset, record, lying) for asset, record in records.items())
            and (records["studies"] is not None and records["studies"].cache_key == self._studies_key)
            and self._of_todays_folder(records.get("lesion_masks"))
        )

    def _of_todays_folder(self, masks: Record | None) -> bool:
        """Tell whether the slices that were read from a folder are those that lie there; true of all others."""
        if masks is None or not self.settings.from_folder:
            return True
        from assets.synthesis import folder_key

        config = masks.made_of.get("config", {})
        return all(config.get(name) == value for name, value in folder_key(self.settings, self.fold).items())

    @cached_property
    def _studies_key(self) -> str:
        """The cache key of the studies as their source is now."""
        from assets.studies import made_with

        root = source_root(self.plan.source, self.plan.root)
        config = made_with(self.plan.source, self.settings, _digest(root, self.settings.phantom))
        return cache_key(_code_version("studies"), {}, config)

    def state(self, cell: Cell) -> str:
        """Return how far a cell is."""
        if self.done(cell):
            return DONE
        own = [self.place(asset, cell.seed) for asset in (self.model(cell), self.scores(cell))]
        before = [self.place(asset, cell.seed) for asset in self.upstream]
        if any(is_held(place.with_name(f".{place.name}.lock")) for place in (*own, *before)):
            return RUNNING
        if self.plan.checks == "block" and self.failed_checks():
            return REFUSED
        begun = [path for place in own for path in place.parent.glob(f".{place.name}.*.partial")]
        return BEGUN if begun or any(map(is_finished, own)) else TO_DO

    def table(self, cell: Cell) -> pd.DataFrame:
        """Return a cell's scores with its arm and patients; those of yardsticks are left out."""
        scored = Finished.open(self.place(self.scores(cell), cell.seed), self.scores(cell))
        scores = read_scores(scored.file("scores.csv"))
        return scores[scores["training_set"] != ""].assign(arm=self.arm.name, patients=str(self.patients))

    def synthetic_rows(self) -> pd.DataFrame:
        """Return the rows of the training set that this arm's synthetic slices went into; none of real slices alone."""
        for name in self._mixed:
            store = Finished.open(self.place(name, self.plan.seeds[0]), name).file("slices.h5")
            with SliceStore.open(store, verify=False) as opened:
                return opened.rows
        return pd.DataFrame({"origin": []})

    def validation_dice(self, cell: Cell) -> float:
        """Return the mean Dice of the validation patients by which the checkpoint was chosen."""
        model = Finished.open(self.place(self.model(cell), cell.seed), self.model(cell))
        return ModelCard.read(model.file("model_card.json").parent).dice.mean


def told(check: Check) -> str:
    """Return a check with its figures, in words."""
    figures = [f"{name} {value:.3g}" for name, value in check.figures.items() if isinstance(value, float)]
    return f"{check.name} ({', '.join(figures[:4])})"


def _only_of_quality(result: "ExecutionResult") -> bool:
    errors = [(event.step_key, event.step_failure_data.error) for event in result.all_events if event.is_step_failure]
    return all(step == QUALITY and error is not None and error.cls_name == FAILED_CHECK for step, error in errors)


@cache
def _blocking_checks() -> frozenset[str]:
    from assets.quality import synthesis_quality

    return frozenset(spec.name for spec in synthesis_quality.check_specs if spec.blocking)


def _has_lesions(plan: Plan, arm: Arm) -> bool:
    return source_labels(plan.source, arm.settings.source).has_lesions


def _record(place: Path) -> Record | None:
    try:
        return read_record(place, place.name)
    except InputError:  # missing, or damaged and to be made again
        return None


def _is_of(asset: str, record: Record, lying: Mapping[str, Record | None]) -> bool:
    """Tell whether a result was made by today's code of what lies there, by place: its inputs, and all behind them."""
    read = {**record.behind, **record.made_of.get("parents", {})}
    versions = {place: parent.data_version for place, parent in lying.items() if parent is not None and place in read}
    return record.made_of.get("code_version") == _code_version(asset) and all(
        read[place] == version for place, version in versions.items()
    )


@cache
def _digest(root: Path | None, phantom: PhantomConfig) -> str:
    from imaging.sources.files import source_digest

    return source_digest(root, phantom)


@cache
def _code_versions() -> dict[str, str]:
    from pipeline.definitions import all_assets

    found = [asset.code_versions_by_key for asset in all_assets if hasattr(asset, "code_versions_by_key")]
    return {key.to_user_string(): str(version) for versions in found for key, version in versions.items()}


def _code_version(asset: str) -> str:
    return _code_versions().get(asset, _scoring_version())


def _scoring_version() -> str:
    return f"{_CODE_VERSION}/{RULES_VERSION}"


@dataclass(frozen=True)
class Experiment:
    """A plan in a workspace."""

    plan: Plan
    arms: Mapping[str, Arm]
    home: Path

    @classmethod
    def of(cls, plan: Plan, home: Path) -> "Experiment":
        """Resolve a plan; `InputError` names what is wrong with it."""
        return cls(plan, resolved_arms(plan), home.absolute())

    @property
    def workspace(self) -> Workspace:
        """The workspace of source and profile."""
        return Workspace(self.home, self.plan.source, self.plan.profile)

    @property
    def folder(self) -> Path:
        """The folder of the experiment."""
        return self.workspace.base / EXPERIMENTS / self.plan.name

    def benches(self, folds: Sequence[int] = (), only: Sequence[str] = ()) -> list[Bench]:
        """Return every arm with every number of patients on every fold, fold by fold; of those asked for."""
        return [
            Bench(self.plan, arm, patients, fold, self.home)
            for fold in folds or self.plan.folds
            for patients in self.plan.patients
            for arm in self.arms.values()
            if arm.name in (only or self.arms)
        ]

    def check(self, only: Sequence[str] = (), folds: Sequence[int] = ()) -> None:
        """Refuse what can be known to fail, before anything is trained."""
        check_folder(self.home, HOME)
        if unknown := [name for name in only if name not in self.arms]:
            raise InputError(f"--only {some_of(unknown)}: the plan has the arms {', '.join(self.arms)}")
        if missing := [str(fold) for fold in folds if fold not in self.plan.folds]:
            raise InputError(f"--fold {', '.join(missing)}: the plan has the folds {list(self.plan.folds)}")
        source_root(self.plan.source, self.plan.root)
        for arm in self.arms.values():
            check_before_run(arm.settings, self.workspace, folds or self.plan.folds)

    def run(self, only: Sequence[str], folds: Sequence[int], after_fold: Callable[["Experiment"], None]) -> None:
        """Train and score every cell that is not done, fold by fold.

        Args:
            only: Names of arms; empty for all.
            folds: Of the plan's; empty for all.
            after_fold: Is called when a fold's cells are done.

        Raises:
            InputError: Cells could not be made; all others are done.
        """
        self._begin()
        benches = self.benches(folds or self.plan.folds, only)
        expect(sum(not bench.done(cell) for bench in benches for cell in bench.cells), "cells")
        failures: dict[str, str] = {}
        for fold in folds or self.plan.folds:
            with held(self.folder / f".fold_{fold}.lock", "another process with this plan"):
                for bench in self.benches([fold], only):
                    try:
                        bench.run()
                    except InputError as error:
                        failures[f"{bench.name}, fold {fold}"] = str(error)
                        warn(f"  left out: {error}")
            try:
                after_fold(self)
            except InputError as error:  # the other folds are trained all the same
                failures[f"report after fold {fold}"] = str(error)
        if failures:
            raise InputError(
                f"{len(failures)} of the plan could not be made, the rest is done: "
                + some_of((f"{name}: {why}" for name, why in failures.items()), between="; ")
            )

    def _begin(self) -> None:
        """Write the plan down, and prepare databases."""
        self.workspace.mark()
        self.folder.mkdir(parents=True, exist_ok=True)
        root = self.plan.root.absolute() if self.plan.root else None
        text = self.plan.model_copy(update={"root": root}).to_yaml()
        write_atomically(self.folder / "plan.yaml", lambda part: _write(part, text))
        with held(self.folder / ".begin.lock", "another process with this plan"):
            # A Dagster home of its own: the interface would take the arms' assets for the graph's.
            prepare_stores(self.benches()[0].forge(), self.folder)

    def cells(self) -> Iterator[tuple[Bench, Cell]]:
        """Give every cell with its bench."""
        for bench in self.benches():
            for cell in bench.cells:
                yield bench, cell


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
