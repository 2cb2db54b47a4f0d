"""How much of each of the AHA's 17 segments is infarct (Cerqueira et al., Circulation 2002; 105: 539).

The labels hold no insertion point of the right ventricle, so that the segments' zero angle is no patient's own: it is
the upward direction of the stored image. Base is the end of the stack at which the reference's ventricle is larger.

The bull's eyes as a chart: the reference beside each network and arm, all on one scale.
"""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Wedge
from numpy.typing import NDArray

from common.pages.kit import INK, LINE, WIDTH_IN, Picture, svg_picture, svg_style
from common.pages.words import words
from imaging.labels import LabelSet
from segmentation.model_kind import ARMS
from segmentation.report.material import Arm, Case

SEGMENTS = 17
LEVELS = ("basal", "mid", "apical")
SECTORS = (6, 6, 4)  # of each level
FEWEST_SLICES = 3  # with both myocardium and cavity: fewer cannot be told apart as basal, mid and apical
_APEX = 16  # index of segment 17

Floats = NDArray[np.float64]


class Ventricle(NamedTuple):
    """Label values of what is measured."""

    cavity: int
    wall: tuple[int, ...]
    scar: tuple[int, ...]

    @classmethod
    def of(cls, labels: LabelSet) -> "Ventricle":
        """Return those of a label set with lesions."""
        groups = labels.official_groups
        return cls(labels.tissues.index("cavity"), groups["myocardium"], groups["infarction"])


class BullsEye(NamedTuple):
    """Means over patients in %, (17,) each; NaN in segments that no patient has. `error` is in percentage points.

    `predicted` and `error` (mean absolute difference over patients and segments) are by arm.
    """

    patients: int
    too_few_slices: int
    with_apex: int
    reference: Floats
    predicted: dict[tuple[str, str], Floats]
    error: dict[tuple[str, str], float]


def bulls_eye(cases: Sequence[Case], labels: LabelSet) -> BullsEye:
    """Return the mean bull's eye of the reference and of each network and arm, seeds averaged within a patient."""
    ventricle = Ventricle.of(labels)
    found = [(case, segments) for case in cases if (segments := segment_map(case.reference, ventricle)) is not None]
    reference = np.array([scar_shares(case.reference, segments, ventricle) for case, segments in found])
    names = dict.fromkeys((arm.network, arm.training_set) for case, _ in found for arm in case.predictions)
    predicted, error = {}, {}
    for name in names:
        shares = np.array([_of_arm(case, segments, name, ventricle) for case, segments in found])
        predicted[name] = _mean(shares)
        both = np.abs(shares - reference)
        error[name] = float(np.nanmean(both)) if np.isfinite(both).any() else float("nan")
    apices = sum(bool((segments == _APEX).any()) for _, segments in found)
    return BullsEye(len(found), len(cases) - len(found), apices, _mean(reference), predicted, error)


def segment_map(reference: NDArray[np.uint8], ventricle: Ventricle) -> NDArray[np.int8] | None:
    """Return each pixel's segment (S, H, W), 0 to 16, or -1 on slices without myocardium.

    Sectors run around the centre of the reference's cavity. None with fewer than `FEWEST_SLICES` slices that show
    myocardium and cavity.
    """
    order = base_to_apex(reference, ventricle)
    hollow = [index for index in order if (reference[index] == ventricle.cavity).any()]
    if len(hollow) < FEWEST_SLICES:
        return None
    segments = np.full(reference.shape, -1, np.int8)
    first = 0
    for level, sectors in zip(np.array_split(np.array(hollow), len(LEVELS)), SECTORS, strict=True):
        for index in level:
            segments[index] = first + sector_map(reference[index] == ventricle.cavity, sectors)
        first += sectors
    apex = order[-1]
    if apex not in hollow:
        segments[apex] = _APEX
    return segments


def base_to_apex(reference: NDArray[np.uint8], ventricle: Ventricle) -> list[int]:
    """Return the slices that show myocardium, from the end with the larger ventricle (cavity and wall) to the other."""
    inside = np.isin(reference, (ventricle.cavity, *ventricle.wall)).sum(axis=(1, 2))
    shown = np.flatnonzero(np.isin(reference, ventricle.wall).any(axis=(1, 2))).tolist()
    half = len(shown) // 2
    if half and inside[shown[:half]].sum() < inside[shown[-half:]].sum():
        shown.reverse()
    return shown


