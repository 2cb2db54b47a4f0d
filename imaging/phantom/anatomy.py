"""Where things are: the ventricle's wall, the right ventricle, the chest; in mm on a fine grid."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imaging.phantom.config import PhantomConfig

Field2D = NDArray[np.float32]


@dataclass(frozen=True)
class Anatomy:
    """One patient's heart and chest; lengths in mm, angles in radians."""

    centre_mm: tuple[float, float]
    cavity_radius_mm: float
    wall_mm: float
    flattening: float
    flattening_angle: float
    ripples: NDArray[np.float64]
    septum_angle: float
    papillary_angles: tuple[float, float]
    papillary_radius_mm: float
    drift_mm: tuple[float, float]
    chest_mm: tuple[float, float]
    fat_mm: float


@dataclass(frozen=True)
class Wall:
    """The wall of one slice on a grid: angle, wall depth (0 at the endocardium, 1 at the epicardium), distances."""

    angle: Field2D
    depth: Field2D
    radius: Field2D
    inner: Field2D
    outer: Field2D

    @property
    def cavity(self) -> NDArray[np.bool_]:
        """What the endocardium encloses."""
        return self.depth < 0

    @property
    def myocardium(self) -> NDArray[np.bool_]:
        """What lies between endocardium and epicardium."""
        return (self.depth >= 0) & (self.depth < 1)


def draw_anatomy(config: PhantomConfig, rng: np.random.Generator) -> Anatomy:
    """Draw one patient's anatomy."""
    shift = rng.uniform(-config.off_centre_mm, config.off_centre_mm, 2)
    middle = config.field_mm / 2
    first = rng.uniform(0, 2 * np.pi)
    return Anatomy(
        centre_mm=(middle + shift[0], middle + shift[1]),
        cavity_radius_mm=rng.uniform(*config.cavity_radius_mm),
        wall_mm=rng.uniform(*config.wall_mm),
        flattening=rng.uniform(0.0, 0.14),
        flattening_angle=rng.uniform(0, np.pi),
        ripples=rng.normal(0, [0.02, 0.015, 0.01], (4, 3)),
        septum_angle=rng.uniform(np.pi * 0.85, np.pi * 1.25),
        papillary_angles=(first, first + rng.uniform(1.8, 2.8)),
        papillary_radius_mm=rng.uniform(2.5, 4.5),
        drift_mm=(rng.uniform(-5, 5), rng.uniform(-5, 5)),
        chest_mm=(config.field_mm * rng.uniform(0.46, 0.6), config.field_mm * rng.uniform(0.38, 0.48)),
        fat_mm=rng.uniform(5, 18),
    )


def wall_at(anatomy: Anatomy, level: float, rows_mm: Field2D, columns_mm: Field2D) -> Wall:
    """Return the wall at `level` (0 base, 1 apex) on a grid of positions (H, W) in mm."""
    row, column = heart_centre(anatomy, level)
    down, right = rows_mm - row, columns_mm - column
    angle = np.arctan2(down, right)
    radius = np.hypot(down, right)
    # An ellipsoid cut across: wide from the base to the middle, closing towards the apex.
    taper = np.sqrt(max(1 - (0.86 * max(level - 0.15, 0) / 0.85) ** 2, 0.05))
    oval = 1 - anatomy.flattening * np.cos(angle - anatomy.flattening_angle) ** 2
    inner = anatomy.cavity_radius_mm * taper * oval * _ripple(anatomy.ripples[:2], angle, level)
    thickness = anatomy.wall_mm * (1 - 0.2 * level) * _ripple(3 * anatomy.ripples[2:], angle, level)
    outer = inner + np.maximum(thickness, 4.0)
    depth = (radius - inner) / (outer - inner)
    return Wall(*(np.asarray(part, np.float32) for part in (angle, depth, radius, inner, outer)))


def heart_centre(anatomy: Anatomy, level: float) -> tuple[float, float]:
    """Return the ventricle's centre at `level`: the long axis is not quite upright on the slices."""
    row, column = anatomy.centre_mm
    return row + anatomy.drift_mm[0] * (level - 0.5), column + anatomy.drift_mm[1] * (level - 0.5)


def papillary_muscles(anatomy: Anatomy, wall: Wall, level: float) -> NDArray[np.bool_]:
    """Return the papillary muscles: dark islands in the cavity of the middle slices (labelled cavity)."""
    found = np.zeros(wall.angle.shape, bool)
    if not 0.15 < level < 0.8:
        return found
    for angle in anatomy.papillary_angles:
        place = 0.68 * wall.inner
        off = np.hypot(wall.radius * np.cos(wall.angle - angle) - place, wall.radius * np.sin(wall.angle - angle))
        found |= off < anatomy.papillary_radius_mm
    return found & wall.cavity


def right_ventricle(anatomy: Anatomy, wall: Wall, level: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return blood and wall of the right ventricle: a crescent on the septum, smaller towards the apex."""
    size = 1 - 0.75 * level
    turned = wall.angle - anatomy.septum_angle
    along, across = wall.radius * np.cos(turned), wall.radius * np.sin(turned)
    middle = anatomy.cavity_radius_mm + anatomy.wall_mm + 6 * size
    shape = np.hypot((along - middle) / (22 * size + 3), across / (33 * size + 3))
    outside = wall.depth >= 1
    return (shape < 1) & outside, (shape >= 1) & (shape < 1.16) & outside


def _ripple(waves: NDArray[np.float64], angle: NDArray[np.floating], level: float) -> NDArray[np.floating]:
    """Return a factor around 1 that varies with the angle, slowly changing from base to apex."""
    factor = np.ones_like(angle)
    for order in range(waves.shape[1]):
        factor += waves[0, order] * np.cos((order + 2) * angle + level) + waves[1, order] * np.sin((order + 2) * angle)
    return factor
