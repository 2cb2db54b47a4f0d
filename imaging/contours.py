"""Hand-drawn contours: text files of points, and the masks that they enclose."""

from pathlib import Path
from typing import Any

import numpy as np
import skimage.draw
from numpy.typing import NDArray

from imaging.errors import InputError
from imaging.source_files import read_text

_polygon2mask: Any = skimage.draw.polygon2mask  # untyped
# How far up and left a contour is moved, in pixels: of the centres that it runs through, those on one side count. Drawn
# in half pixels, it runs through many: with all of them a ventricle would be 2.5 % larger, without any 2.5 % smaller.
_TIE = np.array([1.0e-5, 0.6e-5])
# Pixel i covers i to i + 1, as everywhere in this project. Sunnybrook does not say where its coordinates start; so
# taken, its contours part bright cavity from dark myocardium better than with pixel centres at whole numbers.
_CENTRE = 0.5


def contour_mask(path: Path, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels (rows, columns) whose centres lie inside a contour; pixel (0, 0) covers 0 to 1.

    Args:
        path: A text file with `x y` a line, in pixels.
        shape: (rows, columns) of the image it was drawn on.

    Raises:
        InputError: The file is unreadable, no polygon, leaves the image or encloses no pixel.
    """
    points = read_contour(path)
    rows, columns = shape
    inside = (points >= 0) & (points <= np.array([columns, rows]))
    if not inside.all():
        x, y = points[~inside.all(axis=1)][0]
        raise InputError(
            f"{path}: point {x:g} {y:g} lies outside the image of {columns} x {rows} pixels (x, y); "
            "give the contours that were drawn on this image"
        )
    mask: NDArray[np.bool_] = _polygon2mask(shape, (points - _CENTRE - _TIE)[:, ::-1])
    if not mask.any():
        raise InputError(f"{path}: its {len(points)} points enclose no pixel; draw the contour again")
    return mask


def read_contour(path: Path) -> NDArray[np.float64]:
    """Read the points (N, 2) of a contour as x, y.

    Raises:
        InputError: The file is unreadable, or holds fewer than three points or something else.
    """
    try:
        lines = read_text(path).splitlines()
        points = np.array([line.split() for line in lines if line.strip()], dtype=np.float64)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a readable text file") from error
    except (InputError, ValueError) as error:
        raise InputError(f"{path}: not a contour with two numbers x y a line; export it again") from error
    if len(points) < 3:
        raise InputError(f"{path}: holds {len(points)} points, which enclose nothing; draw the contour again")
    if points.shape[1] != 2 or not np.isfinite(points).all():
        raise InputError(f"{path}: not a contour with two finite numbers x y a line; export it again")
    return points
