"""What a segmenter remembers of its training studies, so that it can say when a new one is unlike them.

A study is described twice: by the network's pooled bottleneck features, averaged over its slices, and by the
appearance of its windowed regions (detail at several scales; how bright and even healthy wall and cavity are), which
networks trained with changes of contrast learn to overlook. Each description has a mean and a Ledoit-Wolf
covariance over the training patients, and a new study has a Mahalanobis distance from it.

The threshold is 1.1 times the 95th percentile of the distances of studies that a description does not rest on: each
training patient from all the others, and the validation patients from all training patients.

A Mahalanobis distance from studies that are known, with a threshold from studies that it does not rest on.

At the end of a training: describes the training and validation studies, for prediction to compare new ones with.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy import ndimage

from common.errors import InputError, one_line
from common.files import of_the_disk, write_atomically
from imaging.labels import Tissue
from imaging.slices.store import SliceStore
from imaging.studies.split import FoldSplit
from runtime.compute import Compute
from runtime.pack import Pack, packed
from segmentation.prediction.plausibility import MEASURES, SeenRange, ventricle_measures
from segmentation.prediction.segmenter import Segmenter, load_segmenter

_PERCENTILE, _MARGIN = 95, 1.1
_RIDGE = 0.01  # of unit variance: the covariance of a handful of studies may be singular all the same
_STILL = 0.1  # a number that varies less than this share of the usual is scaled as if it varied so much


@dataclass(frozen=True, eq=False)
class Cloud:
    """Where known studies lie in a description of D numbers.

    Attributes:
        mean: (D,).
        scale: (D,), the standard deviations, by which everything is divided first.
        covariance: (D, D), Ledoit-Wolf's, of the scaled numbers.
        others: (N,), distances of studies that the description does not rest on.
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    covariance: NDArray[np.float32]
    others: NDArray[np.float32]

    @property
    def threshold(self) -> float:
        """The distance beyond which a study is unlike the known: 1.1 times the 95th percentile of the others'."""
        return _MARGIN * float(np.percentile(self.others, _PERCENTILE))

    def distances(self, studies: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the Mahalanobis distances (N,) of descriptions (N, D)."""
        scaled = (np.asarray(studies, np.float64) - self.mean) / self.scale
        solved = np.linalg.solve(self.covariance.astype(np.float64), scaled.T)
        return np.sqrt(np.einsum("nd,dn->n", scaled, solved))


def fit_cloud(training: NDArray[np.floating], patients: NDArray[np.str_], validation: NDArray[np.floating]) -> Cloud:
    """Return the cloud of training studies.

    Args:
        training: (N, D), of four patients or more.
        patients: (N,), whose studies they are: each patient in turn is left out to see how far he is from the others.
        validation: (M, D), of other patients; M may be 0.
    """
    cloud = _cloud(training)
    distances = [cloud.distances(validation)]
    for patient in np.unique(patients):
        own = patients == patient
        distances.append(_cloud(training[~own]).distances(training[own]))
    return Cloud(cloud.mean, cloud.scale, cloud.covariance, np.concatenate(distances).astype(np.float32))


def _cloud(studies: NDArray[np.floating]) -> Cloud:
    spread = studies.std(axis=0)
    scale = np.maximum(spread, max(_STILL * float(spread.mean()), 1e-6)).astype(np.float32)
    mean = studies.mean(axis=0).astype(np.float32)
    from sklearn.covariance import LedoitWolf  # a second, which only who remembers studies needs

    covariance = LedoitWolf(assume_centered=True).fit((studies - mean) / scale).covariance_
    covariance += _RIDGE * np.eye(len(mean))
    return Cloud(mean, scale, covariance.astype(np.float32), np.empty(0, np.float32))


FILE = "familiarity.safetensors"
DESCRIPTIONS = ("features", "appearance")
_PARTS = ("mean", "scale", "covariance", "others")
_SCALES_PX = (1, 2, 4, 8)  # standard deviations of the smoothing
_LEAST_DETAIL = 1e-3
# Healthy myocardium and cavity are numbered alike in every label set.
_HEALTHY, _CAVITY = int(Tissue.NORMAL_MYOCARDIUM), int(Tissue.CAVITY)


@dataclass(frozen=True, eq=False)
class Familiarity:
    """What one network remembers: a cloud for each description, and the measures of the reference labels."""

    clouds: Mapping[str, Cloud]
    seen: SeenRange


@dataclass(frozen=True)
class Distance:
    """How far a study lies from the training, and how far it may; medians over the networks."""

    distance: float
    threshold: float


@dataclass(frozen=True)
class FamiliarityCheck:
    """A new study beside the training, by description."""

    distances: Mapping[str, Distance]

    @property
    def sentence(self) -> str:
        """What is unlike, with the figures; empty where nothing is."""
        far = [
            f"{name} at distance {one.distance:.1f} ({one.threshold:.1f} passes)"
            for name, one in self.distances.items()
            if not one.distance <= one.threshold
        ]
        return f"unlike the model's training studies: {', '.join(far)}" if far else ""


def describe(
    features: NDArray[np.float32], images: NDArray[np.float32], labels: NDArray[np.uint8]
) -> dict[str, NDArray[np.float32]]:
    """Return the descriptions (D,) of one study by name.

    Args:
        features: (S, D), of one network, see `Segmenter.features`.
        images: (S, P, P), regions in [0, 1].
        labels: (S, P, P), where wall and cavity are.
    """
    return dict(zip(DESCRIPTIONS, (features.mean(axis=0), appearance(images, labels)), strict=True))


def appearance(images: NDArray[np.float32], labels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return (8,): the strength of detail at four scales, and how bright and how even healthy wall and cavity are.

    The strength is the logarithm of the standard deviation of what smoothing removes.

    Args:
        images: (S, P, P), regions in [0, 1].
        labels: (S, P, P).
    """
    smoothed = [images, *(ndimage.gaussian_filter(images, (0, sigma, sigma)) for sigma in _SCALES_PX)]
    detail = [np.log((fine - coarse).std() + _LEAST_DETAIL) for fine, coarse in pairwise(smoothed)]
    inside = [images[labels == value] for value in (_HEALTHY, _CAVITY)]
    brightness = [part.mean() if len(part) else np.median(images) for part in inside]
    evenness = [part.std() if len(part) else 0.0 for part in inside]
    return np.array([*detail, *brightness, *evenness], np.float32)


def check_familiarity(
    features: Sequence[NDArray[np.float32]],
    remembered: Sequence[Familiarity | None],
    images: NDArray[np.float32],
    labels: NDArray[np.uint8],
) -> FamiliarityCheck | None:
    """Compare a new study with what each network remembers; None where none remembers anything.

    Args:
        features: One a network, (S, D), see `StudyPrediction.features`.
        remembered: By each of the networks.
        images: (S, P, P), regions in [0, 1].
        labels: (S, P, P), the prediction.
    """
    pairs = [(one, own) for one, own in zip(features, remembered, strict=True) if own is not None]
    found: dict[str, list[tuple[float, float]]] = {}
    for one, own in pairs:
        for name, description in describe(one, images, labels).items():
            cloud = own.clouds[name]
            found.setdefault(name, []).append((float(cloud.distances(description[None])[0]), cloud.threshold))
    medians = {name: Distance(*np.median(values, axis=0).tolist()) for name, values in found.items()}
    return FamiliarityCheck(medians) if medians else None


def seen_range(remembered: Iterable[Familiarity | None]) -> SeenRange | None:
    """Return the range over all networks' training studies; None where none remembers any."""
    known = [one.seen for one in remembered if one is not None]
    if not known:
        return None
    return SeenRange(
        {name: min(one.lowest[name] for one in known) for name in MEASURES},
        {name: max(one.highest[name] for one in known) for name in MEASURES},
    )


def write_familiarity(folder: Path, familiarity: Familiarity) -> None:
    """Write `familiarity.safetensors` into a model folder."""
    tensors = {
        f"{name}/{part}": np.ascontiguousarray(getattr(cloud, part), np.float32)
        for name, cloud in familiarity.clouds.items()
        for part in _PARTS
    }
    for side in ("lowest", "highest"):
        values: Mapping[str, float] = getattr(familiarity.seen, side)
        tensors[f"seen/{side}"] = np.array([values[name] for name in MEASURES], np.float32)
    write_atomically(folder / FILE, lambda part: save_file(tensors, part))


def read_familiarity(folder: Path) -> Familiarity | None:
    """Read what a model remembers; None for older models, which remember nothing.

    Raises:
        InputError: The file is damaged.
    """
    path, pack = folder / FILE, packed(folder)
    if not (pack or path.exists()):
        return None
    try:
        tensors = _of_pack(pack, folder.name) if pack else load_file(path)
        if not tensors:
            return None
        clouds = {name: _checked(Cloud(*(tensors[f"{name}/{part}"] for part in _PARTS))) for name in DESCRIPTIONS}
        sides = (dict(zip(MEASURES, tensors[f"seen/{side}"].tolist(), strict=True)) for side in ("lowest", "highest"))
        return Familiarity(clouds, SeenRange(*sides))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise of_the_disk(path, error) or InputError(
            f"{path}: cannot be read ({one_line(error)}); rematerialise the model asset"
        ) from error


def _checked(cloud: Cloud) -> Cloud:
    size = len(cloud.mean)
    shapes = (cloud.mean.shape, cloud.scale.shape, cloud.covariance.shape)
    if shapes != ((size,), (size,), (size, size)) or cloud.others.ndim != 1 or not len(cloud.others):
        raise ValueError(f"its numbers have the shapes {shapes} and {cloud.others.shape}")
    cloud.distances(np.zeros((1, size)))  # a covariance that cannot be inverted
    return cloud


def as_packed(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Return what a model remembers under the names that a pack gives it; empty for older models."""
    path = folder / FILE
    return {name.replace("/", "."): one for name, one in load_file(path).items()} if path.exists() else {}


def _of_pack(pack: Pack, part: str) -> dict[str, NDArray[np.float32]]:
    return {name.replace(".", "/"): one for name, one in pack.arrays(part, "familiarity").items()}


_FEWEST = 4  # training patients: with one left out, three remain

Key = tuple[str, str]  # patient and frame


def remember_training(folder: Path, real: SliceStore, split: FoldSplit, compute: Compute) -> Familiarity | None:
    """Write `familiarity.safetensors` into a finished model folder.

    Args:
        folder: Of the model.
        real: The real slices of all patients of the fold.
        split: Training patients are remembered, validation patients tell how far others may lie; test patients do
            nothing here.
        compute: Device and precision.

    Returns:
        What was written; None where fewer than four patients cannot tell what is usual.
    """
    if len(split.train) < _FEWEST:
        return None
    segmenter = load_segmenter(folder, compute, flips=False)
    training, validation = _keys(real, split.train), _keys(real, split.validation)
    described = {key: _describe(segmenter, real, key) for key in (*training, *validation)}
    patients = np.array([case_id for case_id, _ in training])
    clouds = {
        name: fit_cloud(_stack(described, training, name), patients, _stack(described, validation, name))
        for name in described[training[0]]
    }
    familiarity = Familiarity(clouds, _seen(real, training))
    write_familiarity(folder, familiarity)
    return familiarity


def _keys(real: SliceStore, patients: Sequence[str]) -> list[Key]:
    rows = real.rows[real.rows["case_id"].isin(patients)]
    return sorted(set(zip(rows["case_id"].astype(str), rows["frame"].astype(str), strict=True)))


def _index(real: SliceStore, key: Key) -> NDArray[np.int64]:
    rows = real.rows
    return np.flatnonzero((rows["case_id"] == key[0]) & (rows["frame"] == key[1]))


def _describe(segmenter: Segmenter, real: SliceStore, key: Key) -> dict[str, NDArray[np.float32]]:
    images = real.images(_index(real, key)).astype(np.float32)
    return describe(segmenter.features(images), images, segmenter.labels(images))


def _stack(described: dict[Key, dict[str, NDArray[np.float32]]], keys: Iterable[Key], name: str) -> NDArray[np.float32]:
    rows = [described[key][name] for key in keys]
    return np.stack(rows) if rows else np.empty((0, len(next(iter(described.values()))[name])), np.float32)


def _seen(real: SliceStore, keys: Iterable[Key]) -> SeenRange:
    measures = [ventricle_measures(real.masks(_index(real, key)), real.label_set) for key in keys]
    table = np.array([[one[name] for name in MEASURES] for one in measures])
    lowest, highest = np.fmin.reduce(table), np.fmax.reduce(table)  # NaN where no study has the measure
    return SeenRange(
        dict(zip(MEASURES, lowest.tolist(), strict=True)), dict(zip(MEASURES, highest.tolist(), strict=True))
    )
