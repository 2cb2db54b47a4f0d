"""How much synthetic data to train on: the segmenter trained at several shares, with equally many slices and steps.

A finished point is found again, a killed one is continued. In MLflow the sweep is one run, each point a child of it,
and each training of a point a child of that.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from common.errors import InputError
from engine.finished import Finished
from engine.forge import Forge, say
from engine.outcome import Outcome, number
from engine.record import Record, cache_key, produce
from engine.run_tags import RunIdentity
from engine.settings import Settings
from engine.tracking.tracker import Tracker
from engine.worker.task import TrainingTask
from pipeline.commands.output_place import HOME, check_folder
from pipeline.commands.sweep.page import SweepFacts, write_sweep
from pipeline.commands.sweep.plan import Pools, SweepPoint, SweepSlices, equal_total, score_model

NETWORKS = ("attention_res_unet", "halsr_net")
# Raised when training or scoring a point changes what comes out, so that older results are not found again.
_CODE_VERSION = "1"


def run_sweep(
    forge: Forge, fold: int, points: Sequence[SweepPoint], network: str = NETWORKS[0], slices: int | None = None
) -> Path:
    """Train, score and tabulate every point, and return the folder with the table.

    Args:
        forge: Source, profile and workspace; its seeds are trained at every point.
        fold: Whose slices are mixed, and whose test patients are scored.
        points: What is trained.
        network: `attention_res_unet` or `halsr_net`.
        slices: In each point's training set; None for as many as every point can have, up to the profile's.

    Raises:
        InputError: What the sweep reads is not finished, or a point has too few slices.
    """
    check_folder(Path(forge.home), HOME)
    bench = SweepBench.open(forge, fold, points, network, slices)
    say(f"{len(points)} points of {bench.total} slices, {network}, fold {fold}, in {bench.folder}")
    if slices is None and bench.total < bench.settings.training_slices:
        say(f"  {bench.total} of the profile's {bench.settings.training_slices} slices: all that every point can have")
    with Tracker.of(bench.tracking("sweep", "", {})) as tracker:
        for position, point in enumerate(points, 1):
            say(f"  [{position}/{len(points)}] {point.name}")
            bench.run(point)
            written = write_sweep(bench.folder, bench.scores(points[:position]), bench.facts(points[:position]))
        tracker.final(_last_values(written.table))
        for path in written.files:
            tracker.artifact(path)
    return bench.folder


def _last_values(table: pd.DataFrame) -> dict[str, float]:
    """Return each point's Dice under names that line up in MLflow."""
    rows = table[["training_set", "rule", "tissue", "mean"]].itertuples(index=False, name=None)
    return {f"{point}/{rule}/{tissue}": value for point, rule, tissue, value in rows if math.isfinite(value)}


