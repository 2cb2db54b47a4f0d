"""What `scarforge predict` tells about studies: JSON and a row of predictions.csv for each, and one HTML page of all.

The page has no script and no network, and every text from the data is escaped. Its pictures of a predicted study:
labels over every slice, entropy, and where the region was cut.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from common.pages.kit import (
    BLUE,
    LINE,
    MARKERS,
    VERMILION,
    Marked,
    Picture,
    Table,
    data_address,
    png_address,
    render,
    svg_picture,
    svg_style,
    table,
    tidy,
)
from common.pages.words import ABSENT, count, listed, percent, significant, upper_first, words
from imaging.labels import LabelSet
from imaging.overlay import contact_sheet, outlines
from imaging.studies.preparation import apply_window, intensity_window
from imaging.studies.study import digest_of
from imaging.volumes.new_studies import NewStudy
from pipeline.commands.models import LoadedModel
from runtime.pack import Calibration
from segmentation.prediction.familiarity import FamiliarityCheck
from segmentation.prediction.study import StudyPrediction, TissueUncertainty

NOT_CHECKED = "not checked"
NOT_ASKED_FOR = "not asked for"
NOT_CALIBRATED = "not calibrated"


@dataclass(frozen=True, eq=False)
class Predicted:
    """One study, what a model made of it, and what is odd about it.

    Attributes:
        study: As it was read.
        prediction: Its labels, volumes and uncertainty.
        familiarity: Beside the training studies; None for models that remember none.
        flags: A sentence each.
        apart: Whether its files lie apart where it is flagged.
        intervals_ml: Lower and upper end of what nine of ten volumes lie in, by tissue and group; empty where the
            model does not tell.
    """

    study: NewStudy
    prediction: StudyPrediction
    familiarity: FamiliarityCheck | None
    flags: tuple[str, ...]
    apart: bool = True
    intervals_ml: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def case_id(self) -> str:
        """The study's name."""
        return self.study.case_id

    @property
    def folder(self) -> Path:
        """Where its files lie, from the output folder."""
        return Path("flagged") if self.flags and self.apart else Path()


def model_facts(model: LoadedModel, code_version: str) -> dict[str, Any]:
    """Return what was used, for every output."""
    return {
        "name": str(model.name),
        "members": [{"fold": member.fold, "seed": member.seed} for member in model.members],
        "localiser": model.localiser_name,
        "flips": model.segmenter.flips,
        "precision": model.segmenter.compute.precision,
        "temperature": model.calibration.temperature if model.calibration else NOT_CALIBRATED,
        "post_processing": [asdict(step) for step in model.post_processing] or NOT_ASKED_FOR,
        "region": model.region.model_dump(mode="json"),
        "label_set": model.segmenter.label_set.name,
        "labels": dict(enumerate(model.segmenter.label_set.tissues)),
        "code_version": code_version,
    }


def image_sha256(study: NewStudy) -> str:
    """Return a digest of a study's voxels, which tells it from another of the same name, in one place even."""
    return digest_of(study.volume.image)


