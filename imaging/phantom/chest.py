"""What is around the heart: lungs with their vessels, liver or stomach, chest wall, fat under the skin, air."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imaging.phantom.heart import Round
from imaging.phantom.materials import THETA, Material, Polar, Table, ripples

_FAR_MM = 1e4


@dataclass(frozen=True)
class Chest:
    """Borders in mm from the heart's centre (S, ANGLES).

    Attributes:
        inner: Inner side of the chest wall; the heart ends there at the latest.
        muscle: Where muscle ends and the fat under the skin begins.
        skin: Where the body ends.
        belly: Where the liver begins.
        belly_fat_mm: Thickness of the fat between lung and liver.
        lobes: Relative size of the organ below the diaphragm, seen from the heart.
        organ: Stomach or spleen below the diaphragm.
        direction: Of the sternum, radians; the coil lies there.
    """

    inner: Table
    muscle: Table
    skin: Table
    belly: Table
    belly_fat_mm: float
    lobes: Table
    organ: Round
    direction: float


def draw_chest(levels: NDArray[np.float32], rng: np.random.Generator) -> Chest:
    """Draw one patient's chest for slices at `levels` (S,)."""
    direction = np.radians(rng.normal(-122, 9))
    flat = np.zeros_like(levels)
    inner = _ellipse(direction, rng.uniform(52, 76) + 6 * (levels - 0.5), rng) + ripples(rng, levels, range(2, 7), 2)
    muscle = inner + np.maximum(rng.uniform(8, 18) + ripples(rng, flat, range(2, 9), 3, fall=0.4), 3)
    towards = np.radians(rng.normal(35, 16))
    belly_mm = rng.uniform(40, 60) + rng.uniform(0, 16) * (levels - 0.5)
    return Chest(
        inner=inner,
        muscle=muscle,
        skin=muscle + np.maximum(rng.uniform(6, 26) + ripples(rng, flat, range(1, 6), 3), 3),
        belly=_belly(belly_mm, towards, levels, rng),
        belly_fat_mm=rng.uniform(0, 4),
        lobes=1 + ripples(rng, levels, range(3, 20), 0.15, fall=0.2),
        organ=_organ(belly_mm, towards, rng),
        direction=direction,
    )


def paint_chest(chest: Chest, polar: Polar, vessels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the chest's materials (S, H, W); `vessels`, unit spread, says where lung and liver have vessels."""
    radius = polar.radius
    belly = polar.look_up(chest.belly)
    painted = np.full(radius.shape, Material.LUNG, np.uint8)
    np.putmask(painted, radius > belly, Material.FAT)
    np.putmask(painted, radius > belly + chest.belly_fat_mm, Material.LIVER)
    np.putmask(painted, vessels > np.where(painted == Material.LIVER, 1.7, 1.95), Material.OTHER_BLOOD)
    away = polar.distance(chest.organ.away_mm, chest.organ.angle)
    size = chest.organ.radius_mm[:, None, None] * (1 + 0.1 * vessels) * polar.look_up(chest.lobes)
    np.putmask(painted, away < size + 2, Material.FAT)
    np.putmask(painted, away < size, Material.ORGAN)
    np.putmask(painted, away < size - 5 - 2 * vessels, Material.FLUID)
    np.putmask(painted, radius > polar.look_up(chest.inner), Material.MUSCLE)
    np.putmask(painted, (painted == Material.MUSCLE) & (vessels > 1.7), Material.FAT)
    np.putmask(painted, radius > polar.look_up(chest.muscle), Material.FAT)
    np.putmask(painted, radius > polar.look_up(chest.skin), Material.AIR)
    return painted


def _ellipse(direction: float, near_mm: NDArray[np.floating], rng: np.random.Generator) -> Table:
    """Return the distance (S, ANGLES) to an ellipse around the body, `near_mm` (S,) away in `direction`."""
    deep, wide, aside = rng.uniform(95, 120), rng.uniform(140, 175), rng.uniform(-35, 5)
    back = (near_mm - deep)[:, None]
    ahead, across = np.cos(THETA - direction)[None], np.sin(THETA - direction)[None]
    # The larger root of ((t ahead - back) / deep)^2 + ((t across - aside) / wide)^2 = 1.
    a = (ahead / deep) ** 2 + (across / wide) ** 2
    b = ahead * back / deep**2 + across * aside / wide**2
    c = (back / deep) ** 2 + (aside / wide) ** 2 - 1
    return np.asarray((b + np.sqrt(b**2 - a * c)) / a, np.float32)


def _belly(
    distance_mm: NDArray[np.floating], towards: float, levels: NDArray[np.float32], rng: np.random.Generator
) -> Table:
    """Return the distance (S, ANGLES) to a wavy plane `distance_mm` (S,) away in the direction `towards`."""
    ahead = np.cos(THETA - towards)[None]
    wavy = distance_mm[:, None] + ripples(rng, levels, range(2, 7), 3)
    return np.where(ahead > 0.15, wavy / np.maximum(ahead, 0.15), _FAR_MM).astype(np.float32)


def _organ(distance_mm: NDArray[np.floating], towards: float, rng: np.random.Generator) -> Round:
    size = rng.uniform(12, 34)
    sizes = size * np.clip(1.2 - np.abs(np.linspace(-1, 1, len(distance_mm)) - rng.uniform(-0.8, 0.8)), 0, 1)
    away = distance_mm + size + rng.uniform(2, 14)
    return Round(away.astype(np.float32), towards + rng.normal(0, 0.35), sizes.astype(np.float32))