@dataclass(frozen=True)
class SweepBench:
    """What every point shares.

    Attributes:
        forge: Source, profile and workspace.
        fold: The fold.
        network: The network.
        settings: Resolved.
        slices: The fold's stores.
        total: Slices in each training set.
    """

    forge: Forge
    fold: int
    network: str
    settings: Settings
    slices: SweepSlices
    total: int

    @classmethod
    def open(
        cls, forge: Forge, fold: int, points: Sequence[SweepPoint], network: str, wanted: int | None
    ) -> "SweepBench":
        """Look for what the sweep reads; `InputError` names what has to be materialised first."""
        from engine.tracking.store import prepare_store

        if network not in NETWORKS:
            raise InputError(f"network {network!r} does not exist; choose {' or '.join(NETWORKS)}")
        settings = forge.settings()
        slices = SweepSlices.open(forge, fold, points)
        pools: Pools = {point: slices.pool(point) for point in points}
        total = equal_total(pools, wanted, settings.training_slices)
        prepare_store(forge.tracking_uri(), artifact_root=forge.workspace.artifact_root)
        return cls(forge, fold, network, settings, slices, total)

    @property
    def folder(self) -> Path:
        """The folder of this network's points of this size."""
        return self._of_size / self.network

    @property
    def _of_size(self) -> Path:
        return self.forge.workspace.place("sweep", self.fold) / f"{self.total}_slices"

    def run(self, point: SweepPoint) -> None:
        """Train and score one point with every seed, or find it again."""
        start = time.monotonic()
        with Tracker.of(self.tracking("sweep_point", point.name, self._params(point))) as tracker:
            mixed = self._mixed(point)
            found = [self._seed(point, seed, mixed) for seed in self.settings.seeds]
            means = pd.DataFrame([values for values, _ in found]).mean()
            tracker.final({str(name): float(value) for name, value in means.items()})
        before = all(was_there for _, was_there in found)
        say(f"      {'trained before' if before else f'{(time.monotonic() - start) / 60:.1f} min'}")

    def _params(self, point: SweepPoint) -> dict[str, Any]:
        patients = len(self.slices.split_of(point).train)
        return {"synthetic_share": point.share, "real_patients": patients, **point.counts(self.total)}

    def _mixed(self, point: SweepPoint) -> str:
        """Write a point's training set, or find it again; return its data version."""
        used = [name for name, count in point.counts(self.total).items() if count]
        read = self.slices.versions_of("patient_split", "real_slices", *used)
        made_of = _made_of(read, self.slices.recipe(point, self.total))
        record, _ = self._produced(
            self._training_set(point),
            f"sweep {point.name}",
            made_of,
            lambda folder: self.slices.mix(folder, point, self.total, _CODE_VERSION),
        )
        return record.data_version

    def _produced(
        self, place: Path, name: str, made_of: Mapping[str, Any], build: Callable[[Path], Outcome]
    ) -> tuple[Record, bool]:
        key = cache_key(**made_of)
        return produce(
            place,
            name,
            key,
            build,
            elsewhere=self.forge.remote,
            made_of=made_of,
            tell=lambda line: say(f"      {line}"),
        )

    def _training_set(self, point: SweepPoint) -> Path:
        return self._of_size / "training_sets" / point.name

    def _seed(self, point: SweepPoint, seed: int, mixed: str) -> tuple[dict[str, float], bool]:
        """Return one training's Dice on test and validation patients, and whether it was there."""
        from segmentation.training.start_weights import start_versions

        name, place = f"sweep {point.name}", self.place(point, seed)
        config = self.settings.network(self.network)
        parents = {**self.slices.versions_of("real_slices", "patient_split"), "training_set": mixed}
        parents |= start_versions(config)
        made_of = _made_of(parents, {"config": config.model_dump(mode="json"), "seed": seed})
        key = cache_key(**made_of)
        model, trained = self._produced(
            place / "model", name, made_of, lambda folder: self._train(point, seed, folder, key)
        )
        read = self.slices.versions_of("studies", "real_slices", "patient_split")
        own = _made_of({**read, "model": model.data_version}, {})
        scored, measured = self._produced(place / "scores", name, own, lambda folder: self._score(point, seed, folder))
        facts = {**model.outcome.facts, **scored.outcome.facts}
        return {name: float(fact.value) for name, fact in facts.items()}, trained and measured

    def place(self, point: SweepPoint, seed: int) -> Path:
        """Return the folder of one training's model and scores."""
        return self.folder / point.name / f"seed_{seed}"

    def _train(self, point: SweepPoint, seed: int, folder: Path, key: str) -> Outcome:
        from engine.worker.process import run_task

        card = {"source": self.forge.source, "profile": self.forge.profile, "fold": self.fold, "seed": seed}
        task = TrainingTask(
            stage="segmenter",
            folder=str(folder),
            inputs={
                "training_set": str(Finished.open(self._training_set(point), f"sweep {point.name}").file("slices.h5")),
                "real_slices": str(self.slices.files["real_slices"]),
                "patient_split": str(self.slices.files["patient_split"]),
            },
            config=self.settings.network(self.network).model_dump(mode="json"),
            fold=self.fold,
            seed=seed,
            device=self.settings.device,
            precision=self.settings.precision,
            card={**card, "training_set": f"sweep {point.name}", "parents": dict(self.slices.versions)},
            tracking=self.tracking("sweep_training", point.name, self._params(point), seed, key, folder),
            lock=self.forge.accelerator_lock(),
        )
        trained = run_task(task)
        chosen = {name: value for name, value in trained.scores.items() if name.startswith("validation/")}
        return Outcome({name: number(value) for name, value in chosen.items() if math.isfinite(value)})

    def _score(self, point: SweepPoint, seed: int, folder: Path) -> Outcome:
        model = self._finished(point, seed, "model").model()
        return score_model(self.forge, self.fold, self.network, point.name, seed, model, folder)

    def tracking(
        self,
        stage: str,
        point: str,
        params: Mapping[str, Any],
        seed: int | None = None,
        key: str = "",
        folder: Path | None = None,
    ) -> dict[str, Any]:
        """Return what a tracker is told of the sweep's run, a point's, or that of a training with its cache key."""
        config = self.settings.network(self.network).model_dump(mode="json")
        tags = {"stage": stage, "network": self.network, "training_set": point or "sweep"}
        run = RunIdentity(self._asset(stage, point), self.fold, seed, key or self._key)
        title = self._title(point) if seed is None else f"{self._title(point)} seed {seed}"
        params = {**config, **params, "slices": self.total}
        return self.forge.told(run, title, tags, params, folder, self._above(stage, point))

    @property
    def _key(self) -> str:
        config = self.settings.network(self.network).model_dump(mode="json")
        return cache_key(_CODE_VERSION, self.slices.versions, {"config": config, "slices": self.total})

    def _asset(self, stage: str, point: str) -> str:
        return "/".join([stage, self.network, *([point] if point else [])])

    def _title(self, point: str) -> str:
        return " ".join(["sweep", self.network, point or f"{self.total} slices", f"fold {self.fold}"])

    def _above(self, stage: str, point: str) -> dict[str, str] | None:
        """Return the run that another is shown under: a training under its point, a point under the sweep."""
        if stage == "sweep":
            return None
        stage, point = ("sweep_point", point) if stage == "sweep_training" else ("sweep", "")
        run = RunIdentity(self._asset(stage, point), self.fold, None, self._key)
        return {"key": run.key, "name": self._title(point), "stage": stage}

    def scores(self, points: Sequence[SweepPoint]) -> pd.DataFrame:
        """Return the score tables of these points, one beneath the other."""
        from segmentation.scoring.scores import read_scores

        scored = [self._finished(point, seed, "scores") for point in points for seed in self.settings.seeds]
        return pd.concat([read_scores(one.file("scores.csv")) for one in scored], ignore_index=True)

    def _finished(self, point: SweepPoint, seed: int, what: str) -> Finished:
        return Finished.open(self.place(point, seed) / what, f"sweep {point.name}")

    def facts(self, points: Sequence[SweepPoint]) -> SweepFacts:
        """Return what the table and the page say besides the scores."""
        return SweepFacts(
            source=self.forge.source,
            profile=self.forge.profile,
            fold=self.fold,
            network=self.network,
            steps=self.settings.network(self.network).steps,
            total=self.total,
            of_profile=self.settings.training_slices,
            seeds=self.settings.seeds,
            points={point: len(self.slices.split_of(point).train) for point in points},
            training_patients=len(self.slices.split.train),
            validation={point: self._validation(point) for point in points},
            labels=self.slices.labels,
        )

    def _validation(self, point: SweepPoint) -> float:
        """Return a point's mean Dice on validation patients, the mean over tissues and seeds."""
        from runtime.model_card import ModelCard

        models = [self._finished(point, seed, "model").file("model_card.json") for seed in self.settings.seeds]
        return float(sum(ModelCard.read(model.parent).dice.mean for model in models) / len(models))


def _made_of(parents: Mapping[str, str], config: Mapping[str, Any]) -> dict[str, Any]:
    return {"code_version": _CODE_VERSION, "parents": dict(parents), "config": dict(config)}
