"""Pictures as addresses that a page can hold: charts as SVG, patients as PNG."""

import io
from base64 import b64encode
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from imaging.overlay import png_bytes

INK, GRID = "#22303c", "#e8ebef"
WIDTH_IN = 10.6
ARM_COLOURS = {"real_only": "#7a8794", "real_plus_gan": "#23527c"}


@dataclass(frozen=True)
class Picture:
    """A picture as the address of an `img` element, with its text for those who do not see it."""

    src: str
    alt: str


def svg_picture(figure: Figure, alt: str) -> Picture:
    """Return a chart; draw it inside `rc_context(svg_style())` so that the same chart gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return Picture(_address(buffer.getvalue(), "image/svg+xml"), alt)


def png_picture(pixels: NDArray[np.uint8], alt: str) -> Picture:
    """Return an RGB picture (H, W, 3)."""
    return Picture(_address(png_bytes(Image.fromarray(pixels)), "image/png"), alt)


def tidy(axes: Axes, axis: Literal["both", "x", "y"] = "both") -> None:
    """Lay a pale grid behind a chart."""
    axes.grid(axis=axis, color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)


def say_instead(axes: Axes, text: str) -> None:
    """Write why a chart is empty where its points would be."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="#5b6776")


def _address(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{b64encode(content).decode()}"
