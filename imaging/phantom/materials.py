"""What the phantom is made of: materials, their signals, and the label that each is given.

Building blocks of every shape and texture: polar grids, functions of the angle, smooth noise.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from imaging.labels import Tissue


class Material(IntEnum):
    """Kinds of matter on the fine grid; one tissue label may hold several."""

    AIR = 0
    LUNG = 1
    FAT = 2
    MUSCLE = 3
    LIVER = 4
    ORGAN = 5
    FLUID = 6
    OTHER_BLOOD = 7
    OTHER_MYOCARDIUM = 8
    BLOOD = 9
    PAPILLARY = 10
    MYOCARDIUM = 11
    INFARCT = 12
    NO_REFLOW = 13


# Papillary muscles and trabeculae count as cavity, as EMIDEC's experts drew them (Lalande et al., Data 2020).
_LABELS = {
    Material.BLOOD: Tissue.CAVITY,
    Material.PAPILLARY: Tissue.CAVITY,
    Material.MYOCARDIUM: Tissue.NORMAL_MYOCARDIUM,
    Material.INFARCT: Tissue.INFARCT,
    Material.NO_REFLOW: Tissue.NO_REFLOW,
}
LABEL_OF: NDArray[np.uint8] = np.array([_LABELS.get(m, Tissue.BACKGROUND) for m in Material], np.uint8)

# Lowest and highest T1, ms, ten to fifteen minutes after gadolinium at 1.5 T, and protons relative to myocardium.
# Contrast collects in infarct and not in no-reflow (Kim et al., Circulation 1999).
_T1_MS: dict[Material, tuple[float, float]] = {
    Material.AIR: (1000, 1000),
    Material.LUNG: (380, 520),
    Material.FAT: (225, 255),
    Material.MUSCLE: (460, 560),
    Material.LIVER: (330, 440),
    Material.ORGAN: (330, 420),
    Material.FLUID: (400, 1200),
    Material.BLOOD: (300, 370),
    Material.MYOCARDIUM: (430, 500),
    Material.INFARCT: (255, 320),
    Material.NO_REFLOW: (500, 640),
}
_PROTONS = {Material.AIR: 0.0, Material.LUNG: 0.3, Material.FAT: 1.15, Material.LIVER: 0.85}
_SAME = {
    Material.OTHER_BLOOD: Material.BLOOD,
    Material.OTHER_MYOCARDIUM: Material.MYOCARDIUM,
    Material.PAPILLARY: Material.MYOCARDIUM,
}


def draw_signals(inversion_error: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw one patient's T1 values and return the inversion-recovery signal of each material, fat being 1.

    The inversion time nulls normal myocardium but for the relative error: M = protons * (1 - 2 exp(-TI / T1)).
    """
    t1 = {material: rng.uniform(*span) for material, span in _T1_MS.items()}
    t1 |= {copy: t1[original] for copy, original in _SAME.items()}
    inversion_ms = t1[Material.MYOCARDIUM] * np.log(2) * (1 + inversion_error)
    signals = [_PROTONS.get(m, 1.0) * (1 - 2 * np.exp(-inversion_ms / t1[m])) for m in Material]
    return np.array(signals, np.float32) / np.float32(signals[Material.FAT])


Table = NDArray[np.float32]
"""A quantity around the heart's centre: (levels, ANGLES)."""

ANGLES = 1440
"""Angles in a table: a quarter of a degree, 0.4 mm at 100 mm."""

THETA: Table = (np.arange(ANGLES, dtype=np.float32) + 0.5) * np.float32(2 * np.pi / ANGLES) - np.float32(np.pi)
"""The angle of each column of a table, radians; 0 points to the right, pi / 2 down the rows."""


