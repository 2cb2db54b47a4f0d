"""The source's ten trials and the improved configurations on one fold: trained, measured and set in one table.

A finished trial is found again, a killed one is continued; each is an MLflow run.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gan.trials import Trial, plan_trials, trials_table
from pipeline.finished import Finished
from pipeline.forge import Forge, say
from pipeline.outcome import Outcome, number
from pipeline.output_place import HOME, check_folder
from pipeline.record import Record, cache_key, is_finished, produce
from pipeline.settings import Settings
from pipeline.tracking import Tracker
from pipeline.training_task import TrainingTask
from pipeline.trials_page import write_table
from training.report import TrainingDivergedError

if TYPE_CHECKING:
    from training.compute import Compute

JUDGE = "attention_res_unet_real_only"
_NEEDED = {"augmented_slices": "slices.h5", "real_slices": "slices.h5", "patient_split": "patient_split.json"}
# Of the quality settings, those that change a figure here.
_MEASURED_WITH = {"vgg16_weights", "alexnet_weights", "inception_weights", "slices"}
# Raised when training or measuring changes what comes out, so that older results are not found again.
_CODE_VERSION = "1"


def run_trials(
    forge: Forge, fold: int, steps: int | None = None, only: Sequence[str] = (), overrides: Sequence[str] = ()
) -> Path:
    """Train and measure every trial that is wanted, and return the folder with the table.

    Args:
        forge: Source, profile and workspace.
        fold: Whose training patients' slices are trained on.
        steps: Of each trial; None for the profile's.
        only: Names of trials; empty for all.
        overrides: `pix2pix.key=value` among them are laid over every trial.

    Raises:
        InputError: What the trials read is not finished, or a name or value is wrong.
    """
    check_folder(Path(forge.home), HOME)
    bench = TrialBench.open(forge, fold)
    profile = bench.settings.pix2pix
    perceptual = bool(bench.settings.quality.vgg16_weights)
    trials = plan_trials(profile, steps or profile.steps, _for_all(overrides, bench.settings), only, perceptual)
    say(f"{len(trials)} trials of {trials[0].config.steps} steps, fold {fold}, in {bench.folder}")
    if bench.judge is None:
        say(f"  no adherence: {JUDGE} of this fold and seed is not finished; materialise it, then run this again")
    figures, measured = {}, []
    for position, trial in enumerate(trials, 1):
        say(f"  [{position}/{len(trials)}] {trial.name}: {trial.change}")
        try:
            figures[trial.name] = bench.figures(trial)
            measured.append(trial)
        except TrainingDivergedError as error:
            say(f"      diverged and is left out of the table: {error}")
        else:
            table = trials_table(measured, figures)
            write_table(table, bench.folder)
    return bench.folder


def _for_all(overrides: Sequence[str], settings: Settings) -> dict[str, Any]:
    """Return the values of `pix2pix.*` that were given by hand; steps and preset are not the trials' own."""
    keys = [override.partition("=")[0].strip().split(".") for override in overrides]
    named = {key[1] for key in keys if key[0] == "pix2pix" and len(key) > 1} - {"preset", "steps"}
    return {name: getattr(settings.pix2pix, name) for name in sorted(named)}


