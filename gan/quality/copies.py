"""Whether synthetic ventricles are copies of training ventricles: each with its nearest one, in pixels and features.

Where lesions alone are painted, all but the hole is the recipient's by design: holes are compared, each with the same
place of other patients' ventricles.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d
from scipy.spatial import KDTree

from common.errors import InputError
from common.seeds import random_generator
from gan.quality.slices import Images, Vectors, ventricle_crops
from gan.simulator.anatomy import Anatomy, read_anatomy
from imaging.slices.store import SliceStore

_SIZE_PX = 48
_SMOOTHING_PX = 1.0
_CHUNK = 1024
_READ = 512
_RARE = 0.01
_NO_LENGTH = 1e-4
_DEPTHS, _ANGLES = 10, 128  # of an unrolled wall
_ALONG_BINS = 3.0  # deviation of the Gaussian along the wall whose mean is taken away, 8 degrees
_INDEPENDENT = 10  # places of an unrolled wall hold about one independent value
_MOST_ALIKE = 0.999
_MOST_TURN = 4  # steps of an angle by which a copy may have been turned, 11 degrees
_OUTRIGHT = 0.02  # distance below which a ventricle is another's own; those of different patients are ten times apart
_FEWEST_PX = 24  # of a hole, on the crops, below which it shows no pattern


@dataclass(frozen=True)
class Nearest:
    """The nearest training ventricle of each of N ventricles.

    Attributes:
        place: (N,) which one.
        distance: (N,) how far, 1 - correlation: 0 for a copy, about 1 for nothing in common.
        ratio: (N,) that distance over the distance to the nearest ventricle of any other patient. A typical or
            blurred ventricle is near to many patients and has a ratio near 1; a copy is near to one only.
    """

    place: NDArray[np.intp]
    distance: NDArray[np.float64]
    ratio: NDArray[np.float64]


@dataclass(frozen=True)
class CopySearch:
    """Synthetic ventricles against the training set, beside training ventricles against other patients'.

    Attributes:
        synthetic: Nearest training ventricle of each synthetic one.
        real: Nearest ventricle of a different patient of each training one: what chance alone brings near.
    """

    synthetic: Nearest
    real: Nearest

    @property
    def distance_limit(self) -> float:
        """The distance that 1 % of real ventricles fall below."""
        return float(np.quantile(self.real.distance, _RARE))

    @property
    def ratio_limit(self) -> float:
        """The ratio that 1 % of real ventricles fall below."""
        return float(np.quantile(self.real.ratio, _RARE))

    @property
    def outright(self) -> NDArray[np.bool_]:
        """Which synthetic ventricles are a training ventricle's very pattern, which no chance brings."""
        return self.synthetic.distance < _OUTRIGHT

    def near(self, found: Nearest | None = None) -> NDArray[np.bool_]:
        """Tell which (the synthetic ones unless others are given) are nearer than 99 % of real pairs; chance: 1 %."""
        return (found or self.synthetic).distance < self.distance_limit

    def copied(self, found: Nearest | None = None) -> NDArray[np.bool_]:
        """Tell which are near to one patient and to no other: both limits undercut; chance: at most 1 %."""
        found = found or self.synthetic
        return self.near(found) & (found.ratio < self.ratio_limit)


