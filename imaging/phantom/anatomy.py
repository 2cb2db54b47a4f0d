"""The heart: both ventricles, papillary muscles, the great vessels at the base and the fat around them; and the chest.

The ventricle is star-shaped around its centre, so every border is a table of distances over level and angle.
Levels run from 0 (apex) to 1 (base). The wall's angles count from the middle of the septum, rising towards the
anterior wall: 0 septum, pi / 2 anterior, pi lateral, -pi / 2 inferior.

What is wrong with the wall: an infarct of one coronary territory, and no-reflow in its core.

Infarcts start at the endocardium and spread outward (the wave front of Reimer and Jennings, Lab Invest 1979);
no-reflow is a dark core within (Kim et al., Circulation 1999).

What is around the heart: lungs with their vessels, liver or stomach, chest wall, fat under the skin, air.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imaging.phantom.config import PhantomConfig
from imaging.phantom.materials import THETA, Material, Polar, Table, ripples, wrapped

_RIGHT_WALL_MM = 2.5


@dataclass(frozen=True)
class Round:
    """A round thing in the slices: where it lies from the heart's centre, and how large it is at each level."""

    away_mm: NDArray[np.float32]
    angle: float
    radius_mm: NDArray[np.float32]


@dataclass(frozen=True)
class Heart:
    """Borders in mm from the centre (L, ANGLES), and round things; L levels.

    Attributes:
        endocardium: Of the left ventricle.
        epicardium: Of the left ventricle.
        right: Outer border of the right ventricle's cavity; 0 where there is none.
        fat: Outer border of the fat around the heart.
        trabeculae_mm: How far trabeculae reach into the cavity.
        septum: Direction of the septum's middle, radians on the grid.
        papillary: The papillary muscles.
        vessels: The great vessels.
    """

    endocardium: Table
    epicardium: Table
    right: Table
    fat: Table
    trabeculae_mm: float
    septum: float
    papillary: tuple[Round, ...]
    vessels: tuple[Round, ...]

    def wall_depth(self, polar: Polar, levels: slice) -> NDArray[np.float32]:
        """Return the place in the wall (S, H, W): 0 at the endocardium, 1 at the epicardium."""
        inner, outer = self.endocardium[levels], self.epicardium[levels]
        return (polar.radius - polar.look_up(inner)) * polar.look_up(np.reciprocal(outer - inner))


def draw_heart(config: PhantomConfig, levels: NDArray[np.float32], injured: bool, rng: np.random.Generator) -> Heart:
    """Draw one patient's heart at `levels` (L,); an injured ventricle is larger (remodelling)."""
    septum = np.radians(rng.normal(-80, 14))
    radius_mm = rng.uniform(*config.cavity_radius_mm) * (1.04 if injured else 0.97)
    oval = 1 + ripples(rng, levels, range(2, 7), 0.05, fall=1.7)
    endocardium = np.asarray(radius_mm * _taper(levels, rng)[:, None] * oval, np.float32)
    thickness = rng.uniform(*config.wall_mm) * (0.82 + 0.18 * levels[:, None])
    thickness = thickness * (1 + ripples(rng, levels, range(1, 7), 0.1))
    epicardium = endocardium + np.maximum(thickness, 3.5).astype(np.float32)
    right = _right_ventricle(epicardium, levels, septum, rng)
    return Heart(
        endocardium=endocardium,
        epicardium=epicardium,
        right=right,
        fat=_fat(np.maximum(epicardium, right + _RIGHT_WALL_MM), levels, septum, rng),
        trabeculae_mm=rng.uniform(0.5, 3.5),
        septum=septum,
        papillary=_papillary_muscles(endocardium, levels, septum, rng),
        vessels=_vessels(epicardium, levels, septum, rng),
    )


