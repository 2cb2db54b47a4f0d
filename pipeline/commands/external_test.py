"""`scarforge external-test`: trained models and another source's labelled studies in, tables of scores out.

What a user of `scarforge external-test` may choose, checked before anything is read.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from common.errors import InputError
from common.files import mark_own, write_json
from common.guard import guarded
from common.pages.words import words
from common.progress import say, shown_live, track, warn
from engine.settings import Settings, load_settings, profile_names
from engine.worker.accelerator import device_of_command
from imaging.sources.files import source_digest
from imaging.sources.table import Studies, read_source, source_format, source_labels, source_root
from imaging.studies.study import RejectedStudy, Study
from pipeline.commands.evaluate import print_summary
from pipeline.commands.models import LoadedModel, ModelName, find_model, load_model
from pipeline.commands.output import check_folder, print_markdown
from pipeline.commands.predict.predict import FINE, WITH_FLAGS, WITH_PROBLEMS
from pipeline.commands.predict.report import model_facts
from pipeline.commands.seen_patients import seen_at_the_start, seen_by_packs, seen_patients, trained_things
from runtime.compute import Compute
from segmentation.comparison.text import render_differences
from segmentation.evaluation.evaluation import Evaluation
from segmentation.evaluation.external_test import (
    Candidate,
    ExternalTables,
    ModelUnderTest,
    ReferenceBox,
    References,
    SeenPatients,
    common_labels,
    evaluate_tested,
    refuse_seen,
    tabulate,
)
from segmentation.prediction.study import BoxPredictor, predict_checked
from segmentation.scoring.scores import ScoreIdentity, write_scores

LOCALISER, REFERENCE = "localiser", "reference"
CROPS = (LOCALISER, REFERENCE)
_SET = ("source.", "phantom.")


@dataclass(frozen=True)
class ExternalTestOptions:
    """What a user may choose.

    Attributes:
        models: Each a pack's name or file, or `SOURCE/PROFILE/NETWORK/TRAINING_SET`.
        source: A key of `imaging.sources.table.SOURCES`.
        root: The folder of its studies; None for a source that needs none.
        output: Folder of the tables.
        fold: Only this fold's models.
        localiser: `SOURCE/PROFILE` whose localisers are taken.
        crop: Cut around the localiser's box or around the reference's.
        flips: Flips at test time; None does as each model's configuration says.
        post_processing: Correct label maps by the steps that each model's validation patients chose, and leave out
            unsure lesions unless those patients lose by it.
        overrides: `source.` and `phantom.` settings, `key=value`.
    """

    models: tuple[str, ...]
    source: str
    root: Path | None
    output: Path
    fold: int | None = None
    localiser: str | None = None
    crop: str = LOCALISER
    flips: bool | None = None
    post_processing: bool = False
    overrides: tuple[str, ...] = ()

    @property
    def around_reference(self) -> bool:
        """Whether regions are cut around the reference."""
        return self.crop == REFERENCE

    @property
    def used_root(self) -> Path | None:
        """The folder of the studies; None for a source that is drawn."""
        return self.root if source_format(self.source).needs_root else None


def checked_names(home: Path, options: ExternalTestOptions) -> list[ModelName]:
    """Return the models' names after a look at everything that needs no study."""
    names = [find_model(home, text) for text in options.models]
    twice = [str(name) for name, times in Counter(names).items() if times > 1]
    if twice or not names:
        raise InputError(
            f"model {twice[0]} is named twice; name it once" if twice else "no model is named; give --model"
        )
    if options.crop not in CROPS:
        raise InputError(f"--crop {options.crop!r} is unknown; choose one of {', '.join(CROPS)}")
    if options.around_reference and options.localiser is not None:
        raise InputError("--crop reference needs no localiser; leave out one of --crop and --localiser")
    source_root(options.source, options.root)
    return names


def source_settings(name: ModelName, options: ExternalTestOptions) -> Settings:
    """Return the settings that tell how the source is read; the first model's profile says what a phantom draws."""
    for override in options.overrides:
        if not override.startswith(_SET):
            raise InputError(f"--set {override!r} would change nothing here; only {' and '.join(_SET)} settings count")
    profile = name.profile if name.profile in profile_names() else "quick"
    return load_settings(profile, options.overrides)