@dataclass(frozen=True)
class Polar:
    """Where each point of a grid lies as seen from the heart's centre, slice by slice.

    Attributes:
        radius: (S, H, W), mm.
        column: (S, H, W), the table's column for the angle.
    """

    radius: NDArray[np.float32]
    column: NDArray[np.intp]

    def window(self, rows: slice, columns: slice) -> "Polar":
        """Return the part of the grid inside `rows` and `columns`."""
        return Polar(
            np.ascontiguousarray(self.radius[:, rows, columns]), np.ascontiguousarray(self.column[:, rows, columns])
        )

    def look_up(self, table: Table) -> NDArray[np.float32]:
        """Return the value (S, H, W) of a table (S, ANGLES) at every point."""
        levels = np.arange(len(table), dtype=np.intp)[:, None, None] * ANGLES
        return np.take(table.ravel(), self.column + levels)

    def distance(self, away_mm: NDArray[Any] | float, angle: float) -> NDArray[np.float32]:
        """Return each point's distance (S, H, W) from the place that lies `away_mm`, one or (S,), off at `angle`."""
        away = np.atleast_1d(np.asarray(away_mm, np.float32))[:, None]
        turned = -2 * away * np.cos(THETA - np.float32(angle))[None]
        squared = self.radius * (self.radius + self.look_up(np.broadcast_to(turned, (len(self.radius), ANGLES))))
        return np.sqrt(np.maximum(squared + away[..., None] ** 2, 0))


def polar_grid(centres_mm: NDArray[np.floating], shape: tuple[int, int], step_mm: float) -> Polar:
    """Return the polar grid of fine slices (H, W) around centres (S, 2), both from the grid's first corner."""
    down = ((np.arange(shape[0]) + 0.5) * step_mm)[None, :, None] - centres_mm[:, 0, None, None]
    right = ((np.arange(shape[1]) + 0.5) * step_mm)[None, None, :] - centres_mm[:, 1, None, None]
    rows = np.broadcast_to(down.astype(np.float32), (len(centres_mm), *shape))
    columns = np.broadcast_to(right.astype(np.float32), rows.shape)
    radius, angle = np.empty(rows.shape, np.float32), np.empty(rows.shape, np.float32)
    for place in range(len(rows)):  # OpenCV's polar transform is ten times as fast as arctan2
        cv2.cartToPolar(
            np.ascontiguousarray(columns[place]), np.ascontiguousarray(rows[place]), radius[place], angle[place]
        )
    turn = (angle * np.float32(ANGLES / (2 * np.pi))).astype(np.intp) + ANGLES // 2
    turn[turn >= ANGLES] -= ANGLES
    return Polar(radius, turn)


def wrapped(angle: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return angles folded into -pi to pi."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def ripples(
    rng: np.random.Generator, levels: NDArray[np.floating], orders: range, size: float, fall: float = 1.0
) -> Table:
    """Return random waves around the angle, slowly changing from level to level.

    Args:
        rng: Draws the waves of the apex and of the base; between them they blend.
        levels: (L,) from 0 (apex) to 1 (base).
        orders: Waves a turn.
        size: Spread of the lowest order.
        fall: Higher orders are smaller by (order / lowest) ** -fall.

    Returns:
        (L, ANGLES), zero mean.
    """
    waves = rng.standard_normal((2, 2, len(orders), 1)).astype(np.float32)
    turns = np.array(orders, np.float32)[:, None]
    shape = size * (turns / turns[0]) ** -fall
    ends = (shape * (waves[:, 0] * np.cos(turns * THETA) + waves[:, 1] * np.sin(turns * THETA))).sum(axis=1)
    blend = np.asarray(levels, np.float32)[:, None]
    return np.asarray((1 - blend) * ends[0] + blend * ends[1], np.float32)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int, int], cell_px: float) -> NDArray[np.float32]:
    """Return noise (S, H, W) of about unit spread that varies in plane over `cell_px` pixels."""
    coarse_shape = (max(round(shape[1] / cell_px), 2) + 1, max(round(shape[2] / cell_px), 2) + 1)
    coarse = rng.standard_normal((shape[0], *coarse_shape), dtype=np.float32)
    size = (shape[2], shape[1])
    return np.stack([cv2.resize(plane, size, interpolation=cv2.INTER_CUBIC) for plane in coarse])
