"""`scarforge predict`: new studies in, label maps, volumes and one page out."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from common.errors import UNFIT, InputError, some_of
from common.files import mark_own, read_json, without_own, write_atomically, write_json
from common.guard import guarded
from common.pages.words import count
from common.progress import say, track, warn
from common.tables import write_csv
from engine.workspace import packs_of
from imaging.labels import LABEL_SETS
from imaging.slices.nnunet import FIRST_CHANNEL, dataset_json
from imaging.sources.files import images_below, is_volume, nifti_stem, not_among, unread_lines
from imaging.volumes.dicom.segmentation import require_highdicom, write_dicom_segmentation
from imaging.volumes.dicom.volume import DicomVolume
from imaging.volumes.new_studies import FoundStudy, NewStudy, UnreadStudy, find_studies, volumes_of
from imaging.volumes.nifti import write_label_map, write_probability
from pipeline.commands.models import LoadedModel, ModelName, find_model, load_model
from pipeline.commands.output import check_folder
from pipeline.commands.predict.report import (
    MOST_IN_FULL,
    PagePart,
    Predicted,
    Told,
    as_json,
    as_row,
    entropy_sheet,
    image_sha256,
    model_facts,
    overlay_sheet,
    place_picture,
    png_bytes,
    render_page,
)
from runtime.pack import named_packs
from segmentation.evaluation.label_maps import PROBABILITIES

if TYPE_CHECKING:  # imports torch
    from runtime.compute import Compute

APART, NNUNET = LAYOUTS = ("scarforge", "nnunet")
FINE, WITH_PROBLEMS, WITH_FLAGS = 0, 2, 3
_FLAGGED = "flagged"
_PICTURES = ("overlays", "entropy")
_TISSUES = sorted({tissue for labels in LABEL_SETS.values() for tissue in labels.tissues})
_SUFFIXES = (".nii.gz", ".json", ".dcm")
_BEYOND_UTF8: Literal["backslashreplace"] = "backslashreplace"  # a folder above the studies may have any name


@dataclass(frozen=True)
class PredictOptions:
    """What a user may choose.

    Attributes:
        model: A pack's name or file, or `SOURCE/PROFILE/NETWORK/TRAINING_SET`; None for the pack `lge`.
        output: Folder of all results.
        fold: Only this fold's models.
        localiser: `SOURCE/PROFILE` whose localisers are taken.
        phase: Only this phase of a cine series, counted from 1.
        flips: Flips at test time; None does as the model's configuration says.
        dicom_seg: Also write DICOM segmentations.
        post_processing: Correct label maps by the steps that the model's validation patients chose, and leave out
            unsure lesions unless those patients lose by it.
        probabilities: Also write each class's probability.
        layout: `LAYOUTS`: flagged studies apart, or as nnU-Net names and lays its own predictions.
    """

    model: str | None
    output: Path
    fold: int | None = None
    localiser: str | None = None
    phase: int | None = None
    flips: bool | None = None
    dicom_seg: bool = False
    post_processing: bool = False
    probabilities: bool = False
    layout: str = APART

    @property
    def as_nnunet(self) -> bool:
        """Whether all label maps lie together and are called as nnU-Net calls them."""
        return self.layout == NNUNET


def predict(home: Path, studies: Sequence[Path], options: PredictOptions) -> int:
    """Segment studies and write everything that is known about the results.

    Args:
        home: The workspace.
        studies: Files and folders.
        options: What a user may choose.

    Returns:
        The exit status: 2 where a study could not be segmented, else 3 where one was flagged, else 0.

    Raises:
        InputError: There is no study, two have the same name, there is no such model, or nothing can be written.
    """
    from engine.worker.accelerator import device_of_command

    if options.layout not in LAYOUTS:
        raise InputError(f"--layout {options.layout!r} is unknown; choose one of {', '.join(LAYOUTS)}")
    name = find_model(home, options.model)
    check_folder(options.output)
    found = find_studies(studies)
    if options.as_nnunet:
        found = without_channels(found)
    _check_output(found, options.output)
    if options.dicom_seg:
        require_highdicom()
    with device_of_command(home) as compute:
        model = load_model(home, name, options.fold, options.localiser, compute, options.flips, options.post_processing)
        say(f"{name}: {count(len(model.members), 'network')}, localiser {model.localiser_name}; {compute.description}")
        run = PredictionRun(
            model,
            options,
            model_facts(model, version("scarforge")),
            frozenset(study.case_id for study in found),
            OtherModels(home, name, compute) if options.model is None else None,
        )
        for study in track(found, "segmenting studies"):
            run.study(study)
    run.tell_unread(studies, found)
    return run.finish()


def without_channels(found: Sequence[FoundStudy]) -> list[FoundStudy]:
    """Call studies as nnU-Net does: what its images are called is the study and, behind it, the channel `_0000`.

    Raises:
        InputError: Two studies are then called alike.
    """
    named = [replace(study, case_id=study.case_id.removesuffix(FIRST_CHANNEL)) for study in found]
    times = Counter(study.case_id for study in named)
    for study in named:
        if times[study.case_id] > 1:
            raise InputError(f"{study.path}: another study is called {study.case_id!r} without its channel; rename one")
    return named


@dataclass
class OtherModels:
    """The packs that were not asked for: one of them may fit a study that is unlike the training of the one taken."""

    home: Path
    taken: ModelName
    compute: "Compute"
    loaded: dict[str, LoadedModel | None] = field(default_factory=dict)

    def fitting(self, study: NewStudy) -> str:
        """Return the first model that finds a study like its training and segments it plausibly; empty if none does."""
        for name, path in named_packs(packs_of(self.home)).items():
            if path != self.taken.pack and (model := self._model(name, path)) is not None:
                with suppress(InputError):
                    found = predict_volume(study, model)
                    if found.familiarity is not None and not found.flags:
                        return name
        return ""

    def _model(self, name: str, path: Path) -> LoadedModel | None:
        """Load a model once; None for one that has no localiser, or cannot be read."""
        if name not in self.loaded:
            self.loaded[name] = None
            with suppress(InputError):
                self.loaded[name] = load_model(
                    self.home, ModelName.of_pack(path), None, None, self.compute, flips=False
                )
        return self.loaded[name]


@dataclass
class PredictionRun:
    """Predicts study by study, and remembers what the tables and the page tell."""

    model: LoadedModel
    options: PredictOptions
    facts: Mapping[str, Any]
    names: frozenset[str]
    others: OtherModels | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    parts: list[PagePart] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seen: dict[str, str] = field(default_factory=dict)  # names by the digest of their voxels

    def study(self, found: FoundStudy) -> None:
        """Predict every volume of a study; what is wrong with one is a line, and the others go on."""
        with guarded(found.path, partial(self._give_up, found.case_id, found.path)):
            for volume in volumes_of(found, self.options.phase):
                self._frame(found, volume)

    def finish(self) -> int:
        """Write the table and the page, and return the exit status."""
        output = self.options.output
        table = pd.DataFrame(self.rows)
        mark_own(output, ("predictions.csv", "index.html"))
        if self.rows:
            write_atomically(output / "predictions.csv", lambda part: write_csv(table, part))
        else:
            (output / "predictions.csv").unlink(missing_ok=True)  # of an earlier run
        if self.options.as_nnunet:
            mark_own(output, ("dataset.json",))
            write_json(output / "dataset.json", dataset_json(self.model.segmenter.label_set, len(self.rows)))
        labels, calibration = self.model.segmenter.label_set, self.model.calibration
        page = render_page(self.parts, self.problems, self.facts, labels, calibration)
        write_atomically(output / "index.html", lambda part: _write_text(part, page))
        self._tell_earlier()
        flagged = [row for row in self.rows if row["flags"]]
        segmented = count(len(self.rows), "study", "studies")
        say(f"{segmented} segmented, {len(flagged)} of them flagged; {output}/index.html")
        return WITH_PROBLEMS if self.problems else WITH_FLAGS if flagged else FINE

    def _tell_earlier(self) -> None:
        """Name the results that other runs left in the same folder: the table and the page are of this run alone."""
        output, told = self.options.output, {row["case_id"] for row in self.rows}
        there = {path for place in (output, output / _FLAGGED) for path in place.glob("*.json")}
        if others := sorted({path.stem for path in there - set(without_own(there))} - told - {"dataset"}):
            say(f"{output}: also holds {some_of(others)} of other runs, which predictions.csv and index.html leave out")

    def _frame(self, found: FoundStudy, volume: UnreadStudy) -> None:
        if volume.case_id != found.case_id and volume.case_id in self.names:
            self._refuse(f"{volume.path}: another study is called {volume.case_id!r}; rename one of them")
            return
        with guarded(volume.path, partial(self._give_up, volume.case_id, volume.path)):
            self._volume(volume)

    def _volume(self, volume: UnreadStudy) -> None:
        study = volume.read()
        if other := _of_another(self.options.output, study):
            self._refuse(
                f"{study.path}: its result would replace {other}; choose another --output, or rename the study"
            )
            return
        study = self._told_of_its_twin(study)
        predicted = replace(predict_volume(study, self.model), apart=not self.options.as_nnunet)
        unlike = predicted.familiarity is not None and predicted.familiarity.sentence
        if unlike and self.others is not None and (other := self.others.fitting(study)):
            fits = f"the model {other!r} fits this study; predict it with --model {other}"
            predicted = replace(predicted, flags=(*predicted.flags, fits))
        for text in predicted.study.notes:
            warn(f"warning: {predicted.case_id}: {text}")
        for text in predicted.flags:
            warn(f"flagged: {predicted.case_id}: {text}")
        with self._whole_or_none(predicted.case_id):
            pictures = self._write(predicted)
        row = as_row(predicted, self.facts)
        self.rows.append(row)
        alike = sum(bool(part.told.flags) == bool(predicted.flags) for part in self.parts)
        in_full = alike < MOST_IN_FULL
        labels = self.model.segmenter.label_set
        self.parts.append(PagePart.of(predicted, pictures, labels) if in_full else PagePart(Told.of(predicted)))

    def _told_of_its_twin(self, study: NewStudy) -> NewStudy:
        """Return a study with a note where this run has met the same voxels under another name."""
        first = self.seen.setdefault(image_sha256(study), study.case_id)
        if first == study.case_id:
            return study
        return replace(study, twin=f"has the same voxels as {first}")

    @contextmanager
    def _whole_or_none(self, case_id: str) -> Iterator[None]:
        """Leave nothing of a study whose files cannot all be written, or that a signal interrupts."""
        try:
            yield
        except BaseException:
            with suppress(OSError):
                _remove_earlier(self.options.output, case_id)
            raise

    def _write(self, predicted: Predicted) -> dict[str, bytes]:
        """Write a study's own files and return its pictures."""
        output, labels = self.options.output, self.model.segmenter.label_set
        _remove_earlier(output, predicted.case_id)
        place, case_id = output / predicted.folder, predicted.case_id
        _mark(place, case_id)
        write_label_map(place / f"{case_id}.nii.gz", predicted.prediction.mask, predicted.study.volume)
        if self.options.probabilities:
            self._write_probabilities(place / PROBABILITIES, predicted)
        if self.options.dicom_seg:
            self._write_dicom(place / f"{case_id}.dcm", predicted)
        drawn = (overlay_sheet(predicted.prediction, labels), entropy_sheet(predicted.prediction, labels))
        pictures = {name: png_bytes(picture) for name, picture in zip(_PICTURES, drawn, strict=True)}
        for name, content in pictures.items():
            write_atomically(place / name / f"{case_id}.png", partial(_write_bytes, content=content))
        write_json(place / f"{case_id}.json", as_json(predicted, self.facts))
        return pictures | {"place": png_bytes(place_picture(predicted.prediction))}

    def _write_probabilities(self, place: Path, predicted: Predicted) -> None:
        from segmentation.prediction.study import native_probabilities

        mark_own(place, _probability_files(predicted.case_id))
        temperature = self.model.calibration.temperature if self.model.calibration else 1.0
        classes = np.moveaxis(native_probabilities(predicted.prediction, temperature), 1, 0)
        for tissue, probability in zip(self.model.segmenter.label_set.tissues, classes, strict=True):
            path = place / f"{predicted.case_id}_{tissue}.nii.gz"
            write_probability(path, probability, predicted.study.volume)

    def _write_dicom(self, path: Path, predicted: Predicted) -> None:
        volume = predicted.study.volume
        if not isinstance(volume, DicomVolume):
            warn(f"{predicted.case_id}: no DICOM segmentation, since the study is NIfTI")
            return
        labels = self.model.segmenter.label_set
        try:
            write_dicom_segmentation(path, predicted.prediction.mask, volume, labels, self.facts["name"])
        except InputError as error:  # the label map as NIfTI and all else stay
            self._refuse(str(error))

    def tell_unread(self, given: Sequence[Path], found: Sequence[FoundStudy]) -> None:
        """Tell which files of the folders that were given look like images and are no studies; pictures never are."""
        unread = not_among([path for study in found for path in (study.path, *study.files)])
        output = self.options.output.resolve()
        others = [
            path
            for path in images_below(given)
            if unread(path) and path.parent.name not in _PICTURES and not path.resolve().is_relative_to(output)
        ]
        beside = [path for path in others if nifti_stem(path) in self.names]
        if beside:
            warn(f"scarforge: label maps called as their images are left out: {some_of(beside)}")
        volumes = [path for path in others if is_volume(path) and nifti_stem(path) not in self.names]
        for problem in unread_lines(volumes, "save it as .nii.gz, or move it elsewhere"):
            self._refuse(problem)
        pictures = (path for path in others if not is_volume(path))
        for line in unread_lines(pictures, "only NIfTI and DICOM are segmented"):
            warn(f"scarforge: {line}")

    def _refuse(self, problem: str) -> None:
        """Tell a problem, and remember it for the page and the exit status."""
        self.problems.append(problem)
        warn(f"scarforge: {problem}")

    def _give_up(self, case_id: str, path: Path, problem: str) -> None:
        """Tell why a study has no result, and leave none of it, neither half of one nor an earlier run's."""
        self._refuse(problem)
        with suppress(OSError):
            if not _of_another_place(self.options.output, case_id, path):
                _remove_earlier(self.options.output, case_id)


