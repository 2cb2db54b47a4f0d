"""What a segmenter remembers of its training studies, so that it can say when a new one is unlike them.

A study is described twice: by the network's pooled bottleneck features, averaged over its slices, and by the
appearance of its windowed regions (detail at several scales; how bright and even healthy wall and cavity are), which
networks trained with changes of contrast learn to overlook. Each description has a mean and a Ledoit-Wolf
covariance over the training patients, and a new study has a Mahalanobis distance from it.

The threshold is 1.1 times the 95th percentile of the distances of studies that a description does not rest on: each
training patient from all the others, and the validation patients from all training patients.
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

from imaging.errors import InputError
from imaging.labels import Tissue
from segmentation.cloud import Cloud
from segmentation.plausibility import MEASURES, SeenRange
from training.files import write_atomically

FILE = "familiarity.safetensors"
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
    return {"features": features.mean(axis=0), "appearance": appearance(images, labels)}


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
    path = folder / FILE
    if not path.exists():
        return None
    try:
        tensors = load_file(path)
        names = sorted({key.split("/")[0] for key in tensors} - {"seen"})
        clouds = {name: Cloud(*(tensors[f"{name}/{part}"] for part in _PARTS)) for name in names}
        sides = (dict(zip(MEASURES, tensors[f"seen/{side}"].tolist(), strict=True)) for side in ("lowest", "highest"))
        return Familiarity(clouds, SeenRange(*sides))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); rematerialise the model asset") from error
