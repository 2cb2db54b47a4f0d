"""What a segmenter remembers of its training studies, so that it can say when a new one is unlike them.

A study is described twice. `features` are the network's pooled bottleneck features, averaged over its slices: they
tell a heart in short axis from what is none. `contrast` tells the sequence: how fast detail fades from one scale to the
next, and how bright healthy wall is, by itself and beside what surrounds it (an inversion nulls it). How bright blood
is, and how even tissue looks, differ most between scanners, and are left out.

Each description has a mean and a Ledoit-Wolf covariance over the training patients, and a new study has a Mahalanobis
distance from it. The threshold is 1.3 times the 95th percentile of the distances of studies that a description does not
rest on: each training patient from all the others, and the validation patients from all training patients. That finds
what is nothing like the training, and passes another hospital's scanner.

Another sequence differs by less than scanners do, but always in the same way. So where models of other tissues are at
hand, such as one of cine beside one of late enhancement, a study is also placed on the line from the model's own
training to theirs (Fisher's discriminant of the two): beyond the middle, and beyond 99 of 100 of its own kind, it is
unlike.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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

_PERCENTILE, _MARGIN = 95, 1.3
_ONE_IN_HUNDRED = 2.33  # standard deviations of the normal distribution, beyond which 1 in 100 lie
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
        """The distance beyond which a study is unlike the known: 1.3 times the 95th percentile of the others'."""
        return _MARGIN * float(np.percentile(self.others, _PERCENTILE))

    def distances(self, studies: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the Mahalanobis distances (N,) of descriptions (N, D)."""
        scaled = (np.asarray(studies, np.float64) - self.mean) / self.scale
        solved = np.linalg.solve(self.covariance.astype(np.float64), scaled.T)
        return np.sqrt(np.einsum("nd,dn->n", scaled, solved))

    @property
    def full_covariance(self) -> NDArray[np.float64]:
        """(D, D) of the numbers as they are."""
        scale = self.scale.astype(np.float64)
        return np.outer(scale, scale) * self.covariance

    def towards(self, other: "Cloud", study: NDArray[np.floating]) -> "Distance":
        """Return how far a study (D,) lies on the line from here to another cloud, and how far it may.

        In standard deviations along the line, from this cloud's mean, with the mean of both covariances.
        """
        mean, apart = self.mean.astype(np.float64), other.mean - self.mean.astype(np.float64)
        weights = np.linalg.solve((self.full_covariance + other.full_covariance) / 2, apart)
        whole = max(float(np.sqrt(weights @ apart)), 1e-6)
        return Distance(float((study - mean) @ weights) / whole, max(whole / 2, _ONE_IN_HUNDRED))


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


def joined(clouds: Sequence[Cloud]) -> Cloud:
    """Return the mean of the clouds of one model's networks."""
    mean = np.mean([one.mean for one in clouds], axis=0)
    covariance = np.mean([one.full_covariance for one in clouds], axis=0)
    return Cloud(mean, np.ones_like(mean), covariance.astype(np.float32), np.empty(0, np.float32))


FILE = "familiarity.safetensors"
_PARTS = ("mean", "scale", "covariance", "others")
CONTRAST = "contrast"  # the description that means the same in every model
FEATURES = "features"
_DESCRIPTIONS = (FEATURES, CONTRAST)
_SCALES_PX = (1, 2, 4, 8)  # standard deviations of the smoothing
_CONTRASTS = len(_SCALES_PX) - 1 + 3  # how detail fades, the wall, and the wall beside what surrounds it, twice
_LEAST_DETAIL = 1e-3
_AROUND_PX = (3, 15)  # what surrounds the ventricle: further from it than the first, no further than the second
_HEALTHY = int(Tissue.NORMAL_MYOCARDIUM)  # numbered alike in every label set


@dataclass(frozen=True, eq=False)
class Familiarity:
    """What one network remembers.

    Attributes:
        clouds: One for each description; older models lack some.
        seen: The measures of the reference labels.
        others: The contrast of models of other tissues, by name; known only where they are at hand.
    """

    clouds: Mapping[str, Cloud]
    seen: SeenRange
    others: Mapping[str, Cloud] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether every description is remembered."""
        return set(self.clouds) == set(_DESCRIPTIONS)


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
    return {FEATURES: features.mean(axis=0), CONTRAST: contrast(images, labels)}


def contrast(images: NDArray[np.float32], labels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return (6,): how detail fades over four scales, how bright healthy wall is, and beside what surrounds it.

    Detail of a scale is the logarithm of the standard deviation of what smoothing removes; what surrounds the ventricle
    lies 3 to 15 px from it. Of the wall's median: the share of the surroundings below it, and its distance from theirs.

    Args:
        images: (S, P, P), regions in [0, 1].
        labels: (S, P, P).
    """
    smoothed = [images, *(ndimage.gaussian_filter(images, (0, sigma, sigma)) for sigma in _SCALES_PX)]
    detail = [np.log((fine - coarse).std() + _LEAST_DETAIL) for fine, coarse in pairwise(smoothed)]
    fading = [finer - coarser for finer, coarser in pairwise(detail)]
    wall, around = _or_all(images, labels == _HEALTHY), _or_all(images, _around(labels))
    middle = np.median(wall)
    beside = [float((around < middle).mean()), float(middle - np.median(around))]
    return np.array([*fading, wall.mean(), *beside], np.float32)


def _or_all(images: NDArray[np.float32], chosen: NDArray[np.bool_]) -> NDArray[np.float32]:
    return images[chosen] if chosen.any() else images.ravel()


def _around(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    near, far = _AROUND_PX
    apart = np.stack([ndimage.distance_transform_cdt(plane == 0, metric="taxicab") for plane in labels])
    return (apart > near) & (apart <= far)


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
        described = describe(one, images, labels)
        for name, cloud in own.clouds.items():
            found.setdefault(name, []).append((float(cloud.distances(described[name][None])[0]), cloud.threshold))
        for name, other in own.others.items() if CONTRAST in own.clouds else ():
            along = own.clouds[CONTRAST].towards(other, described[CONTRAST])
            found.setdefault(f"{CONTRAST} towards {name}", []).append((along.distance, along.threshold))
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
    tensors = _tensors(familiarity)
    write_atomically(folder / FILE, lambda part: save_file(tensors, part))


def _tensors(familiarity: Familiarity) -> dict[str, NDArray[np.float32]]:
    tensors = {
        f"{name}/{part}": np.ascontiguousarray(getattr(cloud, part), np.float32)
        for name, cloud in familiarity.clouds.items()
        for part in _PARTS
    }
    for side in ("lowest", "highest"):
        values: Mapping[str, float] = getattr(familiarity.seen, side)
        tensors[f"seen/{side}"] = np.array([values[name] for name in MEASURES], np.float32)
    return tensors


def read_familiarity(folder: Path) -> Familiarity | None:
    """Read what a model remembers, as far as it is told by a description of today; None where it remembers nothing.

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
        clouds = {name: _read_cloud(tensors, name) for name in _DESCRIPTIONS if f"{name}/mean" in tensors}
        sides = (dict(zip(MEASURES, tensors[f"seen/{side}"].tolist(), strict=True)) for side in ("lowest", "highest"))
        return Familiarity(clouds, SeenRange(*sides))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        remedy = "get the pack again from where it comes from" if pack else "rematerialise the model asset"
        raise of_the_disk(path, error) or InputError(f"{path}: cannot be read ({one_line(error)}); {remedy}") from error


def _read_cloud(tensors: Mapping[str, NDArray[np.float32]], name: str) -> Cloud:
    """Return what was remembered of one description; raise `ValueError` where nothing can be compared with it."""
    mean, scale, covariance, others = (tensors[f"{name}/{part}"] for part in _PARTS)
    size = _CONTRASTS if name == CONTRAST else mean.size
    if not (mean.shape == scale.shape == (size,) and covariance.shape == (size, size) and others.ndim == 1):
        raise ValueError(f"{name} has the shapes {mean.shape}, {scale.shape}, {covariance.shape} and {others.shape}")
    finite = all(np.isfinite(one).all() for one in (mean, scale, covariance, others))
    if not (finite and others.size and scale.min() > 0):
        raise ValueError(f"{name} is of numbers that no study gives")
    np.linalg.cholesky(covariance.astype(np.float64))  # a ValueError where it is no covariance
    return Cloud(mean, scale, covariance, others)


def remembered_by(folder: Path, feature_count: int) -> Familiarity | None:
    """Read what a model remembers, see `read_familiarity`, and compare it with its network.

    Args:
        folder: Of the model.
        feature_count: How many features the network gives.

    Raises:
        InputError: The file is damaged, or remembers features of another network.
    """
    known = read_familiarity(folder)
    size = known.clouds[FEATURES].mean.size if known and FEATURES in known.clouds else feature_count
    if size != feature_count:
        remedy = "get the pack again from where it comes from" if packed(folder) else "rematerialise the model asset"
        raise InputError(
            f"{folder / FILE}: remembers {size} features of a study where the network gives {feature_count}; {remedy}"
        )
    return known


def as_packed(familiarity: Familiarity | None) -> dict[str, NDArray[np.float32]]:
    """Return what a model remembers under the names that a pack gives it."""
    tensors = {} if familiarity is None else _tensors(familiarity)
    return {name.replace("/", "."): one for name, one in tensors.items()}


def contrast_of_pack(pack: Pack) -> Cloud | None:
    """Return the contrast that a pack's networks remember; None where one remembers none."""
    remembered = [read_familiarity(folder) for folder in pack.folders("network")]
    clouds = [one.clouds.get(CONTRAST) if one else None for one in remembered]
    known = [cloud for cloud in clouds if cloud is not None]
    return joined(known) if len(known) == len(clouds) else None


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
    familiarity = remember(folder, real, split.train, split.validation, compute)
    if familiarity is not None:
        write_familiarity(folder, familiarity)
    return familiarity


def remember(
    folder: Path, real: SliceStore, train: Sequence[str], validation: Sequence[str], compute: Compute
) -> Familiarity | None:
    """Return what a finished model can remember of its training and validation patients; nothing is written."""
    if len(train) < _FEWEST:
        return None
    segmenter = load_segmenter(folder, compute, flips=False)
    known, others = _keys(real, train), _keys(real, validation)
    described = {key: _describe(segmenter, real, key) for key in (*known, *others)}
    patients = np.array([case_id for case_id, _ in known])
    clouds = {
        name: fit_cloud(_stack(described, known, name), patients, _stack(described, others, name))
        for name in _DESCRIPTIONS
    }
    return Familiarity(clouds, _seen(real, known))


def _keys(real: SliceStore, patients: Sequence[str]) -> list[Key]:
    rows = real.rows[real.rows["case_id"].isin(patients)]
    return sorted(set(zip(rows["case_id"].astype(str), rows["frame"].astype(str), strict=True)))


def _index(real: SliceStore, key: Key) -> NDArray[np.int64]:
    rows = real.rows
    return np.flatnonzero((rows["case_id"] == key[0]) & (rows["frame"] == key[1]))


def _describe(segmenter: Segmenter, real: SliceStore, key: Key) -> dict[str, NDArray[np.float32]]:
    images = real.images(_index(real, key)).astype(np.float32)
    probabilities, features = segmenter.probabilities_and_features(images)
    return describe(features, images, probabilities.argmax(axis=1).astype(np.uint8))


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