def predict_volume(study: NewStudy, model: LoadedModel) -> Predicted:
    """Segment one volume, and compare it and its result with the training.

    Raises:
        InputError: There is no contrast or no ventricle to cut around.
    """
    from segmentation.prediction.study import interval_ml, predict_checked

    segmenter = model.segmenter
    image, spacing_mm, source = study.volume.image, study.volume.spacing_mm, str(study.path)
    found = predict_checked(image, spacing_mm, segmenter, model.localisers, model.region, model.familiarity, source)
    intervals_ml = interval_ml(found.prediction.volumes_ml, model.intervals)
    return Predicted(study, found.prediction, found.familiarity, found.flags, intervals_ml=intervals_ml)


def _check_output(found: Sequence[FoundStudy], output: Path) -> None:
    """Refuse to write a label map over the study it is drawn on."""
    for study in found:
        own = {path.resolve() for path in _files_of(output, study.case_id)}
        for path in (study.path, *study.files):
            if path.resolve() in own:
                raise InputError(f"{path}: would be overwritten by its own result; choose another folder than {output}")


def _of_another(output: Path, study: NewStudy) -> str:
    """Return what stands in the place of a study's result and was not made from this image; empty where nothing does.

    A result of this study or of a copy of it, or what an interrupted run left of one, is free to be replaced.
    """
    told = _earlier_inputs(output, study.case_id)
    for place, earlier in told.items():
        if earlier["image_sha256"] != image_sha256(study):
            return f"{place}, which was made from other images, of {earlier['path']}"
    foreign = None if told else _foreign(output, study.case_id)
    return f"{foreign}, which ScarForge did not write" if foreign else ""


