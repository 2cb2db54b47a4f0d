"""Lesions grown from the endocardium outwards.

Growing costs energy at every pixel: little along the endocardium, more in depth, most outside the territory,
and everywhere a random amount, since tissue is uneven. From seed points on the endocardium the cheapest pixels
are taken until the budget, the number of pixels asked for, is spent.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.graph import MCP_Geometric

from gan.simulator.anatomy import Anatomy
from gan.simulator.lesion_model import LesionPlan, angle_between
from imaging.labels import Tissue

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

MINIMUM_INFARCT_CLUSTER_PX = 6
MINIMUM_NO_REFLOW_CLUSTER_PX = 3
_CROSS = ndimage.generate_binary_structure(2, 1)
_SQUARE = ndimage.generate_binary_structure(2, 2)
_SEED_SHARE = 0.4
# Growth spills over the edges of its sector; this much narrower, it touches what was planned.
_SECTOR_SHRINK = 0.92
# Where in the wall most no-reflow lies.
_NO_REFLOW_DEPTH = 0.12


def grow_lesion(anatomy: Anatomy, plan: LesionPlan, rng: np.random.Generator) -> NDArray[np.uint8] | None:
    """Return the anatomy's crop of labels (h, w) with a lesion grown in it; None where it cannot be grown."""
    lesion = grow_infarct(anatomy, plan, rng)
    if not lesion.any():
        return None
    no_reflow = np.zeros_like(lesion)
    if plan.no_reflow_share > 0:
        no_reflow = grow_no_reflow(anatomy, lesion, plan, rng)
        if not no_reflow.any():
            return None
    return compose(anatomy, lesion, no_reflow)


def compose(anatomy: Anatomy, lesion: Bools, no_reflow: Bools) -> NDArray[np.uint8]:
    """Return the anatomy's labels with a lesion and, inside it, no-reflow painted in."""
    labels = anatomy.labels.copy()
    labels[lesion & anatomy.myocardium] = Tissue.INFARCT
    labels[no_reflow & infarct_core(anatomy, lesion)] = Tissue.NO_REFLOW
    return labels


def grow_infarct(anatomy: Anatomy, plan: LesionPlan, rng: np.random.Generator) -> Bools:
    """Grow a lesion (h, w) of the planned share of the myocardium."""
    seeds = _draw_seeds(anatomy, plan, rng)
    if not seeds.any():
        return seeds
    cost = np.exp(_wall_effort(anatomy, plan, rng) + 0.5 * _unevenness(seeds.shape, 2.0, rng))
    energy = _arrival_energy(cost, seeds, anatomy.myocardium)
    energy *= np.exp(0.15 * _unevenness(seeds.shape, 0.7, rng))
    budget = round(plan.infarct_share * int(anatomy.myocardium.sum()))
    return tidy_lesion(anatomy, _cheapest(energy, budget))


def grow_no_reflow(anatomy: Anatomy, lesion: Bools, plan: LesionPlan, rng: np.random.Generator) -> Bools:
    """Grow no-reflow (h, w) in the core of a lesion, near the endocardium first; empty where the core is small."""
    core = infarct_core(anatomy, lesion)
    budget = round(plan.no_reflow_share * int(lesion.sum()))
    if core.sum() < max(budget // 2, MINIMUM_NO_REFLOW_CLUSTER_PX):
        return np.zeros_like(core)
    effort = 6.0 * np.abs(anatomy.depth - _NO_REFLOW_DEPTH) + 0.5 * _unevenness(core.shape, 1.5, rng)
    cost = np.exp(np.where(core, effort, 0.0))
    places = np.argwhere(core)
    ease = 1 / cost[core] ** 2
    foci = rng.choice(len(places), size=1 + int(rng.random() < 0.3), p=ease / ease.sum())
    seeds = np.zeros_like(core)
    seeds[tuple(places[foci].T)] = True
    energy = _arrival_energy(cost, seeds, core)
    return remove_small(_cheapest(energy, budget), MINIMUM_NO_REFLOW_CLUSTER_PX)


def infarct_core(anatomy: Anatomy, lesion: Bools) -> Bools:
    """Return the part of a lesion that touches neither healthy wall nor what lies outside the ventricle.

    The cavity side is open: no-reflow often reaches the endocardium.
    """
    inside = ndimage.binary_erosion(lesion | anatomy.cavity, _CROSS)
    return np.asarray(inside & lesion & anatomy.myocardium)


def tidy_lesion(anatomy: Anatomy, lesion: Bools) -> Bools:
    """Close gaps, stay in the myocardium and remove small clusters."""
    closed = ndimage.binary_closing(np.pad(lesion, 2), _CROSS)[2:-2, 2:-2]
    return remove_small(closed & anatomy.myocardium, MINIMUM_INFARCT_CLUSTER_PX)


def remove_small(region: Bools, minimum_px: int) -> Bools:
    """Return the region (h, w) without 8-connected clusters of fewer than `minimum_px` pixels."""
    clusters, count = ndimage.label(region, _SQUARE)
    if not count:
        return region
    sizes = np.bincount(clusters.ravel())
    sizes[0] = 0
    return np.asarray(sizes[clusters] >= minimum_px)


def _draw_seeds(anatomy: Anatomy, plan: LesionPlan, rng: np.random.Generator) -> Bools:
    """Draw seed points on the endocardium within the lesion's sector, at least one."""
    away = np.abs(angle_between(anatomy.angle, plan.angle))
    possible = anatomy.endocardium & (away <= _SECTOR_SHRINK * np.pi * plan.extent)
    seeds = np.asarray(possible & (rng.random(possible.shape) < _SEED_SHARE))
    if not seeds.any() and anatomy.endocardium.any():
        seeds.flat[np.argmin(np.where(anatomy.endocardium, away, np.inf))] = True
    return seeds


def _wall_effort(anatomy: Anatomy, plan: LesionPlan, rng: np.random.Generator) -> Floats:
    """Return the logarithm of what growing costs (h, w): rising with depth and towards the sector's edges."""
    half = max(_SECTOR_SHRINK * np.pi * plan.extent, 0.15)
    edge = np.abs(angle_between(anatomy.angle, plan.angle)) / half
    effort = rng.uniform(0.5, 2.5) * np.nan_to_num(anatomy.depth)
    effort += 0.8 * np.minimum(edge, 1.0) ** 3
    return np.asarray(effort + 3.0 * np.clip((edge - 1.0) * half / 0.3, 0, 1))


def _unevenness(shape: tuple[int, ...], scale_px: float, rng: np.random.Generator) -> Floats:
    """Return smooth noise (h, w) of mean 0 and standard deviation 1."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), scale_px, mode="wrap")
    return np.asarray((noise - noise.mean()) / max(float(noise.std()), 1e-9))


def _arrival_energy(cost: Floats, seeds: Bools, region: Bools) -> Floats:
    """Return what it costs to reach each pixel from the seeds within `region`; infinite elsewhere."""
    blocked = np.where(region, cost, -1.0)  # MCP never enters negative costs
    energy, _ = MCP_Geometric(blocked).find_costs(np.argwhere(seeds))
    return np.asarray(energy)


def _cheapest(energy: Floats, budget: int) -> Bools:
    """Return the `budget` pixels of lowest energy among those that can be reached."""
    taken = np.zeros(energy.shape, dtype=bool)
    budget = min(budget, int(np.isfinite(energy).sum()))
    taken.flat[np.argsort(energy, axis=None, kind="stable")[:budget]] = True
    return taken
