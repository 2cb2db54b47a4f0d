"""What is wrong with the wall: an infarct of one coronary territory, and no-reflow in its core.

Infarcts start at the endocardium and spread outward (the wave front of Reimer and Jennings, Lab Invest 1979);
no-reflow is a dark core within (Kim et al., Circulation 1999).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imaging.phantom.fields import THETA, Polar, Table, ripples, wrapped
from imaging.phantom.heart import Heart
from imaging.phantom.materials import Material

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