def external_test(home: Path, options: ExternalTestOptions) -> int:
    """Segment the studies of a source with every model, score them against their references, write and print.

    Args:
        home: The workspace.
        options: What a user may choose.

    Returns:
        The exit status: 2 where a study could not be read or segmented, else 3 where one was flagged, else 0.

    Raises:
        InputError: There is no such model or source, the model was trained on these patients, nothing was scored, or
            nothing can be written.
    """
    names = checked_names(home, options)
    check_folder(options.output)
    settings = source_settings(names[0], options)
    with device_of_command(home) as compute:
        models = [_load(home, name, options, compute) for name in names]
        labels = common_labels(
            [source_labels(options.source, settings.source), *(m.segmenter.label_set for m in models)]
        )
        say(f"scored tissues: {', '.join(map(words, labels.tissues[1:]))}; {compute.description}")
        seen = [seen_patients(one, options.source) for one in trained_things(home, models, options.localiser)]
        seen += seen_by_packs(home, models, options.localiser)
        refuse_seen(
            _candidates(_read(settings, options)), options.source, [*seen, *seen_at_the_start(models, options.source)]
        )
        run = ExternalTestRun(tuple(zip(models, _under_test(models, options.fold), strict=True)), References(labels))
        with shown_live():
            for item in track(_read(settings, options), f"studies of {options.source}"):
                run.add(item, options.around_reference)
    return run.finish(options, _facts(options, settings, seen))


@dataclass(frozen=True)
class ExternalTestRun:
    """Segments study by study, and remembers what the tables tell."""

    pairs: tuple[tuple[LoadedModel, ModelUnderTest], ...]
    references: References

    def add(self, item: Study | RejectedStudy, around_reference: bool) -> None:
        """Segment one study with every model; what is wrong with it is a line, and the others go on."""
        if not self.references.add(item):
            warn(f"scarforge: {self.references.problems[-1]}")
            return
        assert isinstance(item, Study), "the others are no references"
        for note in item.notes:
            warn(f"warning: {f'{item.case_id} {item.frame}'.strip()}: {note}")
        for model, tested in self.pairs:
            with guarded(item.path, partial(self._fail, item, tested)):
                self._segment(item, model, tested, [ReferenceBox(item)] if around_reference else model.localisers)

    def finish(self, options: ExternalTestOptions, facts: Mapping[str, Any]) -> int:
        """Write and print the tables, and return the exit status."""
        models = [tested for _, tested in self.pairs]
        evaluations = [evaluate_tested(self.references, tested) for tested in models]
        tables = tabulate(models, evaluations)
        mark_own(options.output, ("external_test.json", *(f"{name}.csv" for name in tables.by_name())))
        for name, table in tables.by_name().items():
            _write_or_remove(options.output / f"{name}.csv", table)
        own = [self._facts_of(*pair, each) for pair, each in zip(self.pairs, evaluations, strict=True)]
        warnings = [note for notes in self.references.notes.values() for note in notes] + self._cautions(evaluations)
        content = {**facts, "label_set": self.references.labels.name, "warnings": warnings, "models": own}
        write_json(options.output / "external_test.json", content)
        self._print(tables, evaluations, options.output)
        problems = any(evaluation.problems for evaluation in evaluations)
        return WITH_PROBLEMS if problems else WITH_FLAGS if any(tested.flagged for tested in models) else FINE

    def _cautions(self, evaluations: Sequence[Evaluation]) -> list[str]:
        """Tell what makes label maps suspect and return the lines: of references once, of predictions by model."""
        lines = dict.fromkeys(
            f"{self._prefix(tested) if caution.of_predictions else ''}{caution.line}"
            for (_, tested), evaluation in zip(self.pairs, evaluations, strict=True)
            for caution in evaluation.cautions
        )
        for line in lines:
            warn(f"warning: {line}")
        return list(lines)

    def _print(self, tables: ExternalTables, evaluations: Sequence[Evaluation], output: Path) -> None:
        models = [tested for _, tested in self.pairs]
        print_summary({tested.name: tested.rows_of(tables.summary) for tested in models})
        if tables.differences is not None:
            first, second = (tested.name for tested in models)
            heading = f"{second} minus {first}, paired by patient, positive rule; the intervals are over patients:"
            print_markdown(f"\n{heading}\n\n{render_differences(tables.differences)}")
        for tested, evaluation in zip(models, evaluations, strict=True):
            print(f"\n{self._prefix(tested)}{_counted(tested, evaluation)}")
        print(f"Tables: {output}")

    def _segment(
        self, study: Study, model: LoadedModel, tested: ModelUnderTest, localisers: Sequence[BoxPredictor]
    ) -> None:
        found = predict_checked(
            study.image, study.spacing_mm, model.segmenter, localisers, model.region, model.familiarity, study.path
        )
        tested.add(study, found.prediction.mask, found.flags)
        for flag in found.flags:
            warn(f"flagged: {self._prefix(tested)}{f'{study.case_id} {study.frame}'.strip()}: {flag}")

    def _fail(self, study: Study, tested: ModelUnderTest, reason: str) -> None:
        tested.fail(study, reason)
        warn(f"scarforge: {self._prefix(tested)}{reason}")

    def _prefix(self, tested: ModelUnderTest) -> str:
        return f"{tested.name}: " if len(self.pairs) > 1 else ""

    def _facts_of(self, model: LoadedModel, tested: ModelUnderTest, evaluation: Evaluation) -> dict[str, Any]:
        return {
            **model_facts(model, version("scarforge")),
            "network": tested.identity.network,
            "training_set": tested.identity.training_set,
            "studies": evaluation.studies,
            "scored": evaluation.scored,
            "flagged": tested.flagged,
            "problems": list(evaluation.problems),
        }