def as_json(predicted: Predicted, model: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that is told of one study."""
    prediction, volume = predicted.prediction, predicted.study.volume
    return {
        "case_id": predicted.case_id,
        "study": str(predicted.study.path),
        "input": {"path": str(predicted.study.path.absolute()), "image_sha256": image_sha256(predicted.study)},
        "label_map": str(predicted.folder / f"{predicted.case_id}.nii.gz"),
        "flags": list(predicted.flags),
        "warnings": list(predicted.study.notes),
        "familiarity": asdict(predicted.familiarity)["distances"] if predicted.familiarity else NOT_CHECKED,
        "volumes_ml": dict(prediction.volumes_ml),
        "intervals_ml": {name: list(ends) for name, ends in predicted.intervals_ml.items()},
        "percent_of_myocardium": dict(prediction.shares_percent),
        "uncertainty": {tissue: asdict(value) for tissue, value in prediction.uncertainty.items()},
        "box_mm": prediction.box._asdict(),
        "slices_rows_columns": list(prediction.mask.shape),
        "spacing_mm": list(volume.spacing_mm),
        "affine": volume.affine.tolist(),
        "model": dict(model),
    }


def as_row(predicted: Predicted, model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same as one flat row; without the geometry."""
    prediction, check, between = predicted.prediction, predicted.familiarity, predicted.intervals_ml
    ends = {end: {name: pair[place] for name, pair in between.items()} for place, end in enumerate(("low", "high"))}
    return {
        "case_id": predicted.case_id,
        "study": str(predicted.study.path),
        "label_map": str(predicted.folder / f"{predicted.case_id}.nii.gz"),
        "flags": " | ".join(predicted.flags),
        "warnings": " | ".join(predicted.study.notes),
        "likeness": (check.sentence or "like the training studies") if check else NOT_CHECKED,
        **({f"{name}_distance": one.distance for name, one in check.distances.items()} if check else {}),
        **{f"{name}_ml": value for name, value in prediction.volumes_ml.items()},
        **{f"{name}_ml_{end}": value for end, values in ends.items() for name, value in values.items()},
        **{f"{name}_percent_of_myocardium": value for name, value in prediction.shares_percent.items()},
        **{f"{tissue}_entropy": value.entropy for tissue, value in prediction.uncertainty.items()},
        **{f"{tissue}_spread_ml": value.spread_ml for tissue, value in prediction.uncertainty.items()},
        "model": model["name"],
        "members": len(model["members"]),
        "localiser": model["localiser"],
    }


_DESCRIBED = {
    "entropy": "predictive entropy of every slice, white where all classes are equally likely",
    "place": "the whole middle slice with the region in orange and the ventricle's box in blue",
}
_MOST_NAMED = 3
MOST_IN_FULL = 100  # studies that the page shows slice by slice: a browser opens no page of thousands


class Contour(NamedTuple):
    """The outline of one tissue as the path of an SVG, in pixels of the region."""

    colour: str
    path: str


class SliceShown(NamedTuple):
    """One slice on the page: the address of the bare region, and what is drawn over it."""

    name: str
    address: str
    contours: tuple[Contour, ...]


@dataclass(frozen=True)
class Told:
    """What is told of one study without its arrays: of thousands, memory holds no more."""

    case_id: str
    path: Path
    notes: tuple[str, ...]
    flags: tuple[str, ...]
    familiarity: FamiliarityCheck | None
    volumes_ml: Mapping[str, float]
    shares_percent: Mapping[str, float | None]
    uncertainty: Mapping[str, TissueUncertainty]
    intervals_ml: Mapping[str, tuple[float, float]]

    @classmethod
    def of(cls, predicted: Predicted) -> "Told":
        """Return it of a study."""
        study, made = predicted.study, predicted.prediction
        return cls(
            case_id=predicted.case_id,
            path=study.path,
            notes=tuple(study.notes),
            flags=predicted.flags,
            familiarity=predicted.familiarity,
            volumes_ml=made.volumes_ml,
            shares_percent=made.shares_percent,
            uncertainty=made.uncertainty,
            intervals_ml=predicted.intervals_ml,
        )


@dataclass(frozen=True, eq=False)
class PagePart:
    """One study on the page.

    Attributes:
        told: What is told of it.
        pictures: PNG files by name: `entropy`, `place`; others are not shown.
        slices: Each slice with its contours; none where the page has the study in its table alone.
        size_px: Side of the slices.
    """

    told: Told
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    slices: tuple[SliceShown, ...] = ()
    size_px: int = 0

    @classmethod
    def of(cls, predicted: Predicted, pictures: Mapping[str, bytes], labels: LabelSet) -> "PagePart":
        """Return what the page shows of a study slice by slice; its arrays are not kept."""
        prediction = predicted.prediction
        slices = tuple(
            SliceShown(f"slice {place + 1}", png_address(_grey(image)), _contours(mask, labels))
            for place, (image, mask) in enumerate(zip(prediction.images, prediction.regions, strict=True))
        )
        return cls(Told.of(predicted), pictures, slices, prediction.images.shape[-1])

    @property
    def shown(self) -> dict[str, Picture]:
        """The pictures as addresses, with a text for those who do not see them."""
        return {
            name: Picture(
                data_address(self.pictures[name], "image/png"), f"{self.told.case_id}: {text}", upper_first(text)
            )
            for name, text in _DESCRIBED.items()
        }


def render_page(
    parts: Sequence[PagePart],
    problems: Sequence[str],
    model: Mapping[str, Any],
    labels: LabelSet,
    calibration: Calibration | None = None,
) -> str:
    """Return the page as text.

    Args:
        parts: The studies that were segmented.
        problems: One line for each that was not.
        model: What `pipeline.commands.predict.report.model_facts` says.
        labels: Names and colours of the tissues.
        calibration: Of the model's probabilities, where its pack tells it.
    """
    shown = [part for part in parts if part.slices]
    return render(
        "pipeline.commands.predict",
        "prediction.html.j2",
        title=_title([part.told.case_id for part in parts]),
        parts=parts,
        shown=shown,
        problems=problems,
        model=model,
        legend=[(_both(tissue, labels), labels.css_colour(value)) for value, tissue in labels.foreground],
        overview=_overview(parts) if len(parts) > 1 else None,
        volumes=[_volumes(part.told, labels) for part in shown],
        uncertainty=[_uncertainty(part.told) for part in shown],
        reliability=reliability_picture(calibration) if calibration and calibration.after else None,
        groups={
            words(name): listed([words(labels.tissues[value]) for value in values])
            for name, values in labels.official_groups.items()
            if len(values) > 1
        },
    )


def _title(names: Sequence[str]) -> str:
    """Return the name of the study, or of the first of several; that none was segmented is said too."""
    if len(names) <= _MOST_NAMED:
        return listed(names) or "No study segmented"
    return f"{', '.join(names[:_MOST_NAMED])} and {len(names) - _MOST_NAMED} more"


def _both(name: str, labels: LabelSet) -> str:
    """Return the data set's word for a tissue or group, and the clinic's."""
    term = labels.clinical_term(name)
    return f"{words(name)} ({term})" if term != ABSENT else words(name)


def _overview(parts: Sequence[PagePart]) -> Table:
    """Return a row a study, its flags before its volumes."""
    studies = [part.told for part in parts]
    names, shares = list(studies[0].volumes_ml), list(studies[0].shares_percent)
    rows = [
        [
            told.case_id,
            Marked(count(len(told.flags), "flag"), "failed") if told.flags else "none",
            *(significant(told.volumes_ml[name]) for name in names),
            *(significant(told.shares_percent[name]) for name in shares),
        ]
        for told in studies
    ]
    headings = ["study", "flags", *map(words, names)]
    headings += [f"{words(name)}, % of myocardium" for name in shares]
    return table("All studies, volumes in mL", headings, rows, ("flags",))


def _volumes(told: Told, labels: LabelSet) -> Table:
    """Return each tissue and group of one study in mL and % of the myocardium, in both vocabularies."""
    shares, between = told.shares_percent, told.intervals_ml
    rows = [
        [
            words(name),
            labels.clinical_term(name),
            significant(volume),
            *([_range(between.get(name))] if between else []),
            *([significant(shares[name]) if name in shares else ""] if shares else []),
        ]
        for name, volume in told.volumes_ml.items()
    ]
    headings = [
        "in the data set",
        "in the clinic",
        "mL",
        *(["90 % interval, mL"] if between else []),
        *(["% of myocardium"] if shares else []),
    ]
    return table(f"Volumes of {told.case_id}", headings, rows, ("in the clinic",))


def _range(ends: tuple[float, float] | None) -> str:
    return f"{significant(ends[0])} to {significant(ends[1])}" if ends else ABSENT


def _uncertainty(told: Told) -> Table:
    rows = [
        [words(tissue), significant(value.entropy), significant(value.spread_ml)]
        for tissue, value in told.uncertainty.items()
    ]
    return table(f"Uncertainty of {told.case_id}", ["tissue", "entropy", "spread, mL"], rows)


def reliability_picture(said: Calibration) -> Picture:
    """Draw how often the most probable class is right against how probable it is, before and after the temperature."""
    with mpl.rc_context(svg_style()):
        figure = Figure(figsize=(4.2, 3.9), layout="constrained")
        axes = figure.subplots()
        axes.plot((0, 1), (0, 1), "--", color=LINE, linewidth=1, label="as often as it says")
        drawn = (("before", said.before, VERMILION, said.error_before), ("after", said.after, BLUE, said.error_after))
        for (name, bins, colour, error), marker in zip(drawn, MARKERS[1::-1], strict=True):
            points = [one.confidence for one in bins], [one.accuracy for one in bins]
            label = f"{name}, error {_percent(error)}"
            axes.plot(*points, f"{marker}-", color=colour, markersize=4, linewidth=1.4, label=label)
        axes.set(
            xlim=(0, 1),
            ylim=(0, 1),
            aspect="equal",
            xlabel="probability of the most probable class",
            ylabel="how often right",
        )
        axes.legend(loc="upper left")
        tidy(axes)
        return svg_picture(figure, "Reliability curve before and after the temperature", _caption(said))


def _caption(said: Calibration) -> str:
    errors = f"{_percent(said.error_before)} before, {_percent(said.error_after)} after"
    return (
        "The most probable class of a pixel: how probable, and how often right, in fifteen bins, on test patients whom "
        "the network had not seen. Before: as the network gives it. After: its logarithm divided by the temperature "
        f"{significant(said.temperature)}, as --probabilities writes it. Expected calibration error: {errors}. Pixels "
        "that reference and prediction both leave to the background do not count."
    )


def _percent(share: float | None) -> str:
    return ABSENT if share is None else percent(share)


def _grey(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    return (255 * np.clip(image, 0, 1)).round().astype(np.uint8)


def _contours(mask: NDArray[np.uint8], labels: LabelSet) -> tuple[Contour, ...]:
    drawn = [(value, outlines(mask == value)) for value, _ in labels.foreground]
    return tuple(
        Contour(labels.css_colour(value), " ".join("M" + "L".join(f"{x:g} {y:g}" for x, y in line) for line in lines))
        for value, lines in drawn
        if lines
    )


_MOST_COLUMNS = 6
_COMPRESSION = 4
_REGION_COLOUR, _BOX_COLOUR = (255, 170, 0), (120, 220, 255)


def overlay_sheet(prediction: StudyPrediction, labels: LabelSet) -> Image.Image:
    """Return every slice's region with the labels drawn over it."""
    return _sheet(prediction.images, prediction.regions, labels)


def entropy_sheet(prediction: StudyPrediction, labels: LabelSet) -> Image.Image:
    """Return every slice's predictive entropy: black is sure, white is all classes equally likely."""
    return _sheet(prediction.entropy, np.zeros_like(prediction.regions), labels)


def place_picture(prediction: StudyPrediction) -> Image.Image:
    """Return the whole middle slice on the 1 mm grid with the region (orange) and the ventricle's box (blue)."""
    plane = prediction.prepared[len(prediction.prepared) // 2]
    grey = (255 * apply_window(plane, intensity_window(prediction.prepared))).astype(np.uint8)
    picture = Image.fromarray(grey).convert("RGB")
    draw = ImageDraw.Draw(picture)
    box, half = prediction.box, prediction.images.shape[-1] / 2
    row, column = box.centre
    draw.rectangle((column - half, row - half, column + half - 1, row + half - 1), outline=_REGION_COLOUR)
    draw.rectangle((box.left, box.top, box.right - 1, box.bottom - 1), outline=_BOX_COLOUR)
    return picture


def png_bytes(picture: Image.Image) -> bytes:
    """Return a picture as the bytes of a PNG file; the best compression would take as long as the network."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=_COMPRESSION)
    return buffer.getvalue()


def _sheet(images: NDArray[np.float32], masks: NDArray[np.uint8], labels: LabelSet) -> Image.Image:
    titles = [f"slice {place + 1}" for place in range(len(images))]
    return contact_sheet(images, masks, labels, columns=min(_MOST_COLUMNS, len(images)), titles=titles)
