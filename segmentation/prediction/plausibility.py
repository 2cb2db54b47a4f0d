"""Whether a drawn left ventricle can be one: in neighbouring slices, in one piece, the cavity inside the myocardium.

Each check answers with a sentence that gives the figures, or nothing. The limits are far from what training patients
show: a sentence means that somebody should look, not that the result is wrong.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from common.errors import some_of
from imaging.labels import CineTissue, LabelSet, Tissue
from imaging.studies.preparation import Box

MEASURES = ("ventricle_mm2", "cavity_share", "infarction_share")
_CAVITY = int(Tissue.CAVITY)
assert _CAVITY == CineTissue.CAVITY, "every label set numbers the cavity 1"

_LEAST_MM2 = 60  # of ventricle in a slice that counts: less is a speck
_LEAST_SHARE_OF_SLICES = 1 / 3
_MOST_GAPS = 1  # slices without ventricle between slices with it
_MOST_ASTRAY = 0.1  # of the ventricle outside the largest piece of its slice
_MOST_OPEN = 0.3  # of the cavity's rim that is background
_MOST_AT_BORDER = 0.5  # of the slices with ventricle, whose ventricle touches the region's border
_LEAST_BARE_MM2 = 100  # of cavity in a slice without myocardium
_FEWEST_IN_LENGTH = 5  # slices with ventricle, fewer of which are part of a heart
# Of a human ventricle, slices times distance. Reference masks of five slices or more show: EMIDEC 50 to 100 (62
# studies), ACDC 60 to 110 at ED and 55 to 110 at ES (46 each), MS-CMRSeg 70 to 80 (5), Sunnybrook 90 (1).
_LENGTH_MM = (35.0, 160.0)
_NEAR_EDGE_MM = 3.0  # of the image: networks stop a pixel short of where it cuts a ventricle
_MOST_NEAR_EDGE = 0.5  # of the slices with ventricle, whose ventricle comes so near
_MOST_APART_MM = 25.0  # between the boxes of the folds' localisers
_BEYOND = 1.25  # how far beyond the training's range a measure may lie, as a factor
_WORDS = {
    "ventricle_mm2": ("mean cross-section of the ventricle (cavity and myocardium)", "{:.0f} mm²"),
    "cavity_share": ("cavity's share of the ventricle", "{:.2f}"),
    "infarction_share": ("infarction's share of the myocardium", "{:.2f}"),
}


@dataclass(frozen=True)
class SeenRange:
    """The smallest and largest value of each measure among the training patients."""

    lowest: Mapping[str, float]
    highest: Mapping[str, float]


def ventricle_measures(regions: NDArray[np.uint8], labels: LabelSet) -> dict[str, float]:
    """Return `MEASURES` of labels (S, P, P) in 1 mm pixels, NaN where there is nothing to measure.

    Areas a slice stand for volumes: they do not depend on how many slices a protocol takes, and how far apart.
    """
    area = _ventricle_mm2(regions)
    counts = np.bincount(regions.ravel(), minlength=labels.num_classes)
    wall = counts[list(labels.official_groups["myocardium"])].sum()
    infarction = counts[list(labels.official_groups.get("infarction", ()))].sum()
    present = area[area >= _LEAST_MM2]
    return {
        "ventricle_mm2": float(present.mean()) if len(present) else float("nan"),
        "cavity_share": float(counts[_CAVITY] / area.sum()) if area.any() else float("nan"),
        "infarction_share": float(infarction / wall) if wall and labels.has_lesions else float("nan"),
    }


def implausibilities(
    regions: NDArray[np.uint8],
    boxes: Sequence[Box],
    labels: LabelSet,
    seen: SeenRange | None,
    mask: NDArray[np.integer],
    spacing_mm: tuple[float, float, float],
) -> list[str]:
    """Return what is odd about labels (S, P, P) in 1 mm pixels, a sentence each.

    Args:
        regions: The prediction, in slices from base to apex or back.
        boxes: Of the localisers, 1 mm grid.
        labels: Their label set.
        seen: What the training patients show; None leaves that out.
        mask: (S, H, W), the same on the study's own grid, whose sides are the image's.
        spacing_mm: (slice, row, column) of that grid.
    """
    area = _ventricle_mm2(regions)
    if not (area >= _LEAST_MM2).any():
        return [f"no left ventricle was found in any of the {len(regions)} slices (largest area {area.max():.0f} mm²)"]
    present = regions[area >= _LEAST_MM2]
    checks = (
        _scattered(area),
        _pieces(present),
        _length(area, spacing_mm[0]),
        _open_cavity(present),
        _bare_cavity(regions),
        _at_border(present),
        _cut_off(mask[area >= _LEAST_MM2] > 0, spacing_mm[1:]),
        _apart(boxes),
    )
    return [*(text for text in checks if text), *_outside(ventricle_measures(regions, labels), seen)]


def _ventricle_mm2(regions: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.count_nonzero(regions, axis=(1, 2))


def _scattered(area: NDArray[np.int64]) -> str:
    places = np.flatnonzero(area >= _LEAST_MM2)
    gaps = int(places[-1] - places[0] + 1 - len(places))
    if len(places) >= _LEAST_SHARE_OF_SLICES * len(area) and gaps <= _MOST_GAPS:
        return ""
    shown = ", ".join(str(place + 1) for place in places)
    return f"a left ventricle was found only in slices {shown} of {len(area)}, with {gaps} empty slices between them"


def _length(area: NDArray[np.int64], slice_mm: float) -> str:
    count = int(np.count_nonzero(area >= _LEAST_MM2))
    low, high = _LENGTH_MM
    if count < _FEWEST_IN_LENGTH or low <= count * slice_mm <= high:
        return ""
    return (
        f"the ventricle is {count * slice_mm:.0f} mm long ({count} slices of {slice_mm:.3g} mm); a heart's is "
        f"{low:.0f} to {high:.0f} mm: correct the slice distance, volumes depend on it"
    )


def _pieces(present: NDArray[np.uint8]) -> str:
    largest, total, most = 0, 0, 0
    for plane in present > 0:
        pieces, count = ndimage.label(plane)
        sizes = np.bincount(pieces.ravel())[1:]
        largest, total, most = largest + int(sizes.max()), total + int(sizes.sum()), max(most, count)
    astray = 1 - largest / total
    if astray <= _MOST_ASTRAY:
        return ""
    return (
        f"{astray:.0%} of the ventricle lies outside the largest piece of its slice (up to {most} pieces a slice; "
        f"{_MOST_ASTRAY:.0%} pass)"
    )


def _open_cavity(present: NDArray[np.uint8]) -> str:
    """Say how much of the pixels around the cavity are background."""
    around, background = 0, 0
    for plane in present:
        cavity = plane == _CAVITY
        rim = ndimage.binary_dilation(cavity) & ~cavity
        around, background = around + int(rim.sum()), background + int((rim & (plane == 0)).sum())
    if around == 0:
        return f"no cavity was found in the {len(present)} slices with myocardium"
    if background <= _MOST_OPEN * around:
        return ""
    return f"the cavity is not enclosed: {background / around:.0%} of its rim is background ({_MOST_OPEN:.0%} pass)"


def _bare_cavity(regions: NDArray[np.uint8]) -> str:
    cavity, ventricle = np.count_nonzero(regions == _CAVITY, axis=(1, 2)), _ventricle_mm2(regions)
    places = np.flatnonzero((cavity > _LEAST_BARE_MM2) & (cavity == ventricle))
    if not len(places):
        return ""
    shown = some_of(f"{place + 1} ({cavity[place]} mm²)" for place in places)
    return f"slice {shown} of {len(regions)} has cavity and no myocardium; look whether its image is blank or damaged"


def _at_border(present: NDArray[np.uint8]) -> str:
    drawn = present > 0
    touching = drawn[:, [0, -1]].any(axis=(1, 2)) | drawn[:, :, [0, -1]].any(axis=(1, 2))
    count = int(np.count_nonzero(touching))
    if count <= _MOST_AT_BORDER * len(present):
        return ""
    return f"the ventricle touches the border of the region in {count} of {len(present)} slices"


def _cut_off(drawn: NDArray[np.bool_], pixel_mm: tuple[float, ...]) -> str:
    """Say in how many slices (S, H, W) the ventricle comes near a side of the image, beyond which the rest may be."""
    near = np.zeros(len(drawn), np.bool_)
    for axis, side_mm in enumerate(pixel_mm, 1):
        strip = int(_NEAR_EDGE_MM / side_mm) + 1  # pixels that begin within the distance
        occupied = np.asarray(drawn.any(axis=3 - axis))  # (S, H) or (S, W)
        near |= occupied[:, :strip].any(axis=1) | occupied[:, -strip:].any(axis=1)
    count = int(np.count_nonzero(near))
    if count <= _MOST_NEAR_EDGE * len(drawn):
        return ""
    return (
        f"the ventricle comes within {_NEAR_EDGE_MM:.0f} mm of the image's edge in {count} of {len(drawn)} slices, "
        "where it may be cut off; give the whole field of view"
    )


def _apart(boxes: Sequence[Box]) -> str:
    centres = np.array([box.centre for box in boxes])
    apart_mm = float(np.hypot(*(centres[:, None] - centres[None]).transpose(2, 0, 1)).max()) if len(boxes) else 0.0
    if apart_mm <= _MOST_APART_MM:
        return ""
    return (
        f"the {len(boxes)} localisers disagree about the ventricle's place by up to {apart_mm:.0f} mm "
        f"({_MOST_APART_MM:.0f} mm pass)"
    )


def _outside(measures: Mapping[str, float], seen: SeenRange | None) -> Iterator[str]:
    for name, value in measures.items():
        if seen is None or not np.isfinite([value, seen.lowest[name], seen.highest[name]]).all():
            continue
        low, high = seen.lowest[name], seen.highest[name]
        if not low / _BEYOND <= value <= high * _BEYOND:
            what, form = _WORDS[name]
            yield f"the {what} is {form.format(value)}, in training {form.format(low)} to {form.format(high)}"
