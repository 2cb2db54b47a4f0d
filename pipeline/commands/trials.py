"""The source's ten trials and the improved configurations on one fold: trained, measured and set in one table.

A finished trial is found again, a killed one is continued; each is an MLflow run.

What one finished trial is measured on and with: the fold's validation slices, simulated masks, judge, features.

The trials' table as CSV, Markdown and a page with pictures.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from assets.quality_instruments import JUDGE
from common.errors import InputError
from common.files import write_atomically, write_text
from common.pages.kit import Picture, data_address, render
from common.pages.kit import table as make_table
from common.pages.words import words
from common.progress import begin, expect, finish, say, warn
from common.tables import read_csv, write_csv
from engine.finished import Finished
from engine.forge import Forge
from engine.outcome import Outcome, number
from engine.record import Record, cache_key, is_finished, produce
from engine.run_tags import RunIdentity
from engine.settings import Settings
from engine.tracking.tracker import Tracker
from engine.worker.task import TrainingTask
from gan.generation.slices import generate_slices, redraw
from gan.quality.realism import Extractor
from gan.quality.slices import Images
from gan.trials import Trial, TrialInstruments, measure_trial, plan_trials, trials_table
from imaging.labels import LabelSet
from imaging.slices.part import PartSlices
from imaging.slices.store import SliceStore
from pipeline.commands.output import HOME, check_folder
from runtime.compute import Compute
from runtime.model_card import ModelCard, read_model_json
from runtime.report import TrainingDivergedError

if TYPE_CHECKING:
    from runtime.compute import Compute
    from segmentation.prediction.segmenter import Segmenter


_PICTURED = 6
_NOTE = (
    "Every trial has seen the same number of images. PSNR, SSIM, LPIPS, Fréchet and kernel distance compare validation "
    "slices with the same slices drawn again; adherence is the Dice of a segmenter trained on real slices. Small sets: "
    "compare rows, not with other tables."
)


def write_table(table: pd.DataFrame, folder: Path) -> None:
    """Write `trials.csv`, `trials.md` and `trials.html`; the page holds each trial's `figures/pairs.png`."""
    shown = [[_text(value) for value in row] for row in table.itertuples(index=False)]
    names = [words(name) for name in table.columns]
    write_atomically(folder / "trials.csv", lambda part: write_csv(table, part))
    pairs = _pairs(folder, list(table["trial"]))
    texts = {"trials.md": _markdown(names, shown), "trials.html": _page(names, shown, pairs)}
    for name, text in texts.items():
        write_text(folder / name, text)


def save_pairs(real: PartSlices, redrawn: Images, labels: LabelSet, path: Path) -> None:
    """Save real validation slices with the largest lesions, and below each what was drawn from its mask."""
    from imaging.overlay import contact_sheet

    chosen = np.argsort(-(real.masks > 2).sum(axis=(1, 2)), kind="stable")[:_PICTURED]
    images = np.concatenate([real.images[chosen], redrawn[chosen]])
    titles = [name for name in ("real", "drawn") for _ in chosen]
    sheet = contact_sheet(images, np.zeros(images.shape, np.uint8), labels, columns=len(chosen), titles=titles)
    sheet.save(path, optimize=True)


def _markdown(names: list[str], rows: list[list[str]]) -> str:
    rule = ["---"] * 2 + ["---:"] * (len(names) - 2)
    lines = ["| " + " | ".join(cells) + " |" for cells in (names, rule, *rows)]
    return "\n".join([*lines, "", _NOTE, ""])


def _page(names: list[str], rows: list[list[str]], pairs: list[Picture]) -> str:
    figures = make_table("Trials", names, rows, names[1:2])
    return render("pipeline.commands", "trials.html.j2", note=_NOTE, figures=figures, pairs=pairs)


def _pairs(folder: Path, trials: list[str]) -> list[Picture]:
    return [
        Picture(
            data_address((folder / name / "figures" / "pairs.png").read_bytes(), "image/png"),
            f"{name}: real slices above, drawn below",
            name,
        )
        for name in trials
    ]


def _text(value: object) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.4g}"
    return str(value)


