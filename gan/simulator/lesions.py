"""Lesions grown from the endocardium outwards, and one patient's lesion carried over to another patient's wall.

Growing costs energy at every pixel: little along the endocardium, more in depth, most outside the territory,
and everywhere a random amount, since tissue is uneven. From seed points on the endocardium the cheapest pixels
are taken until the budget, the number of pixels asked for, is spent.

Carrying over has two placements: in wall coordinates (depth and angle), where the lesion takes on the recipient's
wall, and rigid (shift, rotation, scale), where it keeps its shape and has to fit. Each tries several placements, takes
the one of least misfit, and refuses it where that is too large.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.graph import MCP_Geometric

from gan.simulator.anatomy import RAYS, Anatomy, ray_angles
from gan.simulator.config import SimulatorConfig
from gan.simulator.lesion_model import LesionPlan, angle_between, territory_of
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


Labels = NDArray[np.uint8]

_ROTATIONS_TRIED = 4  # of the twelve, so that one pair of patients gives many masks
_SCALES = (0.9, 1.0, 1.1)
_SHIFT_STEP_PX = 2
_POINTS = 100
_SAME_TERRITORY_BONUS = 0.1


@dataclass(frozen=True, eq=False)
class Donor:
    """A patient's slice that lends its lesion.

    Attributes:
        row: Its place among the training slices.
        anatomy: Its ventricle, healed.
        labels: (h, w) the crop with the lesion, on the anatomy's box.
        angle: Mean direction of the lesion, in radians.
    """

    row: int
    anatomy: Anatomy
    labels: Labels
    angle: float


def carry_lesion(
    donor: Donor, recipient: Anatomy, with_no_reflow: bool, config: SimulatorConfig, rng: np.random.Generator
) -> Labels | None:
    """Return the recipient's crop of labels with the donor's lesion; None where no placement fits."""
    rotations = draw_rotations(config, rng)
    if rng.random() < config.wall_placement_share:
        carried = _place_in_wall(donor, recipient, rotations, config)
    else:
        carried = _place_rigidly(donor, recipient, rotations, config)
    if carried is None:
        return None
    lesion = tidy_lesion(recipient, carried >= Tissue.INFARCT)
    if not with_no_reflow:
        return compose(recipient, lesion, np.zeros_like(lesion))
    no_reflow = (carried == Tissue.NO_REFLOW) & infarct_core(recipient, lesion)
    return compose(recipient, lesion, remove_small(no_reflow, MINIMUM_NO_REFLOW_CLUSTER_PX))


def draw_rotations(config: SimulatorConfig, rng: np.random.Generator) -> Floats:
    """Draw which multiples of the rotation step are tried, in radians."""
    steps = max(int(360 // config.rotation_step_deg), 1)
    drawn = rng.choice(steps, size=min(_ROTATIONS_TRIED, steps), replace=False)
    return np.asarray(np.radians(config.rotation_step_deg * drawn), dtype=np.float64)


def unroll(anatomy: Anatomy, labels: Labels, layers: int = 12) -> Labels:
    """Return the wall's labels on a grid (RAYS, layers) of angle and depth; background where there is none."""
    inner, outer = anatomy.radii
    depth = (np.arange(layers) + 0.5) / layers
    radius = inner[:, None] + (outer - inner)[:, None] * depth
    angle = ray_angles()[:, None]
    rows = np.rint(anatomy.centre[0] + radius * np.sin(angle)).astype(int)
    columns = np.rint(anatomy.centre[1] + radius * np.cos(angle)).astype(int)
    found = labels[np.clip(rows, 0, labels.shape[0] - 1), np.clip(columns, 0, labels.shape[1] - 1)]
    return np.where(found >= Tissue.NORMAL_MYOCARDIUM, found, Tissue.BACKGROUND).astype(np.uint8)


def roll_up(unrolled: Labels, anatomy: Anatomy, turn: float) -> Labels:
    """Return labels (h, w) of an anatomy's wall, looked up on an unrolled wall turned by `turn` radians."""
    layers = unrolled.shape[1]
    wall = anatomy.myocardium
    ray = np.rint((anatomy.angle[wall] - turn) * (RAYS / (2 * np.pi))).astype(int) % RAYS
    layer = np.clip((anatomy.depth[wall] * layers).astype(int), 0, layers - 1)
    labels = np.zeros(anatomy.labels.shape, dtype=np.uint8)
    labels[wall] = unrolled[ray, layer]
    return labels


