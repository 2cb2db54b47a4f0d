"""Whether a generator draws various ventricles, or the same one whatever it is given."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.seeds import derive_seed, random_generator
from gan.quality.slices import Features, Images, PairDistance, ventricle_crops
from gan.quality.table import Figure, Row, over_halves
from imaging.slices.part import PartSlices

Draw = Callable[[NDArray[np.integer], Sequence[int]], Images]
_SIZE_PX = 64
_PAIRS = 200
_MASKS, _DRAWS = 8, 4


@dataclass(frozen=True)
class Variety:
    """Mean distances of pairs of ventricles.

    Attributes:
        synthetic: Synthetic ventricles of different masks and patients.
        real: Training ventricles of different patients.
        same_mask: Ventricles drawn from one mask with different noise; NaN without a generator.
        redrawn: (masks, draws, H, W) those drawings; none without a generator.
        originals: (masks, H, W) the validation slices whose masks they are.
        pairs: How many pairs went into `synthetic` and `real`, and into `same_mask`.
    """

    synthetic: Figure
    real: Figure
    same_mask: Figure
    redrawn: Images
    originals: Images
    pairs: tuple[int, int]

    def ratio(self, figure: Figure) -> Figure:
        """Return a figure relative to real patients'; 0 where these do not differ either."""
        if not self.real.value:
            return Figure(0.0)
        value = figure.value / self.real.value
        relative = np.hypot(figure.std / max(figure.value, 1e-12), self.real.std / self.real.value)
        return Figure(value, float(value * relative) if figure.value else 0.0)


def measure_variety(
    synthetic: PartSlices,
    training: PartSlices,
    validation: PartSlices,
    draw: Draw | None,
    distance: PairDistance,
    seed: int,
) -> Variety:
    """Compare how different synthetic ventricles are with how different real patients are.

    Ventricles are brought to one size and place, and a pair is compared only where both are: a generator that paints
    one shade whatever it is given differs nowhere there, though its masks do.

    Args:
        synthetic: Synthetic slices.
        training: Real slices of training patients.
        validation: Real slices whose masks are drawn several times.
        draw: Takes rows of the validation slices and as many noise seeds, returns images (N, H, W); None where there
            is no generator to draw them.
        distance: Of pairs of images.
        seed: Seed of the pairs and of the noise.
    """
    figures = []
    for slices, purpose in ((synthetic, "synthetic"), (training, "real")):
        pairs = different_patients(slices.case_ids, _PAIRS, seed, purpose)
        figures.append(_distance(slices.at(pairs[0]), slices.at(pairs[1]), distance, seed))
    if draw is None:
        nothing = validation.images[:0]
        return Variety(figures[0], figures[1], Figure(float("nan")), nothing[:, None], nothing, (_PAIRS, 0))
    rows = np.unique(np.linspace(0, len(validation) - 1, min(_MASKS, len(validation))).round().astype(np.intp))
    seeds = [derive_seed(seed, "quality same mask", int(row), number) for row in rows for number in range(_DRAWS)]
    redrawn = draw(np.repeat(rows, _DRAWS), seeds).reshape(len(rows), _DRAWS, *validation.images.shape[1:])
    one, other = np.triu_indices(_DRAWS, k=1)
    masks = validation.at(np.repeat(rows, len(one)))
    first, second = (masks.painted_as(np.concatenate(redrawn[:, chosen])) for chosen in (one, other))
    same = _distance(first, second, distance, seed)
    return Variety(figures[0], figures[1], same, redrawn, validation.images[rows], (_PAIRS, len(masks)))


def variety_rows(variety: Variety, features: str) -> list[Row]:
    """Return the figures and their ratios to real patients' as rows of the report."""
    figures = {"synthetic": variety.synthetic, "same_mask": variety.same_mask, "real": variety.real}
    pairs = {"synthetic": variety.pairs[0], "same_mask": variety.pairs[1], "real": variety.pairs[0]}
    figures = {name: figure for name, figure in figures.items() if pairs[name]}
    rows = [Row("variety", "ventricle", name, figure, pairs[name], 0, features) for name, figure in figures.items()]
    for name in ("synthetic", "same_mask") if "same_mask" in figures else ("synthetic",):
        ratio = variety.ratio(figures[name])
        rows.append(Row("variety_ratio", "ventricle", name, ratio, pairs[name], pairs["real"], features))
    return rows


def different_patients(
    cases: NDArray[np.str_], count: int, seed: int, purpose: str
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Draw `count` pairs of rows of different patients; of one patient only, pairs of any rows."""
    rng = random_generator(seed, f"quality pairs {purpose}")
    first = rng.integers(len(cases), size=count)
    second = np.empty_like(first)
    for place, row in enumerate(first):
        others = np.flatnonzero(cases != cases[row])
        second[place] = rng.choice(others if len(others) else np.arange(len(cases)))
    return first, second


def common_ventricle(first: PartSlices, second: PartSlices) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return pairs of ventricles (N, 64, 64) at one size and place, black where either is not."""
    crops, labels = zip(*(ventricle_crops(part.images, part.masks, _SIZE_PX) for part in (first, second)), strict=True)
    both = (labels[0] > 0) & (labels[1] > 0)
    return np.where(both, crops[0], np.float32(0)), np.where(both, crops[1], np.float32(0))


def feature_distance(features: Features) -> PairDistance:
    """Return the Euclidean distance of features, for want of a perceptual one."""

    def distance(first: Images, second: Images) -> NDArray[np.float64]:
        difference = np.asarray(features(first), np.float64) - np.asarray(features(second), np.float64)
        return np.linalg.norm(difference, axis=1)

    return distance


def _distance(first: PartSlices, second: PartSlices, distance: PairDistance, seed: int) -> Figure:
    values = np.asarray(distance(*common_ventricle(first, second)), np.float64)
    return over_halves(lambda rows: float(values[rows].mean()), seed, first.case_ids)
