"""What goes into the localiser and what comes out: square fields of view, and boxes in their coordinates.

Boxes inside the network are (left, top, right, bottom) in shares of the square field of view, as
`torchvision.ops` orders them; outside they are `imaging.studies.box.Box` on the study's 1 mm grid.
"""

from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from common.errors import InputError
from imaging.studies.box import Box
from imaging.studies.preparation import crop_region

_PERCENTILES = (1.0, 99.0)


def field_of_view_mm(shapes: Sequence[tuple[int, ...]], boxes: Sequence[Box], margin_mm: float) -> int:
    """Return the side of a central square that holds every box with a margin, and is no larger than the images.

    The ventricle lies near the middle of native fields of view: their rim costs pixels and holds none.

    Args:
        shapes: Of the studies (S, H, W) on the 1 mm grid.
        boxes: Their ventricles.
        margin_mm: Beyond the outermost box.

    Returns:
        Whole even mm.
    """
    longest = max(max(shape[-2:]) for shape in shapes)
    reach = max(_reach(box, shape) for box, shape in zip(boxes, shapes, strict=True))
    side = min(longest, ceil(2 * (reach + margin_mm)))
    return side + side % 2


def letterbox(image: NDArray[np.float32], fov_mm: int, input_px: int) -> torch.Tensor:
    """Window a study (S, H, W) on the 1 mm grid to [0, 1] and put it, centred, into squares.

    A larger study loses its border, a smaller one is padded with its darkest value. Intensities are windowed by what
    the square holds of the study.

    Returns:
        (S, 1, input_px, input_px), float32.

    Raises:
        InputError: The image has no contrast.
    """
    inside = _central(np.ones((1, *image.shape[-2:]), np.bool_), fov_mm)[0]
    square = _central(image, fov_mm)
    low, high = (float(value) for value in np.percentile(square[:, inside], _PERCENTILES))
    if not high > low:
        raise InputError(f"the image is flat ({low:g} everywhere): there is no heart to find; check the study")
    return _shrunk((np.clip((square - low) / (high - low), 0.0, 1.0) * inside).astype(np.float32), input_px)


def letterbox_labels(mask: NDArray[np.uint8], fov_mm: int, input_px: int) -> torch.Tensor:
    """Return (S, 1, input_px, input_px): the share of each pixel that any label of (S, H, W) covers.

    The pixels are those of `letterbox`.
    """
    return _shrunk(_central(mask > 0, fov_mm).astype(np.float32), input_px)


def box_to_shares(box: Box, shape: tuple[int, ...], fov_mm: int) -> torch.Tensor:
    """Return (4,): a box on the 1 mm grid of a study (S, H, W), in shares of its field of view, clipped."""
    top, left = _origin(shape, fov_mm)
    sides = (box.left - left, box.top - top, box.right - left, box.bottom - top)
    return (torch.tensor(sides) / fov_mm).clamp(0.0, 1.0)


def shares_to_box(shares: NDArray[np.floating], shape: tuple[int, ...], fov_mm: int) -> Box:
    """Return the box on the 1 mm grid, the inverse of `box_to_shares`, clipped to the study's image."""
    top, left = _origin(shape, fov_mm)
    x0, y0, x1, y1 = (float(side) * fov_mm for side in shares)
    height, width = shape[-2:]
    return Box(
        top=min(max(y0 + top, 0.0), height),
        left=min(max(x0 + left, 0.0), width),
        bottom=min(max(y1 + top, 0.0), height),
        right=min(max(x1 + left, 0.0), width),
    )


def extreme_points(mask: NDArray[np.uint8], fov_mm: int, directions: int = 64) -> torch.Tensor:
    """Return the outermost points of all labels of a study, in every direction.

    Rotated and scaled, they give the box of the rotated and scaled mask without touching its pixels.

    Args:
        mask: (S, H, W) on the 1 mm grid, not empty.
        fov_mm: Side of the field of view.
        directions: Number of points.

    Returns:
        (directions, 2): x and y in [-1, 1], the coordinates of `grid_sample` with `align_corners=False`.
    """
    rows, columns = np.nonzero((mask > 0).any(axis=0))
    corners = np.concatenate([np.stack([columns + dx, rows + dy], axis=1) for dx in (0, 1) for dy in (0, 1)]).astype(
        np.float64
    )
    angles = np.arange(directions) * 2 * np.pi / directions
    outward = np.stack([np.cos(angles), np.sin(angles)])
    outermost = corners[np.argmax(corners @ outward, axis=0)]
    top, left = _origin(mask.shape, fov_mm)
    shares = (outermost - np.array([left, top])) / fov_mm
    return torch.from_numpy(shares * 2 - 1).float()


def _central(volume: NDArray[Any], side: int) -> NDArray[Any]:
    return crop_region(volume, _image_centre(volume.shape), side)


def _shrunk(squares: NDArray[np.float32], input_px: int) -> torch.Tensor:
    """Return (S, 1, input_px, input_px) from (S, side, side)."""
    tensor = torch.from_numpy(squares)[:, None]
    if tensor.shape[-1] == input_px:
        return tensor
    return F.interpolate(tensor, size=(input_px, input_px), mode="bilinear", antialias=True)


def _reach(box: Box, shape: tuple[int, ...]) -> float:
    """Return how far a box reaches from the image's centre, along rows or columns."""
    row, column = _image_centre(shape)
    return max(row - box.top, box.bottom - row, column - box.left, box.right - column)


def _image_centre(shape: tuple[int, ...]) -> tuple[float, float]:
    return shape[-2] / 2, shape[-1] / 2


def _origin(shape: tuple[int, ...], fov_mm: int) -> tuple[int, int]:
    """Return the row and column of the image where the field of view starts, as `crop_region` places it."""
    row, column = (int(np.floor(middle - fov_mm / 2 + 0.5)) for middle in _image_centre(shape))
    return row, column