def _place_in_wall(donor: Donor, recipient: Anatomy, rotations: Floats, config: SimulatorConfig) -> Labels | None:
    unrolled = unroll(donor.anatomy, donor.labels)
    costs = [_wall_misfit(donor, unrolled, recipient, turn) - _bonus(donor, turn) for turn in rotations]
    best = int(np.argmin(costs))
    if costs[best] > config.maximum_misfit:
        return None
    return roll_up(unrolled, recipient, float(rotations[best]))


def _wall_misfit(donor: Donor, unrolled: Labels, recipient: Anatomy, turn: float) -> float:
    """Return by how much the walls' thickness differs where the lesion comes to lie, 0 for equal walls."""
    lesion = (unrolled >= Tissue.INFARCT).any(axis=1)
    if not lesion.any():
        return 1.0
    thickness = [np.maximum(outer - inner, 0.5) for inner, outer in (donor.anatomy.radii, recipient.radii)]
    shift = round(turn * RAYS / (2 * np.pi))
    ratio = np.log(np.roll(thickness[0], shift) / thickness[1])[np.roll(lesion, shift)]
    return float(np.abs(ratio).mean())


def _place_rigidly(donor: Donor, recipient: Anatomy, rotations: Floats, config: SimulatorConfig) -> Labels | None:
    places = np.argwhere(donor.labels >= Tissue.INFARCT)
    places = places[:: max(len(places) // _POINTS, 1)]
    depth = donor.anatomy.depth[places[:, 0], places[:, 1]]
    points = places - np.array(donor.anatomy.centre)
    size = recipient.diameter_mm / donor.anatomy.diameter_mm
    tried = []
    for turn in rotations:
        for scale in _SCALES:
            moved = size * scale * points @ _rotation(turn).T
            misfit, shift = best_shift(moved, depth, recipient, config.shift_px)
            tried.append((misfit + abs(scale - 1) - _bonus(donor, turn), turn, size * scale, shift))
    cost, turn, scale, shift = min(tried, key=lambda placement: placement[0])
    return _move(donor, recipient, turn, scale, shift) if cost <= config.maximum_misfit else None


def best_shift(moved: Floats, depth: Floats, recipient: Anatomy, most_px: int) -> tuple[float, Floats]:
    """Return the least misfit and its (row, column) shift for lesion points about the recipient's centre.

    A point misfits by the difference of its depth in the two walls, and by 1 outside the recipient's wall.
    """
    steps = np.arange(-(most_px // _SHIFT_STEP_PX), most_px // _SHIFT_STEP_PX + 1) * _SHIFT_STEP_PX
    shifts = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    padded = np.pad(recipient.depth, 1, constant_values=np.nan)
    start = np.rint(moved + recipient.centre).astype(int) + 1
    rows = np.clip(start[:, 0] + shifts[:, :1], 0, padded.shape[0] - 1)
    columns = np.clip(start[:, 1] + shifts[:, 1:], 0, padded.shape[1] - 1)
    misfit = np.nan_to_num(np.abs(padded[rows, columns] - depth), nan=1.0).mean(axis=1)
    best = int(np.argmin(misfit))
    return float(misfit[best]), shifts[best].astype(float)


def _move(donor: Donor, recipient: Anatomy, turn: float, scale: float, shift: Floats) -> Labels:
    """Return the donor's labels (h, w) turned, scaled and shifted onto the recipient's wall."""
    wall = np.argwhere(recipient.myocardium)
    source = (wall - np.array(recipient.centre) - shift) @ _rotation(-turn).T / scale + donor.anatomy.centre
    padded = np.pad(donor.labels, 1)
    row, column = (np.clip(np.rint(source).astype(int) + 1, 0, np.array(padded.shape) - 1)).T
    labels = np.zeros(recipient.labels.shape, dtype=np.uint8)
    labels[wall[:, 0], wall[:, 1]] = padded[row, column]
    return labels


def _rotation(turn: float) -> Floats:
    """Return the matrix that turns (row, column) by `turn` radians, from columns towards rows."""
    return np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])


def _bonus(donor: Donor, turn: float) -> float:
    """Return what speaks for a rotation that leaves the lesion in its coronary territory."""
    return _SAME_TERRITORY_BONUS if territory_of(donor.angle + turn) == territory_of(donor.angle) else 0.0
