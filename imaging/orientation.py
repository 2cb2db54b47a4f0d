"""Brings voxel arrays of any orientation into (slice, row, column) as radiologists read them, and back.

In plane, columns run towards the patient's left (towards the back where the slice is sagittal) and rows towards the
feet (towards the back where the slice is axial), which is how short-axis slices are displayed: right ventricle at the
left edge, diaphragm below. Slices run from base to apex. Only whole axes are exchanged or reversed: no voxel is
interpolated, and the way back is exact.
"""

from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)

# Unit vectors in NIfTI's world, whose axes point to the patient's right, front and head.
_LEFT = np.array([-1.0, -0.01, 0.0])  # to the back where a slice is sagittal, and where two ways are equally good
_DOWN = np.array([0.0, -1.0, -2.0]) / np.sqrt(5)  # to the feet first; to the back where a slice is axial
_BASE_TO_APEX = np.array([-1.0, 1.0, -1.0]) / np.sqrt(3)  # left, front and down
_THICK = 1.5  # a slice this many times as thick as the next voxel side is wide tells the slice axis


class Arrangement(NamedTuple):
    """Which axis of a file becomes slice, row and column, and which of these three are reversed."""

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    def apply(self, data: NDArray[Scalar]) -> NDArray[Scalar]:
        """Return (S, H, W) from an array (three axes) in the file's own order."""
        turned = data.transpose(self.axes)
        return turned[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]

    def undo(self, volume: NDArray[Scalar]) -> NDArray[Scalar]:
        """Return the file's own order from (S, H, W): the inverse of `apply`."""
        turned = volume[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]
        return turned.transpose(np.argsort(self.axes))


AS_STORED = Arrangement((2, 1, 0), (False, False, False))


def radiological(affine: NDArray[np.float64], shape: tuple[int, ...], zooms: tuple[float, ...]) -> Arrangement:
    """Return how a volume is arranged for reading.

    The slice axis is the one with clearly the thickest voxels, else the one with by far the fewest, else the last.

    Args:
        affine: (4, 4) from voxels to RAS+ millimetres.
        shape: Of the file's three axes.
        zooms: Voxel sides in mm, in the file's order.
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)  # column k: where file axis k points
    slices = _slice_axis(shape, zooms)
    first, second = (axis for axis in range(3) if axis != slices)
    pairs = ((second, first), (first, second))  # (row, column); as stored comes first, and wins a tie
    row, column = max(pairs, key=lambda pair: _fit(directions, *pair))
    wanted = ((slices, _BASE_TO_APEX), (row, _DOWN), (column, _LEFT))
    flips = tuple(bool(directions[:, axis] @ target < 0) for axis, target in wanted)
    return Arrangement((slices, row, column), (flips[0], flips[1], flips[2]))


def _slice_axis(shape: tuple[int, ...], zooms: tuple[float, ...]) -> int:
    by_zoom, by_count = np.argsort(zooms), np.argsort(shape)
    if zooms[by_zoom[2]] > _THICK * zooms[by_zoom[1]]:
        return int(by_zoom[2])
    if 2 * shape[by_count[0]] <= shape[by_count[1]]:
        return int(by_count[0])
    return 2


def _fit(directions: NDArray[np.float64], row: int, column: int) -> float:
    return float(abs(directions[:, row] @ _DOWN) + abs(directions[:, column] @ _LEFT))
