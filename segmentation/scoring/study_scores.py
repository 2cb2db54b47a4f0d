"""The scores of one study and of its slices: rows of the table, without the names of patient and model."""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from imaging.labels import LabelSet
from segmentation.scoring.overlap import (
    Counts,
    Transmurality,
    challenge_volumes,
    count_voxels,
    shares,
    slice_confusions,
    transmurality,
    volumes_ml,
)
from segmentation.scoring.rules import (
    CHALLENGE_VOLUMES,
    COUNT_METRICS,
    OVERLAP,
    SHARES,
    SURFACE,
    TRANSMURALITY,
    UNITS,
    VOLUMES,
    Entry,
    Level,
    entries,
    structures,
)
from segmentation.scoring.surface_distances import surface_distances

Values = tuple[int, ...]
_STUDY_RULES = ("official", "positive", "pooled")


def score_patient(
    reference: NDArray[np.integer],
    prediction: NDArray[np.integer],
    spacing_mm: tuple[float, float, float],
    labels: LabelSet,
) -> list[dict[str, Any]]:
    """Score one study (S, H, W): rows with slice_index, rule, tissue, metric, value and unit.

    Every patient has `tp_voxels`, `fp_voxels` and `fn_voxels` under `pooled`, which form the pooled overlap.

    Raises:
        InputError: Shapes differ, or a label lies outside the label set.
    """
    if reference.shape != prediction.shape or reference.ndim != 3:
        raise InputError(
            f"reference has shape {reference.shape}, prediction {prediction.shape}; both must be the same "
            "(S, H, W): put the prediction back into the study's own grid first"
        )
    labels.check(reference, "reference")
    labels.check(prediction, "prediction")
    measures = Measures(reference, prediction, spacing_mm, labels)
    rows = [
        row for rule in _STUDY_RULES for entry in entries(Level.STUDY, rule) for row in _study_rows(entry, measures)
    ]
    return [*rows, *_slice_rows(measures)]


def score_row(
    rule: str, tissue: str, metric: str, value: float, slice_index: int | None = None
) -> dict[str, int | float | str | None]:
    """Return one row of a table of scores, its unit included."""
    return {
        "slice_index": slice_index,
        "rule": rule,
        "tissue": tissue,
        "metric": metric,
        "value": float(value),
        "unit": UNITS[metric],
    }


class Measures:
    """Everything that can be measured of one study; surfaces and rays are measured once for each class.

    Args:
        reference: (S, H, W).
        prediction: The same shape.
        spacing_mm: (slice, row, column).
        labels: Their label set.
    """

    def __init__(
        self,
        reference: NDArray[np.integer],
        prediction: NDArray[np.integer],
        spacing_mm: tuple[float, float, float],
        labels: LabelSet,
    ) -> None:
        self.reference, self.prediction, self.spacing_mm, self.labels = reference, prediction, spacing_mm, labels
        self.confusions = slice_confusions(reference, prediction, labels.num_classes)
        self.confusion = self.confusions.sum(axis=0)
        self.voxel_mm3 = float(np.prod(spacing_mm))
        self._known: dict[tuple[tuple[str, ...], Values], Mapping[str, float]] = {}

    def counts(self, values: Values) -> Counts:
        """Return the voxels of the class that joins the label `values`."""
        return count_voxels(self.confusion, values)

    def of(self, values: Values, metrics: tuple[str, ...]) -> dict[str, float]:
        """Return those `metrics` of the class that exist, by name and in the order asked for."""
        found: dict[str, float] = {}
        for family, measure in self._families.items():
            if not set(family).isdisjoint(metrics):
                key = (family, values)
                if key not in self._known:
                    self._known[key] = measure(values)
                found |= self._known[key]
        return {metric: found[metric] for metric in metrics if metric in found}

    @cached_property
    def _families(self) -> dict[tuple[str, ...], Callable[[Values], Mapping[str, float]]]:
        return {
            COUNT_METRICS: lambda values: dict(zip(COUNT_METRICS, self.counts(values), strict=True)),
            OVERLAP: lambda values: self.counts(values).overlap(),
            SURFACE: lambda values: surface_distances(*self._masks(values), self.spacing_mm),
            VOLUMES: lambda values: volumes_ml(self.counts(values), self.voxel_mm3),
            CHALLENGE_VOLUMES: lambda values: challenge_volumes(self.counts(values), self._myocardium, self.voxel_mm3),
            SHARES: lambda values: shares(self.counts(values), self._myocardium),
            TRANSMURALITY: self._transmurality,
        }

    @property
    def _myocardium(self) -> Counts:
        return self.counts(self.labels.official_groups["myocardium"])

    def _masks(self, values: Values) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        return np.isin(self.reference, values), np.isin(self.prediction, values)

    def _transmurality(self, values: Values) -> dict[str, float]:
        cavity, wall = (self.labels.tissues.index("cavity"),), self.labels.official_groups["myocardium"]
        reference, predicted = (
            transmurality(np.isin(mask, cavity), np.isin(mask, wall), np.isin(mask, values), self.spacing_mm)
            for mask in (self.reference, self.prediction)
        )
        return {
            name: value
            for kind in Transmurality._fields
            for name, value in _beside(f"{kind}_transmurality", getattr(predicted, kind), getattr(reference, kind))
        }


def _beside(metric: str, predicted: float, reference: float) -> list[tuple[str, float]]:
    difference = abs(predicted - reference)
    return [(metric, predicted), (f"reference_{metric}", reference), (f"{metric}_difference", difference)]


def _study_rows(entry: Entry, measures: Measures) -> Iterator[dict[str, Any]]:
    for name, values in structures(entry.structures, measures.labels).items():
        if entry.rule == "positive" and not measures.counts(values).in_reference:
            continue
        for metric, value in measures.of(values, entry.metrics).items():
            if entry.rule == "official" or not np.isnan(value):
                yield score_row(entry.rule, name, metric, value)


def _slice_rows(measures: Measures) -> Iterator[dict[str, Any]]:
    (entry,) = entries(Level.SLICE)
    for index, confusion in enumerate(measures.confusions):
        for name, values in structures(entry.structures, measures.labels).items():
            counts = count_voxels(confusion, values)
            if not counts.empty:
                for metric, value in counts.overlap().items():
                    yield score_row(entry.rule, name, metric, value, slice_index=index)
