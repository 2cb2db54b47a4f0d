"""A slice's left ventricle in wall coordinates: how deep in the wall and at which angle a pixel lies.

Angles grow clockwise on the screen from the right-hand side, that is, towards larger rows.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from imaging.labels import Tissue

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

RAYS = 72
_STEP_PX = 0.5
_BOX_MARGIN_PX = 3
_MINIMUM_MYOCARDIUM_PX = 60
_MINIMUM_COVERAGE = 0.9


@dataclass(frozen=True, eq=False)
class Anatomy:
    """One ventricle without lesions, cropped to its box.

    Attributes:
        labels: (h, w) uint8 background, cavity and normal myocardium; lesions have been turned back.
        box: Where the crop lies in the slice (H, W).
        size: (H, W) of the slice.
        spacing_mm: In-plane pixel size.
    """

    labels: NDArray[np.uint8]
    box: tuple[slice, slice]
    size: tuple[int, int]
    spacing_mm: float

    @cached_property
    def cavity(self) -> Bools:
        """Blood pool (h, w)."""
        return self.labels == Tissue.CAVITY

    @cached_property
    def myocardium(self) -> Bools:
        """The wall (h, w)."""
        return self.labels == Tissue.NORMAL_MYOCARDIUM

    @cached_property
    def filled(self) -> Bools:
        """The ventricle with what it encloses (h, w)."""
        return np.asarray(ndimage.binary_fill_holes(self.labels > 0))

    @cached_property
    def centre(self) -> tuple[float, float]:
        """(row, column) of the cavity in the crop; of the ventricle where there is no cavity."""
        rows, columns = np.nonzero(self.cavity if self.cavity.any() else self.labels)
        return float(rows.mean()), float(columns.mean())

    @cached_property
    def centre_in_slice(self) -> tuple[float, float]:
        """(row, column) of the centre in the slice."""
        return self.centre[0] + self.box[0].start, self.centre[1] + self.box[1].start

    @cached_property
    def angle(self) -> Floats:
        """(h, w) angle about the centre in [0, 2 pi)."""
        rows, columns = np.indices(self.labels.shape)
        angle = np.arctan2(rows - self.centre[0], columns - self.centre[1])
        return np.asarray(np.mod(angle, 2 * np.pi))

    @cached_property
    def depth(self) -> Floats:
        """(h, w) place in the wall from 0 (endocardium) to 1 (epicardium); NaN outside the myocardium."""
        outward = ndimage.distance_transform_edt(np.pad(self.filled, 1))[1:-1, 1:-1]
        cavity = self.cavity if self.cavity.any() else outward == outward.max()
        inward = ndimage.distance_transform_edt(~cavity)
        # A pixel's centre lies half a pixel inside its tissue.
        depth = (inward - 0.5) / np.maximum(inward + outward - 1, 0.5)
        return np.where(self.myocardium, np.clip(depth, 0, 1), np.nan)

    @cached_property
    def endocardium(self) -> Bools:
        """Myocardium that shares an edge with the cavity (h, w)."""
        return np.asarray(ndimage.binary_dilation(self.cavity) & self.myocardium)

    @cached_property
    def radii(self) -> tuple[Floats, Floats]:
        """Radii of the cavity and of the ventricle along `RAYS` rays, in pixels."""
        return _along_rays(self.cavity, self.centre), _along_rays(self.filled, self.centre)

    @cached_property
    def closed(self) -> bool:
        """Whether the myocardium is a ring that encloses the cavity within the slice."""
        within = ndimage.binary_fill_holes(self.myocardium) & ~self.myocardium
        return bool(self.cavity.any() and not (self.cavity & ~within).any())

    @cached_property
    def bears_lesions(self) -> bool:
        """Whether there is enough of a wall around a cavity to grow or place a lesion in."""
        if not self.cavity.any() or self.myocardium.sum() < _MINIMUM_MYOCARDIUM_PX:
            return False
        inner, outer = self.radii
        return bool((outer - inner >= 1).mean() >= _MINIMUM_COVERAGE)

    @cached_property
    def diameter_mm(self) -> float:
        """Diameter of the disc with the filled ventricle's area."""
        return float(2 * np.sqrt(self.filled.sum() / np.pi)) * self.spacing_mm

    @cached_property
    def wall_mm(self) -> float:
        """Mean wall thickness: the outer minus the inner radius of the discs of equal areas."""
        return self.diameter_mm / 2 - float(np.sqrt(self.cavity.sum() / np.pi)) * self.spacing_mm

    @property
    def wall_to_cavity(self) -> float:
        """Mean wall thickness divided by the cavity's radius."""
        return self.wall_mm / max(self.diameter_mm / 2 - self.wall_mm, 0.5 * self.spacing_mm)

    @cached_property
    def axis_ratio(self) -> float:
        """Short axis divided by long axis of the ventricle, 1 for a disc."""
        points = np.argwhere(self.filled).astype(float)
        if len(points) < 3:
            return 1.0
        low, high = np.linalg.eigvalsh(np.cov(points.T))
        return float(np.sqrt(max(low, 0) / high)) if high > 0 else 1.0

    @property
    def shape(self) -> Floats:
        """(3,) logarithms of diameter, wall-to-cavity ratio and axis ratio: what neighbours share."""
        return np.log([self.diameter_mm, max(self.wall_to_cavity, 0.01), max(self.axis_ratio, 0.1)])

    def paste(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a crop of labels (h, w) put back into an empty slice (H, W)."""
        mask = np.zeros(self.size, dtype=np.uint8)
        mask[self.box] = labels
        return mask


def read_anatomy(mask: NDArray[np.integer], spacing_mm: float = 1.0) -> Anatomy | None:
    """Return the anatomy of a label map (H, W) with its lesions healed; None where there is no ventricle."""
    if not (mask > 0).any():
        return None
    box = ventricle_box(mask)
    healed = np.minimum(mask[box], Tissue.NORMAL_MYOCARDIUM).astype(np.uint8)
    return Anatomy(healed, box, (mask.shape[0], mask.shape[1]), spacing_mm)


def ventricle_box(mask: NDArray[np.integer]) -> tuple[slice, slice]:
    """Return the smallest box that holds every label of (H, W), with a margin where there is room."""
    sides = []
    for axis in (0, 1):
        places = np.flatnonzero(mask.any(axis=1 - axis))
        low = max(int(places[0]) - _BOX_MARGIN_PX, 0)
        sides.append(slice(low, min(int(places[-1]) + 1 + _BOX_MARGIN_PX, mask.shape[axis])))
    return sides[0], sides[1]


def ray_angles() -> Floats:
    """Return the (RAYS,) angles of the rays."""
    return np.arange(RAYS, dtype=np.float64) * (2 * np.pi / RAYS)


def _along_rays(region: Bools, centre: tuple[float, float]) -> Floats:
    """Return how many pixels of each ray lie in `region`, which for a star-shaped one is its radius."""
    reach = np.arange(_STEP_PX / 2, np.hypot(*region.shape), _STEP_PX)
    angles = ray_angles()[:, None]
    rows = np.rint(centre[0] + np.sin(angles) * reach).astype(int)
    columns = np.rint(centre[1] + np.cos(angles) * reach).astype(int)
    padded = np.pad(region, 1)
    inside = padded[
        np.clip(rows + 1, 0, region.shape[0] + 1),
        np.clip(columns + 1, 0, region.shape[1] + 1),
    ]
    return np.asarray(inside.sum(axis=1) * _STEP_PX)
