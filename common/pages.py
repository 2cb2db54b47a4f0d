"""How the figures of the HTML pages look, and that the same figure gives the same bytes."""

from typing import Any


def svg_style() -> dict[Any, Any]:
    """Return matplotlib's settings, for `matplotlib.rc_context`."""
    return {
        "svg.hashsalt": "scarforge",
        "svg.fonttype": "path",  # looks the same wherever it is opened
        "text.parse_math": False,  # names come from the data
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#8a8f98",
        "legend.frameon": False,
    }
