"""From the numbers in a file's mask to the tissues of a label set."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.errors import InputError, some_of
from imaging.labels import LabelSet, distinct_values, smeared

_ROUNDING = 1e-3  # how far a label stored as a float may lie from a whole number
_LARGEST = 2.0**53  # beyond it, neighbouring whole numbers are one float64


def to_labels(
    mask: NDArray[Any], labels: LabelSet, source: str, values: Mapping[int, int] | None = None
) -> NDArray[np.uint8]:
    """Return label values of `labels` (same shape) from a mask as a file holds it.

    Args:
        mask: Whole numbers, perhaps stored as floats.
        labels: The label set.
        source: The file, for messages.
        values: Label value by the number in the file; None where the file's numbers are the label values.

    Raises:
        InputError: A voxel is not whole, or holds a number that stands for no tissue.
    """
    numbers = _whole(mask, source)
    if values is None:
        labels.check(numbers, source)
        return np.ascontiguousarray(numbers, dtype=np.uint8)
    unknown = sorted(set(distinct_values(numbers)) - set(values))
    if unknown:
        raise InputError(
            f"{source}: label values [{some_of(unknown)}] stand for no tissue; known are [{some_of(sorted(values))}]"
            f"{smeared(unknown)}: correct the mask, "
            "choose the matching source format, or name them in source.label_values"
        )
    translated = np.zeros(numbers.shape, dtype=np.uint8)
    for number, label in values.items():
        translated[numbers == number] = label
    return translated


def _whole(mask: NDArray[Any], source: str) -> NDArray[np.int64]:
    if mask.dtype.kind != "f":
        return mask.astype(np.int64)
    bad = int(np.count_nonzero(~np.isfinite(mask)))
    if bad:
        raise InputError(f"{source}: {bad} voxels are NaN or infinite; save the mask with whole label values")
    whole = np.rint(mask)
    off = int(np.count_nonzero((np.abs(mask - whole) > _ROUNDING) | (np.abs(whole) > _LARGEST)))
    if off:
        raise InputError(f"{source}: {off} voxels are not whole label values; save the mask without interpolation")
    return whole.astype(np.int64)


def labels_by_colour(pixels: NDArray[Any], labels: LabelSet, source: str) -> NDArray[np.uint8]:
    """Return label values (pages, H, W) from a mask drawn in the colours of its label set.

    Args:
        pixels: (pages, H, W, 3), red, green and blue from 0 to 255.
        labels: The label set.
        source: The file, for messages.

    Raises:
        InputError: A pixel has another colour.
    """
    red, green, blue = (pixels[..., channel].astype(np.int64) for channel in range(3))
    packed = (red << 16) | (green << 8) | blue
    known = [(red << 16) | (green << 8) | blue for red, green, blue in labels.colours]
    other = ~np.isin(packed, known)
    if other.any():
        found = [(int(c) >> 16, int(c) >> 8 & 255, int(c) & 255) for c in np.unique(packed[other])]
        table = ", ".join(f"{name} {colour}" for name, colour in zip(labels.tissues, labels.colours, strict=True))
        raise InputError(
            f"{source}: {np.count_nonzero(other)} pixels are coloured; {some_of(found)} are no colours of label set "
            f"{labels.name!r}: save a mask as grey values or with a palette of its colours ({table})"
        )
    return np.select([packed == colour for colour in known], range(len(known))).astype(np.uint8)
