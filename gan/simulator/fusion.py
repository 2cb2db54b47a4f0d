"""One patient's lesion carried over to another patient's wall.

Two placements: in wall coordinates (depth and angle), where the lesion takes on the recipient's wall, and rigid
(shift, rotation, scale), where it keeps its shape and has to fit. Each tries several placements, takes the one of
least misfit, and refuses it where that is too large.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gan.simulator.anatomy import RAYS, Anatomy, ray_angles
from gan.simulator.config import SimulatorConfig
from gan.simulator.growth import MINIMUM_NO_REFLOW_CLUSTER_PX, compose, infarct_core, remove_small, tidy_lesion
from gan.simulator.lesion_model import territory_of
from imaging.labels import Tissue

Floats = NDArray[np.float64]
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