@dataclass(frozen=True)
class TrialMaterial:
    """Where a trial's figures come from.

    Attributes:
        forge: Source, profile and workspace.
        fold: The fold.
        settings: Resolved.
        compute: What is computed on.
        judge: Folder of the segmenter trained on real slices, or None.
        masks: Store of simulated masks, or None; then adherence is that of the redrawn validation slices.
    """

    forge: Forge
    fold: int
    settings: Settings
    compute: Compute
    judge: Path | None
    masks: Path | None

    def figures_of(self, model: Path, folder: Path) -> dict[str, float]:
        """Measure a model folder, and save `pairs.png` into `folder`."""
        from assets.parts.inputs import open_slices

        store = open_slices(self.forge, "real_slices", self.fold)
        real = self._validation(store)
        redrawn = redraw(model, real.images, real.masks, self.compute, self.settings.split_seed)
        drawn = real.painted_as(redrawn) if self.masks is None else self._drawn(model, folder, self.masks)
        save_pairs(real, redrawn, store.label_set, folder / "pairs.png")
        figures = measure_trial(redrawn, real, drawn, self.instruments(), store.label_set)
        return {**figures, **course_of(model)}

    def _validation(self, store: SliceStore) -> PartSlices:
        validation = store.rows_of("validation")
        return PartSlices.of(store, validation[store.masks(validation).any(axis=(1, 2))])

    def _drawn(self, model: Path, folder: Path, masks: Path) -> PartSlices:
        """Draw slices from simulated masks; the file is not kept."""
        path, count = folder / "slices.h5", self.settings.quality.slices
        simulated = SliceStore.open(masks, verify=False)
        generate_slices(model, simulated, path, count, self.compute, self.settings.split_seed, "trials")
        with SliceStore.open(path, verify=False) as store:
            drawn = PartSlices.of(store, np.arange(len(store)))
        path.unlink()
        return drawn

    def instruments(self) -> TrialInstruments:
        """Return what the settings and the finished judge allow."""
        from assets.quality_instruments import perceptual_distances

        segmenter = self._segmenter
        perceptual = perceptual_distances(self.settings.quality, self.compute)
        return TrialInstruments(self._extractors(), perceptual, None if segmenter is None else segmenter.labels)

    def _extractors(self) -> list[Extractor]:
        """Return ImageNet features where weights are given, else the judge's encoder where it is finished."""
        quality, found = self.settings.quality, []
        if quality.vgg16_weights:
            from gan.networks.features import vgg16_features

            found.append(Extractor("VGG16", vgg16_features(Path(quality.vgg16_weights), self.compute)))
        if quality.inception_weights:
            from gan.networks.features import InceptionFeatures

            inception = InceptionFeatures(Path(quality.inception_weights), self.compute)
            found.append(Extractor("Inception", inception, inception.probabilities))
        if not found and self._segmenter is not None:
            found.append(Extractor("judge's encoder", self._segmenter.stage_statistics))
        return found

    @cached_property
    def _segmenter(self) -> "Segmenter | None":
        from segmentation.prediction.segmenter import load_segmenter

        return None if self.judge is None else load_segmenter(self.judge, self.compute)


def course_of(model: Path) -> dict[str, float]:
    """Return millions of parameters of a generator, minutes of its training, and the step that was kept."""
    card = ModelCard.read(model)
    history = read_csv(model / "history.csv")
    batch = read_model_json(model, "config.json")["batch"]
    steps = history["step"].diff().fillna(history["step"])
    seconds = (steps * batch / history["images_per_s"]).sum()
    return {
        "parameters_M": card.parameters / 1e6,
        "minutes": float(seconds) / 60,
        "selected_step": float(card.selected_step),
    }


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
        say(f"  no adherence: {JUDGE.name} of this fold and seed is not finished; materialise it, then run this again")
    expect(len(trials), "trials")
    figures, measured = {}, []
    for position, trial in enumerate(trials, 1):
        say(f"  [{position}/{len(trials)}] {trial.name}: {trial.change}")
        begin(trial.name)
        try:
            figures[trial.name] = bench.figures(trial)
            measured.append(trial)
        except TrainingDivergedError as error:
            warn(f"      diverged and is left out of the table: {error}")
        else:
            table = trials_table(measured, figures)
            write_table(table, bench.folder)
        finish("trials")
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
        versions: Data versions of what is read.
        judge: Folder of the segmenter trained on real slices; None where it is not finished.
        masks: The store of simulated masks; None where it is not finished, then validation masks serve.
    """

    forge: Forge
    fold: int
    settings: Settings
    versions: Mapping[str, str]
    judge: Path | None
    masks: Path | None

    @classmethod
    def open(cls, forge: Forge, fold: int) -> "TrialBench":
        """Look for what the trials read; `InputError` names what has to be materialised first."""
        from engine.tracking.store import prepare_store

        settings = forge.settings()
        if not settings.generates:
            method = settings.synthesis.method
            raise InputError(
                f"trials train Pix2Pix, which synthesis.method={method} does without; use synthesis.method=pix2pix"
            )
        forge.inputs("trials", forge.records((asset, fold, None) for asset in _NEEDED)).require_current()
        versions = {asset: forge.version(asset, fold) for asset in _NEEDED}
        judge = _finished(forge, JUDGE.name, fold, settings.seeds[0], versions)
        masks = _finished(forge, "lesion_masks", fold, None, versions)
        prepare_store(forge.tracking_uri(), artifact_root=forge.workspace.artifact_root)
        found = judge.model() if judge else None, masks.file("slices.h5") if masks else None
        return cls(forge, fold, settings, versions, *found)

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
        from engine.worker.process import run_task

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
            tracking=self._tracking(trial, key, folder),
            lock=self.forge.accelerator_lock(),
            deterministic=self.settings.deterministic,
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

    def _tracking(self, trial: Trial, key: str, folder: Path) -> dict[str, Any]:
        """Return what a tracker is told of a trial, whose training and whose figures are one run."""
        run = RunIdentity(f"trials/{trial.name}", self.fold, self.settings.split_seed, key)
        tags = {"stage": "trials", "network": trial.name, "training_set": "augmented"}
        params = {**trial.config.model_dump(mode="json"), "change": trial.change}
        return self.forge.told(run, f"trials {trial.name} fold {self.fold}", tags, params, folder)

    def _measure(self, trial: Trial, folder: Path, key: str) -> Outcome:
        from engine.worker.accelerator import borrowed

        model, settings = Finished.open(self.folder / trial.name / "model", trial.name).model(), self.settings
        lock = self.forge.accelerator_lock()
        with borrowed(settings.device, settings.precision, lock, settings.deterministic) as compute:
            material = TrialMaterial(self.forge, self.fold, settings, compute, self.judge, self.masks)
            figures = material.figures_of(model, folder)
        with Tracker.of(self._tracking(trial, key, folder)) as tracker:
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
