"""What `scarforge predict` tells about one study: as JSON, and as a row of predictions.csv."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from imaging.volumes.new_studies import NewStudy
from pipeline.commands.models import LoadedModel
from segmentation.prediction.familiarity import FamiliarityCheck
from segmentation.prediction.study import StudyPrediction

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


def as_json(predicted: Predicted, model: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that is told of one study."""
    prediction, volume = predicted.prediction, predicted.study.volume
    return {
        "case_id": predicted.case_id,
        "study": str(predicted.study.path),
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
