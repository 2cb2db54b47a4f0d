"""The bull's eyes as a chart: the reference beside each network and arm, all on one scale."""

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Wedge

from imaging.svg_style import svg_style
from segmentation.report.bulls_eye import SECTORS, BullsEye, Floats
from segmentation.report.picture import INK, WIDTH_IN, Picture, svg_picture
from segmentation.report.words import ARMS, words

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
        figure.colorbar(scale, ax=panels, shrink=0.5, label="infarct in % of the segment's myocardium")
        return svg_picture(figure, "Bull's eyes of the mean infarct share by AHA segment, reference and predictions")


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
    wedge.set(facecolor=_colours()(norm(share)) if known else "#ffffff", edgecolor="#8a8f98", linewidth=0.6)
    axes.add_patch(wedge)
    light = known and norm(share) > _LIGHT_ABOVE
    text = f"{share:.0f}" if known else "–"
    axes.text(float(at[0]), float(at[1]), text, ha="center", va="center", fontsize=8, color="#ffffff" if light else INK)