def sector_map(cavity: NDArray[np.bool_], sectors: int) -> NDArray[np.int8]:
    """Return each pixel's sector (H, W) around the cavity's centre: 0 lies upwards, numbers run counter-clockwise."""
    row, column = np.argwhere(cavity).mean(axis=0)
    rows, columns = np.indices(cavity.shape)
    angle = np.degrees(np.arctan2(column - columns, row - rows))  # 0 upwards, 90 to the left
    width = 360 / sectors
    return (((angle + width / 2) % 360) // width).astype(np.int8)


def scar_shares(mask: NDArray[np.uint8], segments: NDArray[np.int8], ventricle: Ventricle) -> Floats:
    """Return the scar in % of a map's own myocardium in each segment (17,); NaN where it has none there."""
    wall = np.isin(mask, ventricle.wall) & (segments >= 0)
    scar = np.isin(mask, ventricle.scar) & wall
    whole, part = (np.bincount(segments[chosen], minlength=SEGMENTS).astype(float) for chosen in (wall, scar))
    return np.divide(100 * part, whole, where=whole > 0, out=np.full(SEGMENTS, np.nan))


def _of_arm(case: Case, segments: NDArray[np.int8], name: tuple[str, str], ventricle: Ventricle) -> Floats:
    of_seeds = [scar_shares(mask, segments, ventricle) for arm, mask in case.predictions.items() if _name(arm) == name]
    return _mean(np.array(of_seeds))


def _name(arm: Arm) -> tuple[str, str]:
    return arm.network, arm.training_set


def _mean(values: Floats) -> Floats:
    """Return the mean over the first axis (17,), NaN where nothing is known."""
    values = values.reshape(-1, SEGMENTS)
    known = np.isfinite(values)
    counts = known.sum(axis=0)
    sums = np.where(known, values, 0.0).sum(axis=0)
    return np.divide(sums, counts, where=counts > 0, out=np.full(SEGMENTS, np.nan))


_RING = 1.0  # width of a level; the apex is a disc of the same radius
_LEAST_SCALE = 10.0  # %, so that small shares do not look large
_LIGHT_ABOVE = 0.55  # of the scale: numbers turn white


def bulls_eye_picture(found: BullsEye) -> Picture:
    """Draw the reference and, a row for each network, both arms; numbers are % of a segment's myocardium."""
    networks = list(dict.fromkeys(network for network, _ in found.predicted))
    highest = max((float(np.nanmax(v)) for v in _all(found) if np.isfinite(v).any()), default=0.0)
    norm = Normalize(0, max(highest, _LEAST_SCALE))
    with mpl.rc_context(svg_style() | {"axes.titlelocation": "center"}):
        figure = Figure(figsize=(WIDTH_IN, 2.8 * max(1, len(networks))), layout="constrained")
        panels = figure.subplots(max(1, len(networks)), 1 + len(ARMS), squeeze=False)
        for axes in panels.flat:
            axes.set_axis_off()
        _draw(panels[0, 0], found.reference, norm, "reference")
        for row, network in enumerate(networks):
            for column, arm in enumerate(ARMS, start=1):
                if (network, arm) in found.predicted:
                    name = f"{words(network)}, {words(arm)}"
                    _draw(panels[row, column], found.predicted[network, arm], norm, name)
        scale = mpl.cm.ScalarMappable(norm, _colours())
        figure.colorbar(scale, ax=panels, shrink=0.5, label="infarction in % of the segment's myocardium")
        return svg_picture(figure, "Bull's eyes of the mean infarction share by AHA segment, reference and predictions")


def _all(found: BullsEye) -> list[Floats]:
    return [found.reference, *found.predicted.values()]


def _colours() -> mpl.colors.Colormap:
    return mpl.colormaps["YlOrBr"]


def _draw(axes: Axes, shares: Floats, norm: Normalize, title: str) -> None:
    outer, first = (len(SECTORS) + 1) * _RING, 0
    for level, sectors in enumerate(SECTORS):
        width = 360 / sectors
        for sector in range(sectors):
            # Matplotlib's angles start at the right; segments are centred upwards and run counter-clockwise too.
            middle = 90 + sector * width
            radius = outer - level * _RING
            wedge = Wedge((0, 0), radius, middle - width / 2, middle + width / 2, width=_RING)
            at = (radius - _RING / 2) * np.array([np.cos(np.radians(middle)), np.sin(np.radians(middle))])
            _fill(axes, wedge, at, shares[first + sector], norm)
        first += sectors
    _fill(axes, Wedge((0, 0), _RING, 0, 360), np.zeros(2), shares[first], norm)
    axes.set(xlim=(-outer, outer), ylim=(-outer, outer), aspect="equal")
    axes.set_title(title, fontsize=9)


def _fill(axes: Axes, wedge: Wedge, at: Floats, share: float, norm: Normalize) -> None:
    known = bool(np.isfinite(share))
    wedge.set(facecolor=_colours()(norm(share)) if known else "#ffffff", edgecolor=LINE, linewidth=0.6)
    axes.add_patch(wedge)
    light = known and norm(share) > _LIGHT_ABOVE
    text = f"{share:.0f}" if known else "–"
    axes.text(float(at[0]), float(at[1]), text, ha="center", va="center", fontsize=8, color="#ffffff" if light else INK)