def appearance(images: Images, masks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what a ventricle looks like beyond what its mask dictates, as unit vectors (N, 48 * 48).

    Each tissue's mean is taken away and everything outside set to 0; the ventricle is brought to one size and place;
    the rest is smoothed and normalised. So brightness, contrast, the mean of each tissue, finest grain and the
    surroundings count for nothing, and two slices of one mask are not alike merely for their shape: a mask simulated
    in a patient's own anatomy has that patient's shape by design. What counts is the pattern within the tissues:
    trabeculae, gradients, uneven enhancement. Not seen: a copy that was mirrored or rotated.

    Args:
        images: (N, H, W).
        masks: (N, H, W).
    """
    crops, labels = ventricle_crops(_within_tissues(images, masks), masks, _SIZE_PX)
    inside = (labels > 0).astype(np.float32)
    blurred, share = (gaussian_filter(part, (0, _SMOOTHING_PX, _SMOOTHING_PX)) for part in (crops * inside, inside))
    return unit_vectors(np.where(inside > 0, blurred / np.maximum(share, 1e-3), 0).reshape(len(crops), -1))


def appearance_in_holes(
    images: Images, masks: NDArray[np.uint8], holes: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return what holes (N, H, W) in walls hold beyond what the mask dictates, and where they lie, both (N, 10 * 128).

    Each tissue's mean inside the hole is taken away, and the wall is unrolled by depth and angle, so that a place means
    the same in every heart, however large, and a turned heart is a shifted one. Of what is left the mean along the wall
    goes, too: that blood shines into the innermost pixels is common to all. All outside the hole is 0.
    """
    strips = np.zeros((len(images), _DEPTHS, _ANGLES), np.float32)
    within = np.zeros(strips.shape, bool)
    patterns = _within_tissues(images, np.where(holes > 0, masks, 0))
    for pattern, mask, hole, strip, inside in zip(patterns, masks, holes, strips, within, strict=True):
        anatomy = read_anatomy(mask)
        if anatomy is not None and anatomy.cavity.any() and anatomy.myocardium.any():
            shown = anatomy.myocardium & (hole[anatomy.box] > 0)
            places = _unrolled(anatomy)
            strip[:], inside[:] = _smoothed(pattern[anatomy.box], shown)[places], shown[places]
    sums, share = (
        gaussian_filter1d(part, _ALONG_BINS, axis=2, mode="wrap") for part in (strips * within, within * 1.0)
    )
    pattern = np.where(within, strips - sums / np.maximum(share, 1e-3), 0).reshape(len(strips), -1)
    return unit_vectors(pattern), within.reshape(len(strips), -1)


def wall_appearance(images: Images, masks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the appearance (N, 10 * 128) of whole walls, with which holes are compared."""
    return appearance_in_holes(images, masks, np.ones_like(masks))[0]


def turned(walls: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return walls (M, 10 * 128) turned by up to eleven degrees to either side, (9, M, 10 * 128)."""
    strips = walls.reshape(len(walls), _DEPTHS, _ANGLES)
    turns = range(-_MOST_TURN, _MOST_TURN + 1)
    return np.stack([np.roll(strips, turn, axis=2).reshape(len(walls), -1) for turn in turns])


def _unrolled(anatomy: Anatomy) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return rows and columns (10, 128) of the wall's pixel that is nearest to each depth and angle."""
    inner, outer = anatomy.radii
    size = float((inner + outer).mean()) / 2, float((outer - inner).mean())
    wall = np.nonzero(anatomy.myocardium)
    depths = (np.arange(_DEPTHS)[:, None] + 0.5) / _DEPTHS
    angles = np.broadcast_to(np.arange(_ANGLES) * (2 * np.pi / _ANGLES), (_DEPTHS, _ANGLES))
    _, nearest_px = KDTree(_on_cylinder(anatomy.angle[wall], anatomy.depth[wall], size)).query(
        _on_cylinder(angles, np.broadcast_to(depths, angles.shape), size)
    )
    return wall[0][nearest_px], wall[1][nearest_px]


def _on_cylinder(
    angles: NDArray[np.floating], depths: NDArray[np.floating], size: tuple[float, float]
) -> NDArray[np.floating]:
    radius, thickness = size
    return np.stack([radius * np.cos(angles), radius * np.sin(angles), thickness * depths], axis=-1)


def _smoothed(pattern: NDArray[np.float32], shown: NDArray[np.bool_]) -> NDArray[np.float32]:
    blurred, share = (gaussian_filter(part, _SMOOTHING_PX) for part in (pattern * shown, shown.astype(np.float32)))
    return np.where(shown, blurred / np.maximum(share, 1e-3), 0).astype(np.float32)


def _within_tissues(images: Images, masks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return images less the mean of each pixel's tissue; 0 outside."""
    pattern = np.zeros(masks.shape, np.float32)
    for image, mask, into in zip(images, masks, pattern, strict=True):
        count = np.maximum(np.bincount(mask.ravel()), 1)
        means = np.bincount(mask.ravel(), np.asarray(image, np.float64).ravel()) / count
        np.copyto(into, image - means[mask], where=mask > 0, casting="same_kind")
    return pattern


def unit_vectors(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return vectors (N, D) scaled to length 1; one without any length becomes 0 and is near to nothing."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(length > _NO_LENGTH, vectors / np.maximum(length, _NO_LENGTH), 0).astype(np.float32)


def nearest(
    vectors: NDArray[np.float32],
    training: NDArray[np.float32],
    cases: NDArray[np.str_],
    own: NDArray[np.str_] | None = None,
    within: NDArray[np.bool_] | None = None,
) -> Nearest:
    """Find the nearest training vector of each vector, in products of chunks.

    Args:
        vectors: (N, D) of length 1.
        training: (M, D) of length 1; or (T, M, D), each in T ways, of which the likest counts.
        cases: (M,) the patient of each training vector.
        own: (N,) the patient of each vector, whose training vectors are left out.
        within: (N, D) where each vector is compared; None for everywhere.

    Raises:
        InputError: Fewer than three patients: no nearest, no next one of another patient.
    """
    if len(np.unique(cases)) < 3:
        raise InputError(f"copies: {len(np.unique(cases))} training patients; at least 3 are needed to tell a copy")
    chunks = [slice(start, start + _CHUNK) for start in range(0, len(vectors), _CHUNK)]
    parts = [
        _nearest_of(
            1 - _likest(vectors[chunk], training, None if within is None else within[chunk]),
            cases,
            None if own is None else own[chunk],
        )
        for chunk in chunks
    ]
    return Nearest(
        np.concatenate([part.place for part in parts]),
        np.concatenate([part.distance for part in parts]),
        np.concatenate([part.ratio for part in parts]),
    )


def search_copies(vectors: NDArray[np.float32], training: NDArray[np.float32], cases: NDArray[np.str_]) -> CopySearch:
    """Search the copies among vectors (N, D) of training vectors (M, D) of patients `cases` (M,)."""
    return CopySearch(nearest(vectors, training, cases), nearest(training, training, cases, own=cases))


def search_copies_in_holes(
    holes: tuple[NDArray[np.float32], NDArray[np.bool_]],
    recipients: NDArray[np.str_],
    training: NDArray[np.float32],
    cases: NDArray[np.str_],
    seed: int,
) -> CopySearch:
    """Search the copies among what holes hold, the recipient's own slices left out.

    Args:
        holes: `appearance_in_holes` of synthetic slices, N vectors and places (N, D).
        recipients: (N,) whose slices they are.
        training: (M, D) `wall_appearance` of training slices; they are compared `turned` as well.
        cases: (M,) their patients.
        seed: Draws the hole in which each training ventricle is compared with other patients'.
    """
    vectors, within = holes
    ways = turned(training)
    return CopySearch(
        nearest(vectors, ways, cases, recipients, within),
        nearest(training, ways, cases, cases, borrowed_holes(within, len(training), seed)),
    )


def borrowed_holes(within: NDArray[np.bool_], count: int, seed: int) -> NDArray[np.bool_]:
    """Return the holes (count, D) of synthetic slices drawn for as many real ones: chance is compared in like holes."""
    return within[random_generator(seed, "copies: holes").integers(len(within), size=count)]


def _likest(
    vectors: NDArray[np.float32], training: NDArray[np.float32], within: NDArray[np.bool_] | None
) -> NDArray[np.float32]:
    """Return `_alike`, of the likest of several ways where there are any."""
    ways = training if training.ndim == 3 else training[None]
    likest = _alike(vectors, ways[0], within)
    for way in ways[1:]:
        np.maximum(likest, _alike(vectors, way, within), out=likest)
    return likest


def _alike(
    vectors: NDArray[np.float32], training: NDArray[np.float32], within: NDArray[np.bool_] | None
) -> NDArray[np.float32]:
    """Return the correlation (N, M) of vectors (N, D) of length 1, or of what of them lies within places (N, D).

    Of places it is what the correlation surely is, two standard errors below what was found (Fisher's z): in a small
    hole chance alone makes a likeness that in a large one tells a copy. Where either has no pattern it is 0.
    """
    if within is None:
        return np.asarray(vectors @ training.T)
    places = within.astype(np.float32)
    count = np.maximum(places.sum(axis=1, keepdims=True), 1)
    inside = vectors * places
    inside -= places * (inside.sum(axis=1, keepdims=True) / count)
    length = np.linalg.norm(inside, axis=1, keepdims=True)
    variation = places @ np.square(training).T - (places @ training.T) ** 2 / count
    spread = length * np.sqrt(np.maximum(variation, 0))
    shown = (count >= _FEWEST_PX) & (length > _NO_LENGTH) & (variation > _NO_LENGTH**2)
    found = np.clip((inside @ training.T) / np.maximum(spread, _NO_LENGTH**2), -_MOST_ALIKE, _MOST_ALIKE)
    error = 1 / np.sqrt(np.maximum(count / _INDEPENDENT, 4) - 3)
    return np.where(shown, np.maximum(np.tanh(np.arctanh(found) - 2 * error), 0), 0).astype(np.float32)


def store_appearance(store: SliceStore) -> NDArray[np.float32]:
    """Return the appearance of every slice of a store, read piece by piece."""
    starts = range(0, len(store), _READ)
    rows = (np.arange(start, min(start + _READ, len(store))) for start in starts)
    return np.concatenate([appearance(store.images(part), store.masks(part)) for part in rows])


def store_appearance_in_holes(
    store: SliceStore, rows: NDArray[np.integer]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the appearance in the holes of some rows of a store, and where they lie, read piece by piece."""
    blocks = [rows[start : start + _READ] for start in range(0, len(rows), _READ)]
    # A slice store's further images, not Django's SQL.
    read = ((store.images(part), store.masks(part), store.extra("hole", part)) for part in blocks)  # noqa: S610
    vectors, within = zip(*(appearance_in_holes(*block) for block in read), strict=True)
    return np.concatenate(vectors), np.concatenate(within)


def standardised(vectors: Vectors, like: Vectors) -> NDArray[np.float32]:
    """Return features (N, D) standardised by the mean and deviation of `like` (M, D), of length 1.

    Deviations count as at least a tenth of their mean, so that features which hardly vary do not decide.
    """
    like = np.asarray(like, np.float64)
    deviation = like.std(axis=0)
    floor = max(float(deviation.mean()) / 10, 1e-12)
    return unit_vectors((np.asarray(vectors, np.float64) - like.mean(axis=0)) / np.maximum(deviation, floor))


def _nearest_of(distances: NDArray[np.float32], cases: NDArray[np.str_], own: NDArray[np.str_] | None) -> Nearest:
    values = np.maximum(distances.astype(np.float64), 0)
    if own is not None:
        values[own[:, None] == cases] = np.inf
    place = values.argmin(axis=1)
    first = values[np.arange(len(values)), place]
    values[cases[place][:, None] == cases] = np.inf
    second = values.min(axis=1)
    return Nearest(place, first, np.divide(first, second, out=np.ones_like(first), where=second > 0))
