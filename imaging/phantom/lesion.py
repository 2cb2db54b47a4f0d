"""What is wrong with the wall: an infarct of one coronary territory, and no-reflow in its core.

Infarcts start at the endocardium and spread outward (the wave front of Reimer and Jennings, 1977); no-reflow
is a dark core within.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from imaging.phantom.anatomy import Anatomy, Field2D, Wall

# Middle of each coronary territory, radians from the septum's middle: left anterior descending, right, circumflex.
_TERRITORIES = (-0.9, 1.0, 2.9)


@dataclass(frozen=True)
class Lesion:
    """One infarct; angles in radians, levels from 0 (base) to 1 (apex), depths as shares of the wall."""

    middle_angle: float
    half_width: float
    middle_level: float
    half_length: float
    transmurality: float
    no_reflow: float
    roughness_seed: int


def draw_lesion(anatomy: Anatomy, group: str, rng: np.random.Generator) -> Lesion | None:
    """Draw the lesion of one patient; None for a normal one."""
    if group == "normal":
        return None
    large = group == "no_reflow"
    return Lesion(
        middle_angle=anatomy.septum_angle + rng.choice(_TERRITORIES) + rng.normal(0, 0.25),
        half_width=rng.uniform(0.85, 1.5) if large else rng.uniform(0.55, 1.3),
        middle_level=rng.uniform(0.35, 0.65),
        half_length=rng.uniform(0.5, 0.8) if large else rng.uniform(0.4, 0.7),
        transmurality=rng.uniform(0.9, 1.4) if large else rng.uniform(0.55, 1.2),
        no_reflow=rng.uniform(0.45, 0.75) if large else 0.0,
        roughness_seed=int(rng.integers(2**31)),
    )


def lesion_masks(lesion: Lesion, wall: Wall, level: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return infarct (with its core) and no-reflow on the grid of `wall`."""
    reach = _reach(lesion, wall, level)
    rough = smooth_noise(wall.depth.shape, 14, np.random.default_rng(lesion.roughness_seed))
    infarct = wall.myocardium & (wall.depth < reach + 0.12 * rough) & (reach > 0.18)
    core = (wall.depth > 0.1 + 0.05 * rough) & (wall.depth < lesion.no_reflow * reach + 0.08 * rough)
    return infarct, infarct & core & (reach > 0.55 * min(lesion.transmurality, 1.0))


def _reach(lesion: Lesion, wall: Wall, level: float) -> Field2D:
    """Return how deep into the wall the infarct reaches at each angle."""
    off = np.abs(np.angle(np.exp(1j * (wall.angle - lesion.middle_angle)))) / lesion.half_width
    along = abs(level - lesion.middle_level) / lesion.half_length
    bell = np.clip(1 - off**4, 0, 1) * max(1 - along**2, 0.0)
    return (lesion.transmurality * bell).astype(np.float32)


def smooth_noise(shape: tuple[int, ...], cells: int, rng: np.random.Generator) -> Field2D:
    """Return noise of unit spread over (H, W) that varies over about 1 / `cells` of the field."""
    coarse = rng.standard_normal((cells, cells)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC), np.float32)
