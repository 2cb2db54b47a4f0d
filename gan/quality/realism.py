"""How far the distribution of synthetic slices is from that of real ones, in the features of each extractor.

The distances themselves: between two sets of feature vectors (Fréchet, kernel), and between the patches of two sets of
slices: the sliced Wasserstein distance of Karras et al. 2018, §5. That one needs no trained network, takes other grain
than the real slice's for no error, and is stable on a few dozen slices, each of which holds hundreds of patches.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import ndimage

from common.errors import InputError
from common.seeds import random_generator
from gan.networks.features import inception_score
from gan.quality.slices import Features, Images, Vectors, inside_ventricle
from gan.quality.table import Row, between_halves, over_halves
from imaging.slices.part import PartSlices

Doubles = NDArray[np.float64]
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


def checked_pair(first: NDArray[np.floating], second: NDArray[np.floating], distance: str) -> tuple[Doubles, Doubles]:
    """Return both sets, (N, D) and (M, D), in float64.

    Args:
        first: (N, D).
        second: (M, D).
        distance: What will be measured, for messages.

    Raises:
        InputError: Fewer than two vectors, different D, or values that are not finite.
    """
    pair = _checked(first, f"{distance}: first"), _checked(second, f"{distance}: second")
    if pair[0].shape[1] != pair[1].shape[1]:
        raise InputError(
            f"{distance}: {pair[0].shape[1]} and {pair[1].shape[1]} features; use the same extractor for both"
        )
    return pair


def _checked(features: NDArray[np.floating], name: str) -> Doubles:
    values: Doubles = np.asarray(features, dtype=np.float64)
    if values.ndim != 2 or len(values) < 2:
        raise InputError(f"{name} features have shape {values.shape}; give at least two vectors (N, D)")
    if not np.isfinite(values).all():
        raise InputError(f"{name} features hold NaN or infinity; check the images and extractor")
    return values


_DEGREE = 3


def kernel_distance(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Return the unbiased squared MMD under the kernel (x.y / D + 1)^3 (Bińkowski et al. 2018, section 4).

    mean of k(x, x') over pairs of different x + the same of y - 2 x mean of k(x, y). Unbiased, unlike the Fréchet
    distance: sets of different sizes can be compared, and equal distributions give 0 on average, so that single
    values may be negative.

    Args:
        first: (N, D).
        second: (M, D).

    Raises:
        InputError: Fewer than two vectors, different D, or values that are not finite.
    """
    first, second = checked_pair(first, second, "kernel distance")
    within = _mean_of_pairs(first) + _mean_of_pairs(second)
    return float(within - 2 * _kernel(first, second).mean())


def _mean_of_pairs(vectors: NDArray[np.float64]) -> float:
    """Return the mean kernel over pairs of different vectors."""
    kernel = _kernel(vectors, vectors)
    count = len(vectors)
    return float((kernel.sum() - np.trace(kernel)) / (count * (count - 1)))


def _kernel(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    return (first @ second.T / first.shape[1] + 1) ** _DEGREE


def frechet_distance(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Return the squared Fréchet distance of two Gaussians fitted to feature vectors (Heusel et al. 2017).

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)). With S = C'C / (n - 1), the last trace is the sum of the
    singular values of C1 C2' / sqrt((n1 - 1)(n2 - 1)): no square root of a matrix that fewer vectors than
    features would leave singular. C is first reduced to its triangular factor, which has the same C'C.

    Args:
        first: (N, D).
        second: (M, D).

    Raises:
        InputError: Fewer than two vectors, different D, or values that are not finite.
    """
    first, second = checked_pair(first, second, "Fréchet distance")
    factor_1, factor_2 = _covariance_factor(first), _covariance_factor(second)
    shared = np.linalg.svd(factor_1 @ factor_2.T, compute_uv=False).sum()
    spread = float(np.square(factor_1).sum() + np.square(factor_2).sum() - 2 * shared)
    shift = float(np.square(first.mean(axis=0) - second.mean(axis=0)).sum())
    return max(shift + spread, 0.0)


def _covariance_factor(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return R (min(N, D), D) with R'R the covariance."""
    centred = (features - features.mean(axis=0)) / np.sqrt(len(features) - 1)
    return np.asarray(np.linalg.qr(centred, mode="r"))


_PATCH_PX = 7
_LEVELS = 3  # of the Laplacian pyramid: full, half and quarter resolution
_DIRECTIONS = 128
_MOST_PATCHES = 8192

Floats = NDArray[np.float32]


def patch_distance(
    drawn: NDArray[np.floating], real: NDArray[np.floating], region: NDArray[np.bool_], seed: int
) -> float:
    """Return the mean distance over three resolutions, in deviations of the real patches; 0 without a patch.

    Args:
        drawn: (N, H, W).
        real: (N, H, W), of the same masks.
        region: (N, H, W) where patches are centred.
        seed: Draws patches and directions.
    """
    distances = []
    for level, (bands, places) in enumerate(_pyramid(drawn, real, region)):
        patches = [_patches(band, places) for band in bands]
        if len(patches[0]):
            rng = random_generator(seed, "patch distance", level)
            chosen = rng.permutation(len(patches[0]))[:_MOST_PATCHES]
            distances.append(_sliced_wasserstein(patches[0][chosen], patches[1][chosen], rng))
    return float(np.mean(distances)) if distances else 0.0


def _pyramid(
    drawn: NDArray[np.floating], real: NDArray[np.floating], region: NDArray[np.bool_]
) -> list[tuple[tuple[Floats, Floats], NDArray[np.bool_]]]:
    """Return both sets' bands and the region at each resolution: what is finer, and at the last all that is left."""
    levels = []
    pair = [np.asarray(images, dtype=np.float32) for images in (drawn, real)]
    for _ in range(_LEVELS - 1):
        smooth = [np.asarray(ndimage.gaussian_filter(images, (0, 1, 1)), dtype=np.float32) for images in pair]
        levels.append(((pair[0] - smooth[0], pair[1] - smooth[1]), region))
        pair, region = [images[:, ::2, ::2] for images in smooth], region[:, ::2, ::2]
    return [*levels, ((pair[0], pair[1]), region)]


def _patches(images: Floats, region: NDArray[np.bool_]) -> Floats:
    """Return the patches (P, 49) around the pixels of the region, in the same order for the same region."""
    reach = _PATCH_PX // 2
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach)), mode="reflect")
    windows = sliding_window_view(padded, (_PATCH_PX, _PATCH_PX), axis=(1, 2))
    return windows[region].reshape(-1, _PATCH_PX**2)


def _sliced_wasserstein(drawn: Floats, real: Floats, rng: np.random.Generator) -> float:
    directions = rng.normal(size=(_PATCH_PX**2, _DIRECTIONS)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=0)
    deviation = max(float(real.std()), 1e-6)
    projected = [np.sort((patches / deviation) @ directions, axis=0) for patches in (drawn, real)]
    return float(np.abs(projected[0] - projected[1]).mean())
