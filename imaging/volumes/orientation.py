"""Brings voxel arrays of any orientation into (slice, row, column) as radiologists read them, and back.

In plane, columns run towards the patient's left (towards the back where the slice is sagittal) and rows towards the
feet (towards the back where the slice is axial), which is how short-axis slices are displayed: right ventricle at the
left edge, diaphragm below. Slices run from base to apex. Only whole axes are exchanged or reversed: no voxel is
interpolated, and the way back is exact.

An affine whose directions are plus or minus the identity says nothing about a short-axis study (EMIDEC's and ACDC's are
so, and those of programs that know no place): the stored order is the display order and is kept.
"""

from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)

# Unit vectors in NIfTI's world, whose axes point to the patient's right, front and head.
_LEFT = np.array([-1.0, -0.01, 0.0])  # to the back where a slice is sagittal, and where two ways are equally good
_DOWN = np.array([0.0, -1.0, -2.0]) / np.sqrt(5)  # to the feet first; to the back where a slice is axial
_BASE_TO_APEX = np.array([-1.0, 1.0, -1.0]) / np.sqrt(3)  # left, front and down
_STRAIGHT = 1e-4  # of direction cosines
_SAME_VOXEL = 0.51  # voxels: half of one, and rounding
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


def arrangement_of(affine: NDArray[np.float64], shape: tuple[int, ...], zooms: tuple[float, ...]) -> Arrangement:
    """Return how a volume is arranged: `radiological`, or as stored where its affine says nothing.

    A stack whose slices are not the file's third axis is arranged as the affine says in any case.

    Args:
        affine: (4, 4) from voxels to RAS+ millimetres.
        shape: Of the file's three axes.
        zooms: Voxel sides in mm, in the file's order.
    """
    if says_nothing(affine) and _slice_axis(shape, zooms) == AS_STORED.axes[0]:
        return AS_STORED
    return radiological(affine, shape, zooms)


def says_nothing(affine: NDArray[np.float64]) -> bool:
    """Whether the directions of an affine (4, 4) are plus or minus the identity, as where nobody wrote them."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.allclose(np.abs(directions), np.eye(3), atol=_STRAIGHT))


def order_onto(
    like: Arrangement,
    like_affine: NDArray[np.float64],
    like_shape: tuple[int, ...],
    affine: NDArray[np.float64],
    shape: tuple[int, ...],
) -> Arrangement | None:
    """Return the arrangement that lays a volume onto another's very voxels; None where the affines put it elsewhere.

    Args:
        like: How the other is arranged.
        like_affine: (4, 4), the other's.
        like_shape: Of the other file's three axes.
        affine: (4, 4), the volume's own.
        shape: Of its file's three axes.
    """
    relative = np.linalg.solve(like_affine, affine)  # from the volume's voxels to the other's
    axes = np.abs(relative[:3, :3]).argmax(axis=1)  # of the volume, for each axis of the other
    size, own_size = np.asarray(like_shape), np.asarray(shape)
    if sorted(axes) != [0, 1, 2] or (own_size[axes] != size).any():
        return None
    flips = relative[np.arange(3), axes] < 0
    corners = np.array(np.meshgrid(*([0, end - 1] for end in own_size), indexing="ij")).reshape(3, -1).T
    found = corners @ relative[:3, :3].T + relative[:3, 3]
    expected = np.where(flips, size - 1 - corners[:, axes], corners[:, axes])
    if np.abs(found - expected).max() > _SAME_VOXEL:
        return None
    slice_, row, column = (int(axes[axis]) for axis in like.axes)
    turned = [bool(flip != flips[axis]) for flip, axis in zip(like.flips, like.axes, strict=True)]
    return Arrangement((slice_, row, column), (turned[0], turned[1], turned[2]))


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
