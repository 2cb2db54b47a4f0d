"""The wall of a whole stack, unrolled: what a segmenter found of it by slice, depth and angle about the cavity.

Unrolled, a wall of some 14,000 pixels is a small regular grid, in which neighbours of the next slice lie at the same
angle and every pixel lies between endocardium (depth 0) and epicardium (1). A lesion is judged in it alone, so that
none can lie outside the wall.

What does not live here: what is learned from it (`segmentation.corrector.judge`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from imaging.labels import Tissue

DEPTHS, ANGLES = 6, 72  # cells of about 1.5 mm by 2.5 mm in a wall of 9 mm
CHANNELS = 9
VALID = 8  # the channel that tells which cells lie in a wall

_NEAREST = 3  # pixels that a cell's value is the mean of
_FAR_PX = 4.0  # a cell whose next pixel of the wall lies further away is outside of it: an open ring
_FEWEST_PX = 30  # of wall in a slice; fewer have no shape
_LARGEST_LOGIT = 7.0

Floats = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class WallCells:
    """Where the cells of a stack's wall lie in its slices (S, H, W).

    Attributes:
        pixels: (S, DEPTHS, ANGLES, K) places in a flattened slice.
        valid: (S, DEPTHS, ANGLES), whether the cell lies in the wall.
        thickness_px: (S,), of the wall, the median; 0 where a slice has none.
    """

    pixels: NDArray[np.intp]
    valid: NDArray[np.bool_]
    thickness_px: NDArray[np.float64]

    @classmethod
    def of(cls, drawn: NDArray[np.integer]) -> "WallCells":
        """Return the cells of the wall of label maps (S, H, W); a slice with hardly any wall has no valid cell."""
        pixels, valid, thickness = zip(*(_cells_of_slice(one) for one in drawn), strict=True)
        return cls(np.stack(pixels), np.stack(valid), np.array(thickness))

    def unroll(self, values: Floats) -> NDArray[np.float32]:
        """Return values (S, H, W) by cell (S, DEPTHS, ANGLES); 0 where a cell is not valid."""
        flat = values.reshape(len(values), -1)
        each = np.stack([one[places].mean(axis=-1) for one, places in zip(flat, self.pixels, strict=True)])
        return np.where(self.valid, each, 0).astype(np.float32)


def wall_channels(
    cells: WallCells, probabilities: NDArray[np.float32], images: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return what is known of each cell (CHANNELS, S, DEPTHS, ANGLES), in numbers of about 1.

    They are the logits of infarction and, within it, of no-reflow; intensity, as it is and smoothed, in deviations of
    the remote wall, and as a share of the step from there to the blood; the slice's thickness of wall; depth; place in
    the stack; and whether the cell lies in a wall.

    Args:
        cells: Of the label maps that the probabilities draw.
        probabilities: (S, C, H, W) of one study, slices in order.
        images: (S, H, W) in [0, 1].
    """
    infarction = probabilities[:, Tissue.INFARCT :].sum(axis=1)
    core = probabilities[:, Tissue.NO_REFLOW] / np.maximum(infarction, 1e-3)
    remote, to_blood = _against_remote_wall(probabilities, images)
    slices = len(images)
    height = np.linspace(-1, 1, slices) if slices > 1 else np.zeros(1)
    planes = (
        logit(infarction) / 4,
        logit(core) / 4,
        remote,
        ndimage.gaussian_filter(remote, (0, 1, 1)),
        to_blood,
        np.broadcast_to(cells.thickness_px[:, None, None] / 10, images.shape),
        np.broadcast_to(height[:, None, None], images.shape),
    )
    unrolled = [cells.unroll(plane) for plane in planes]
    depth = np.broadcast_to(((np.arange(DEPTHS) + 0.5) / DEPTHS)[:, None], cells.valid.shape) * cells.valid
    return np.stack([*unrolled, depth.astype(np.float32), cells.valid.astype(np.float32)])


def logit(probability: Floats) -> NDArray[np.float32]:
    """Return log odds, at most 7 either way: a probability of 0.999."""
    kept = np.clip(probability, 1e-6, 1 - 1e-6)
    return np.clip(np.log(kept / (1 - kept)), -_LARGEST_LOGIT, _LARGEST_LOGIT).astype(np.float32)


def _cells_of_slice(drawn: NDArray[np.integer]) -> tuple[NDArray[np.intp], NDArray[np.bool_], float]:
    wall, cavity = drawn >= Tissue.NORMAL_MYOCARDIUM, drawn == Tissue.CAVITY
    rows, columns = np.nonzero(wall)
    if len(rows) < _FEWEST_PX:
        return np.zeros((DEPTHS, ANGLES, _NEAREST), np.intp), np.zeros((DEPTHS, ANGLES), np.bool_), 0.0
    outwards = ndimage.distance_transform_edt(wall | cavity)[rows, columns]
    if cavity.any():
        inwards = ndimage.distance_transform_edt(~cavity)[rows, columns]
    else:  # the apex: the middle of the wall is its inner border
        inwards = outwards.max() - outwards + 0.5
    centre = np.argwhere(cavity if cavity.any() else wall).mean(axis=0)
    angle = np.arctan2(rows - centre[0], columns - centre[1])
    radius = np.hypot(rows - centre[0], columns - centre[1]).mean()
    thickness = float(np.median(inwards + outwards))
    tree = cKDTree(_cylinder(inwards / (inwards + outwards) * thickness, angle, radius))
    depths, angles = (np.arange(DEPTHS) + 0.5) / DEPTHS, (np.arange(ANGLES) + 0.5) / ANGLES * 2 * np.pi - np.pi
    targets = _cylinder(np.repeat(depths * thickness, ANGLES), np.tile(angles, DEPTHS), radius)
    distance, nearest = tree.query(targets, k=_NEAREST)
    pixels = (rows * drawn.shape[1] + columns)[nearest].reshape(DEPTHS, ANGLES, _NEAREST)
    return pixels, distance[:, 0].reshape(DEPTHS, ANGLES) < _FAR_PX, thickness


def _cylinder(depth_px: Floats, angle: Floats, radius_px: float) -> Floats:
    """Return places (N, 3) in a straightened wall, in which neighbours across the cut of the angle are neighbours."""
    return np.stack([depth_px, np.cos(angle) * radius_px, np.sin(angle) * radius_px], axis=1)


def _against_remote_wall(
    probabilities: NDArray[np.float32], images: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return intensities in deviations of the remote wall (a quarter of them), and as shares of the step to blood."""
    drawn = probabilities.argmax(axis=1)
    wall = drawn >= Tissue.NORMAL_MYOCARDIUM
    remote = wall & (drawn == Tissue.NORMAL_MYOCARDIUM)
    values = images[remote] if remote.sum() >= _FEWEST_PX else images[wall] if wall.any() else images
    middle = np.median(values)
    deviation = 1.4826 * np.median(np.abs(values - middle)) + 0.01  # of a normal distribution, from its median
    blood = images[drawn == Tissue.CAVITY]
    step = max(float(np.median(blood) - middle), 0.1) if len(blood) else 1.0
    away = images - middle
    return np.clip(away / deviation, -10, 12) / 4, np.clip(away / step, -2, 3)
