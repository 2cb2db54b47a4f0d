"""From the areas inside the two contours of a left ventricle to a label map of cine studies."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.errors import InputError
from imaging.labels import CineTissue

_MOST_STRAY_PIXELS = 5  # of the cavity outside the outer contour: the roughness of two contours drawn one by one


def ventricle_mask(endo: NDArray[Any], epi: NDArray[Any], source: str) -> NDArray[np.uint8]:
    """Return the label map (values of `CineTissue`) of a cavity and the whole ventricle, all of one shape.

    Args:
        endo: The area inside the inner contour: 0 and one other number.
        epi: The area inside the outer contour, the cavity included.
        source: The file and frame, for messages.

    Raises:
        InputError: One is empty, covers everything or is no mask, or the cavity is not inside the ventricle.
    """
    cavity, whole = _region(endo, f"{source}: endo"), _region(epi, f"{source}: epi")
    stray = int(np.count_nonzero(cavity & ~whole))
    if stray > _MOST_STRAY_PIXELS:
        raise InputError(
            f"{source}: {stray} of {np.count_nonzero(cavity)} pixels of endo lie outside epi; correct the contours "
            "(epi is the whole area inside the outer one)"
        )
    mask = np.zeros(whole.shape, dtype=np.uint8)
    mask[whole] = CineTissue.MYOCARDIUM
    mask[cavity] = CineTissue.CAVITY
    return mask


def _region(mask: NDArray[Any], source: str) -> NDArray[np.bool_]:
    """Return where a mask is set: it holds 0 and one other number, such as 1 or 255."""
    values = np.unique(mask)  # NaN is one of them, and equals nothing
    if len(values) > 2 or not np.isfinite(values).all() or values[0] < 0:
        shown = ", ".join(f"{value:g}" for value in values[:5].tolist())
        raise InputError(f"{source} holds {shown}{' ...' if len(values) > 5 else ''}; give a mask of 0 and 1")
    region: NDArray[np.bool_] = mask > 0
    if not region.any() or region.all():
        raise InputError(f"{source} is {'empty' if values[0] == 0 else 'everywhere'}; draw it or remove the frame")
    return region