def paint_heart(heart: Heart, polar: Polar, levels: slice, rough: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the heart's materials (S, H, W), `AIR` where there is no heart.

    Args:
        heart: The borders.
        polar: The grid.
        levels: Which levels to paint, one for each slice.
        rough: (S, H, W), unit spread; makes trabeculae and papillary muscles irregular.
    """
    radius = polar.radius
    right = polar.look_up(heart.right[levels])
    endocardium = polar.look_up(heart.endocardium[levels])
    painted = np.zeros(radius.shape, np.uint8)
    np.putmask(painted, radius < polar.look_up(heart.fat[levels]), Material.FAT)
    np.putmask(painted, radius < right + _RIGHT_WALL_MM * (right > 0), Material.OTHER_MYOCARDIUM)
    np.putmask(painted, radius < right - 1.5 * np.maximum(rough, 0), Material.OTHER_BLOOD)
    for vessel in heart.vessels:
        _paint_vessel(painted, polar, vessel, levels)
    np.putmask(painted, radius < polar.look_up(heart.epicardium[levels]), Material.MYOCARDIUM)
    np.putmask(painted, radius < endocardium, Material.PAPILLARY)
    blood = radius < endocardium - heart.trabeculae_mm * np.maximum(rough, 0)
    for muscle in heart.papillary:
        away, size = muscle.away_mm[levels], muscle.radius_mm[levels, None, None]
        blood &= polar.distance(away, muscle.angle) > size * (1 + 0.25 * rough)
    np.putmask(painted, blood, Material.BLOOD)
    return painted


def _paint_vessel(painted: NDArray[np.uint8], polar: Polar, vessel: Round, levels: slice) -> None:
    radius_mm = vessel.radius_mm[levels, None, None]
    if not radius_mm.any():
        return
    away = polar.distance(vessel.away_mm[levels], vessel.angle)
    np.putmask(painted, away < radius_mm, Material.OTHER_MYOCARDIUM)
    np.putmask(painted, away < radius_mm - 1.8, Material.OTHER_BLOOD)


def _taper(levels: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the cavity's radius at each level, relative to the base: an ellipsoid cut across."""
    lowest = rng.uniform(0.07, 0.18)
    return np.sqrt(1 - (1 - lowest - (1 - lowest) * levels) ** 2)


def _right_ventricle(epicardium: Table, levels: NDArray[np.float32], septum: float, rng: np.random.Generator) -> Table:
    """Return the outer border of a crescent on the septum that ends before the apex."""
    start = rng.uniform(-0.05, 0.2)
    presence = np.clip((levels - start) / 0.45, 0, 1)[:, None] ** 0.7
    lean = rng.uniform(-0.25, 0.25)
    away = np.abs(wrapped(THETA - septum + lean)) / np.radians(rng.uniform(62, 82))
    crescent = np.clip(1 - away**2.4, 0, 1) * presence * (1 + ripples(rng, levels, range(2, 6), 0.1))
    border = epicardium + rng.uniform(20, 36) * crescent
    return np.where(crescent > 0.03, border, 0).astype(np.float32)


def _fat(outer: Table, levels: NDArray[np.float32], septum: float, rng: np.random.Generator) -> Table:
    """Return the outer border of the fat around the heart: pads, most of them in front and at the apex."""
    front = rng.uniform(0, 8) * np.cos(THETA - septum + rng.uniform(0, 1))[None] + rng.uniform(0, 5) * (
        0.6 - levels[:, None]
    )
    pads = rng.uniform(-1, 4) + front + ripples(rng, levels, range(1, 9), rng.uniform(1.5, 4), fall=1.0)
    return np.asarray(outer + np.maximum(pads, 0), np.float32)


def _papillary_muscles(
    endocardium: Table, levels: NDArray[np.float32], septum: float, rng: np.random.Generator
) -> tuple[Round, ...]:
    """Return the anterolateral and the posteromedial muscle, sometimes split, in the middle of the ventricle."""
    muscles = []
    for side in (1, -1):
        for part in range(int(rng.integers(1, 3))):
            angle = septum - side * np.radians(rng.normal(130, 12) + 22 * part)
            top, size = rng.uniform(0.6, 0.85), rng.uniform(2.6, 6.2) / (1 + 0.3 * part)
            present = np.sqrt(np.clip(1 - ((levels - 0.4) / (top - 0.4)) ** 4, 0, 1))
            away = rng.uniform(0.66, 0.8) * endocardium.mean(axis=1)
            muscles.append(Round(away.astype(np.float32), angle, (size * present).astype(np.float32)))
    return tuple(muscles)


def _vessels(
    epicardium: Table, levels: NDArray[np.float32], septum: float, rng: np.random.Generator
) -> tuple[Round, ...]:
    """Return aorta and pulmonary trunk, cut by the topmost slices of some patients, and a coronary or two."""
    found = []
    for turn in (0.9, 0.1):
        start, size = rng.uniform(0.8, 1.1), rng.uniform(10, 15)
        radius = np.where(levels > start, size, 0).astype(np.float32)
        away = epicardium.mean(axis=1) + 0.9 * size
        found.append(Round(away, septum - turn + rng.normal(0, 0.15), radius))
    for turn in rng.choice([-1.2, 1.2, 1.4, -2.6], 2, replace=False):
        small = np.full(levels.shape, rng.uniform(2.5, 3.6), np.float32)
        found.append(Round(epicardium.mean(axis=1) + 3.5, septum - turn + rng.normal(0, 0.1), small))
    return tuple(found)


_CORE_ROUGHNESS, _BORDER_ROUGHNESS = 0.06, 0.09


@dataclass(frozen=True)
class Territory:
    """Where one coronary artery's infarcts lie: degrees from the septum, levels; spans are (lowest, highest)."""

    middle_deg: float
    half_width_deg: tuple[float, float]
    middle_level: tuple[float, float]


# Left anterior descending (twice as common), right coronary, circumflex: the AHA's 17-segment model.
_DESCENDING = Territory(40, (45, 95), (0.2, 0.5))
_TERRITORIES = (
    _DESCENDING,
    _DESCENDING,
    Territory(-85, (40, 72), (0.45, 0.75)),
    Territory(175, (38, 72), (0.4, 0.7)),
)


@dataclass(frozen=True)
class Lesion:
    """Depths in the wall (L, ANGLES), 0 at the endocardium and 1 at the epicardium.

    Attributes:
        reach: How deep the infarct goes; 0 where there is none.
        core_inner: Where no-reflow begins.
        core_outer: Where it ends; nowhere, if below `core_inner`.
    """

    reach: Table
    core_inner: Table
    core_outer: Table


def draw_lesion(septum: float, levels: NDArray[np.float32], no_reflow: bool, rng: np.random.Generator) -> Lesion:
    """Draw one patient's lesion at `levels` (L,); infarcts with no-reflow are larger and deeper."""
    territory = _TERRITORIES[int(rng.integers(len(_TERRITORIES)))]
    middle = septum - np.radians(territory.middle_deg + rng.normal(0, 12) + rng.normal(0, 15) * (levels - 0.5))
    off = np.abs(wrapped(THETA - middle[:, None]))
    low, high = territory.half_width_deg
    width = np.radians(rng.uniform(0.5 * (low + high) if no_reflow else low, high))
    middle_level, length = rng.uniform(*territory.middle_level), rng.uniform(0.45, 0.75) + 0.1 * no_reflow
    wobble = 1 + ripples(rng, levels, range(2, 11), 0.08, fall=0.4)
    extent = _bell(off / width * wobble, (levels - middle_level) / length, 4)
    depth = rng.uniform(0.85, 1.35) if no_reflow else rng.uniform(0.5, 1.25)
    reach = depth * extent * (1 + ripples(rng, levels, range(3, 14), 0.06, fall=0.2))
    share = rng.uniform(0.45, 0.8) if no_reflow else 0.0
    core = _bell(off / (share * width + 1e-6) * wobble, (levels - middle_level) / (share * length + 1e-6), 2)
    inner = rng.uniform(-0.03, 0.18) + ripples(rng, levels, range(2, 9), 0.03)
    outer = rng.uniform(0.6, 0.9) * np.minimum(reach, 1) * core
    return Lesion(*(np.asarray(t, np.float32) for t in (np.where(reach > 0.15, reach, 0), inner, outer)))


def paint_lesion(
    painted: NDArray[np.uint8], heart: Heart, lesion: Lesion, polar: Polar, levels: slice, rough: NDArray[np.float32]
) -> None:
    """Turn myocardium of `painted` (S, H, W) into infarct and no-reflow, with borders as irregular as `rough`."""
    depth = heart.wall_depth(polar, levels)
    reach = polar.look_up(lesion.reach[levels])
    infarct = (painted == Material.MYOCARDIUM) & (reach > 0) & (depth < reach + _BORDER_ROUGHNESS * rough)
    np.putmask(painted, infarct, Material.INFARCT)
    core = (depth > polar.look_up(lesion.core_inner[levels])) & infarct
    core &= depth < polar.look_up(lesion.core_outer[levels]) - _CORE_ROUGHNESS * rough
    np.putmask(painted, core, Material.NO_REFLOW)


def _bell(across: NDArray[np.floating], along: NDArray[np.floating], steepness: int) -> NDArray[np.floating]:
    """Return 1 in the middle, 0 outside the ellipse across^2 + along^2 = 1; (L, ANGLES) from (L, ANGLES), (L,)."""
    return np.sqrt(np.clip(1 - (across**2 + along[:, None] ** 2) ** (steepness / 2), 0, 1))


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