def _load(home: Path, name: ModelName, options: ExternalTestOptions, compute: Compute) -> LoadedModel:
    localise = not options.around_reference
    model = load_model(
        home, name, options.fold, options.localiser, compute, options.flips, options.post_processing, localise
    )
    say(f"{name}: {len(model.members)} network{'s' * (len(model.members) > 1)}, localiser {model.localiser_name}")
    return model


def _read(settings: Settings, options: ExternalTestOptions) -> Studies:
    return read_source(options.source, options.used_root, settings.phantom, settings.source)


def _candidates(items: Studies) -> list[Candidate]:
    return [Candidate.of(item) for item in items if isinstance(item, Study)]


def _under_test(models: Sequence[LoadedModel], fold: int | None) -> list[ModelUnderTest]:
    """Name the models as tables of scores do, and by source and profile, too, where these names are shared."""
    shared = Counter((model.name.network, model.name.training_set) for model in models)
    found = []
    for model in models:
        name = model.name
        alone = shared[name.network, name.training_set] == 1
        network = name.network if alone else f"{name.source}/{name.profile}/{name.network}"
        found.append(ModelUnderTest(ScoreIdentity(fold, network, name.training_set), model.segmenter.label_set))
    return found


def _facts(options: ExternalTestOptions, settings: Settings, seen: Sequence[SeenPatients]) -> dict[str, Any]:
    """Return what was tested on, for the JSON beside the tables."""
    return {
        "source": options.source,
        "root": str(options.root or ""),
        "source_digest": source_digest(options.used_root, settings.phantom),
        "options": settings.source.model_dump(mode="json"),
        "crop": options.crop,
        "told_from_training_patients_by": {one.what: one.told_by(options.source) for one in seen},
    }


def _write_or_remove(path: Path, table: pd.DataFrame | None) -> None:
    """Write a table; where there is none, remove what an earlier test of two models left."""
    if table is None:
        path.unlink(missing_ok=True)
    else:
        write_scores(path, table)


def _counted(tested: ModelUnderTest, evaluation: Evaluation) -> str:
    missing = evaluation.studies - evaluation.scored
    without = f"; those without a label map ({missing}) are in none of these scores" if missing else ""
    flagged = f", {tested.flagged} of them flagged" if tested.flagged else ""
    return f"{evaluation.scored} of {evaluation.studies} studies were scored{flagged}{without}"