@dataclass(frozen=True)
class TrialBench:
    """What every trial shares.

    Attributes:
        forge: Source, profile and workspace.
        fold: The fold.
        settings: Resolved.
        compute: What is trained on.
        versions: Data versions of what is read.
        judge: Folder of the segmenter trained on real slices; None where it is not finished.
        masks: The store of simulated masks; None where it is not finished, then validation masks serve.
    """

    forge: Forge
    fold: int
    settings: Settings
    compute: "Compute"
    versions: Mapping[str, str]
    judge: Path | None
    masks: Path | None

    @classmethod
    def open(cls, forge: Forge, fold: int) -> "TrialBench":
        """Look for what the trials read; `InputError` names what has to be materialised first."""
        from pipeline.tracking_store import prepare_store
        from training.compute import choose_compute

        settings = forge.settings()
        versions = {asset: forge.version(asset, fold) for asset in _NEEDED}
        judge = _finished(forge, JUDGE, fold, settings.seeds[0], versions)
        masks = _finished(forge, "lesion_masks", fold, None, versions)
        prepare_store(forge.tracking_uri(), artifact_root=forge.workspace.artifact_root)
        compute = choose_compute(settings.device, settings.precision)
        found = judge.model() if judge else None, masks.file("slices.h5") if masks else None
        return cls(forge, fold, settings, compute, versions, *found)

    @property
    def folder(self) -> Path:
        """The folder of this fold's trials."""
        return self.forge.workspace.place("trials", self.fold)

    def figures(self, trial: Trial) -> dict[str, float]:
        """Train and measure one trial, or find either again."""
        start, place = time.monotonic(), self.folder / trial.name
        content = {"config": trial.config.model_dump(mode="json"), "seed": self.settings.split_seed}
        weights = self.settings.quality.weights
        read = {name: self.versions[name] for name in _NEEDED}
        if trial.config.perceptual_weight and "vgg16_weights" in weights:
            read["vgg16_weights"] = weights["vgg16_weights"]
        made_of: dict[str, Any] = {"code_version": _CODE_VERSION, "parents": read, "config": content}
        key = cache_key(**made_of)
        _, found = self._produced(place / "model", trial, made_of, lambda folder: self._train(trial, folder, key))
        quality = {**self.settings.quality.model_dump(mode="json", include=_MEASURED_WITH), **weights}
        own = {"code_version": _CODE_VERSION, "parents": {**self.versions, "model": key}, "config": quality}
        measured, _ = self._produced(place / "figures", trial, own, lambda folder: self._measure(trial, folder, key))
        say(f"      {'trained before' if found else f'{(time.monotonic() - start) / 60:.1f} min'}")
        return {name: float(fact.value) for name, fact in measured.outcome.facts.items()}

    def _produced(
        self, place: Path, trial: Trial, made_of: dict[str, Any], build: Callable[[Path], Outcome]
    ) -> tuple[Record, bool]:
        return produce(
            place,
            trial.name,
            cache_key(**made_of),
            build,
            elsewhere=self.forge.remote,
            made_of=made_of,
            tell=lambda line: say(f"      {line}"),
        )

    def _train(self, trial: Trial, folder: Path, key: str) -> Outcome:
        from pipeline.train_process import run_task

        task = TrainingTask(
            stage="pix2pix",
            folder=str(folder),
            inputs=self._inputs(trial),
            config=trial.config.model_dump(mode="json"),
            fold=self.fold,
            seed=self.settings.split_seed,
            device=self.settings.device,
            precision=self.settings.precision,
            card={"source": self.forge.source, "profile": self.forge.profile, "fold": self.fold, "trial": trial.name},
            tracking=self._tracking(trial, key),
            lock=self.forge.accelerator_lock(),
        )
        trained = run_task(task)
        return Outcome({name: number(value) for name, value in trained.scores.items()})

    def _inputs(self, trial: Trial) -> dict[str, str]:
        files = {name: self.forge.finished(name, self.fold).file(file) for name, file in _NEEDED.items()}
        inputs = {
            "training_set": str(files["augmented_slices"]),
            "real_slices": str(files["real_slices"]),
            "patient_split": str(files["patient_split"]),
        }
        weights = self.settings.quality.vgg16_weights
        return {**inputs, "vgg16_weights": weights} if trial.config.perceptual_weight else inputs

    def _tracking(self, trial: Trial, key: str) -> dict[str, Any]:
        tags = {
            "stage": "trials",
            "network": trial.name,
            "training_set": "augmented",
            "source": self.forge.source,
            "profile": self.forge.profile,
            "fold": str(self.fold),
            "seed": str(self.settings.split_seed),
        }
        return {
            "uri": self.forge.tracking_uri(),
            "experiment": "scarforge",
            "name": f"trials {trial.name} fold {self.fold}",
            "tags": {**tags, "scarforge_key": f"trials/{trial.name}/{key[:16]}"},
            "params": {**trial.config.model_dump(mode="json"), **tags, "change": trial.change},
            "dataset": f"augmented fold {self.fold}",
            "spool": str(self.forge.workspace.spool),
            "artifact_root": str(self.forge.workspace.artifact_root),
        }

    def _measure(self, trial: Trial, folder: Path, key: str) -> Outcome:
        from pipeline.trial_figures import TrialMaterial

        model = Finished.open(self.folder / trial.name / "model", trial.name).model()
        material = TrialMaterial(self.forge, self.fold, self.settings, self.compute, self.judge, self.masks)
        figures = material.figures_of(model, folder)
        with Tracker.of(self._tracking(trial, key)) as tracker:
            tracker.final({name.replace(" ", "/"): value for name, value in figures.items() if math.isfinite(value)})
            tracker.artifact(folder / "pairs.png")
        return Outcome({name: number(value) for name, value in figures.items()})


def _finished(forge: Forge, asset: str, fold: int, seed: int | None, versions: dict[str, str]) -> Finished | None:
    """Open an asset that may be there, and note its version; None where it is not finished."""
    if not is_finished(forge.folder(asset, fold, seed)):
        return None
    found = forge.finished(asset, fold, seed)
    versions[asset] = found.record.data_version
    return found
