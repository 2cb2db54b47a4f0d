"""How far the distribution of synthetic slices is from that of real ones, in the features of each extractor."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gan.networks.features import inception_score
from gan.quality.distances import frechet_distance, kernel_distance
from gan.quality.slices import Features, Images, Vectors, inside_ventricle
from gan.quality.table import Row, between_halves, over_halves
from imaging.slices.part import PartSlices

Distance = Callable[[Vectors, Vectors], float]
_VIEWS: Mapping[str, Callable[[PartSlices], Images]] = {
    "whole": lambda slices: slices.images,
    "ventricle": lambda slices: inside_ventricle(slices.images, slices.masks),
}


@dataclass(frozen=True)
class Extractor:
    """Features of images.

    Attributes:
        name: Written beside every figure.
        features: Images (N, H, W) to vectors (N, D).
        probabilities: Vectors (N, D) to class probabilities, for the Inception Score; None without.
    """

    name: str
    features: Features
    probabilities: Callable[[Vectors], NDArray[np.floating]] | None = field(default=None)


def realism(
    drawn: Mapping[str, PartSlices],
    synthetic: PartSlices,
    training: PartSlices,
    validation: PartSlices,
    extractors: Sequence[Extractor],
    seed: int,
) -> tuple[list[Row], dict[str, Vectors]]:
    """Measure Fréchet and kernel distance, of whole slices and inside the ventricle.

    Also returns what the first extractor finds inside the ventricle: vectors (N, D) of each set by name (those of
    `drawn`, `synthetic`, `training`, `validation`).

    Args:
        drawn: By subject, drawings of the validation slices; against these.
        synthetic: Slices of the synthetic store; against training slices.
        training: Against validation slices (`real`), and one half of the patients against the other.
        validation: Real slices of validation patients.
        extractors: The first decides.
        seed: Seed of the halves.
    """
    sets = {**drawn, "synthetic": synthetic, "training": training, "validation": validation}
    pairs = {name: (name, "validation") for name in drawn}
    pairs |= {"synthetic": ("synthetic", "training"), "real": ("training", "validation")}
    rows: list[Row] = []
    deciding: dict[str, Vectors] = {}
    for extractor in extractors:
        for region, view in _VIEWS.items():
            vectors = {name: extractor.features(view(slices)) for name, slices in sets.items()}
            rows += _distances(region, pairs, sets, vectors, extractor.name, seed)
            if region == "whole" and extractor.probabilities is not None:
                rows += _scores(sets, vectors, extractor, seed)
            if region == "ventricle":
                deciding = deciding or vectors
    return rows, deciding


def _distances(
    region: str,
    pairs: Mapping[str, tuple[str, str]],
    sets: Mapping[str, PartSlices],
    vectors: Mapping[str, Vectors],
    features: str,
    seed: int,
) -> list[Row]:
    rows = []
    for measure, distance in (("frechet", frechet_distance), ("kernel", kernel_distance)):
        for subject, (one, other) in pairs.items():
            cases = (sets[one].case_ids, sets[other].case_ids)
            statistic = _between(distance, vectors[one], vectors[other])
            figure = over_halves(statistic, seed, *cases, mean_of_halves=measure == "kernel")
            rows.append(Row(measure, region, subject, figure, len(sets[one]), len(sets[other]), features))
        trained, half = sets["training"].case_ids, len(sets["training"]) // 2
        figure = between_halves(_between(distance, vectors["training"], vectors["training"]), seed, trained)
        rows.append(Row(measure, region, "real_patients", figure, half, half, features))
    return [row for row in rows if np.isfinite(row.figure.value)]


def _between(distance: Distance, first: Vectors, second: Vectors) -> Callable[..., float]:
    return lambda one, other: distance(first[one], second[other])


def _scores(
    sets: Mapping[str, PartSlices], vectors: Mapping[str, Vectors], extractor: Extractor, seed: int
) -> list[Row]:
    """Inception Score of each set; `real` are the validation slices."""
    assert extractor.probabilities is not None
    rows = []
    for name, slices in sets.items():
        if name != "training":
            figure = over_halves(_score(extractor.probabilities(vectors[name])), seed, slices.case_ids)
            subject = "real" if name == "validation" else name
            rows.append(Row("inception_score", "whole", subject, figure, len(slices), 0, extractor.name))
    return rows


def _score(probabilities: NDArray[np.floating]) -> Callable[..., float]:
    return lambda rows: inception_score(probabilities[rows])