def _of_another_place(output: Path, case_id: str, path: Path) -> bool:
    """Whether a result of this name tells that it is of another file or folder, or is none of this program's."""
    told = _earlier_inputs(output, case_id)
    if told:
        return any(earlier["path"] != str(path.absolute()) for earlier in told.values())
    return _foreign(output, case_id) is not None


def _earlier_inputs(output: Path, case_id: str) -> dict[Path, dict[str, str]]:
    """Return what results of this name were made from, by their JSON; nothing of one that does not tell."""
    found = {}
    for path in (place / f"{case_id}.json" for place in (output, output / _FLAGGED)):
        with suppress(OSError, *UNFIT):
            told = read_json(path)["input"]
            found[path] = {"path": str(told["path"]), "image_sha256": str(told["image_sha256"])}
    return found


def _foreign(output: Path, case_id: str) -> Path | None:
    """Return the first file in the place of a study's results that is none of this program's."""
    return next(without_own(path for path in _files_of(output, case_id) if path.exists()), None)


def _remove_earlier(output: Path, case_id: str) -> None:
    """Remove what an earlier run left of a study, which may have been flagged then and not now."""
    for path in _files_of(output, case_id):
        path.unlink(missing_ok=True)


def _files_of(output: Path, case_id: str) -> Iterator[Path]:
    for place in (output, output / _FLAGGED):
        yield from (place / f"{case_id}{suffix}" for suffix in _SUFFIXES)
        yield from (place / name / f"{case_id}.png" for name in _PICTURES)
        yield from (place / PROBABILITIES / name for name in _probability_files(case_id))


def _probability_files(case_id: str) -> list[str]:
    return [f"{case_id}_{tissue}.nii.gz" for tissue in _TISSUES]


def _mark(place: Path, case_id: str) -> None:
    """Mark the results of a study, so that a later search of a folder above does not take them for studies."""
    mark_own(place, (f"{case_id}{suffix}" for suffix in _SUFFIXES))
    for name in _PICTURES:
        mark_own(place / name, (f"{case_id}.png",))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors=_BEYOND_UTF8, newline="\n")


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)
