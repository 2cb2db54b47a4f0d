"""Names and numbers as the report writes them.

Pictures as addresses that a page can hold: charts as SVG, patients as PNG.
"""

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from imaging.overlay import png_bytes
from segmentation.model_kind import REAL_ONLY, REAL_PLUS_GAN, TRAINING_SETS
from segmentation.networks.table import NETWORKS

ABSENT = "–"
ARMS = (REAL_ONLY, REAL_PLUS_GAN)

_NAMES: Mapping[str, str] = MappingProxyType({"no_reflow": "no-reflow"})


def words(name: object) -> str:
    """Return the name of a network, arm, tissue or yardstick as people write it."""
    text = str(name)
    named = NETWORKS.get(text) or TRAINING_SETS.get(text)
    return named.title if named else _NAMES.get(text, text.replace("_", " "))


def number(value: float, form: str = ".3f") -> str:
    """Return a number, a dash where there is none; minus signs are typographic."""
    return format(value, form).replace("-", "−") if np.isfinite(value) else ABSENT


def interval(low: float, high: float, form: str = ".3f") -> str:
    """Return `low to high`, a dash where there is none."""
    return f"{number(low, form)} to {number(high, form)}" if np.isfinite(low) and np.isfinite(high) else ABSENT


def count(amount: int, thing: str, things: str = "") -> str:
    """Return an amount with its thing in the right number."""
    return f"{amount:,} {thing if amount == 1 else things or thing + 's'}"


def listed(items: Sequence[str]) -> str:
    """Return `a`, `a and b` or `a, b and c`."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def upper_first(text: str) -> str:
    """Return the text with its first letter large, the others as they are."""
    return text[:1].upper() + text[1:]


INK, GRID = "#22303c", "#e8ebef"
WIDTH_IN = 10.6
ARM_COLOURS = {REAL_ONLY: "#7a8794", REAL_PLUS_GAN: "#23527c"}


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
