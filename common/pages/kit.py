"""What every HTML page is made with: the environment, tables, pictures, and how charts look.

A page is one file: no script, no network, every text from the data escaped. The same content gives the same bytes.
"""

import io
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from common.pages import words as texts

_FILTERS: tuple[Callable[..., str], ...] = (
    texts.count,
    texts.interval,
    texts.listed,
    texts.number,
    texts.significant,
    texts.upper_first,
    texts.whole,
    texts.words,
)


def render(package: str, template: str, filters: Mapping[str, Callable[..., str]] | None = None, **values: Any) -> str:
    """Return a page as text.

    Args:
        package: Where the page's own template lies, in the folder `templates`.
        template: Its file name; it extends `base.html.j2` of this package and imports `macros.html.j2`.
        filters: The page's own filters, which go before those of `common.pages.words`.
        values: What the template names; a name that it lacks is an error.
    """
    loader = ChoiceLoader([PackageLoader(package), PackageLoader("common.pages")])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {function.__name__: function for function in _FILTERS} | dict(filters or {})
    return environment.get_template(template).render(**values) + "\n"


class Column(NamedTuple):
    """A column of a table: numbers stand at the right."""

    heading: str
    numeric: bool = True


class Marked(NamedTuple):
    """A cell that the page marks: `better`, `worse`, `passed` or `failed`, which its text says too."""

    text: str
    kind: str


Cells = Sequence[str | Marked]


class Body(NamedTuple):
    """Rows of a table that belong together, under the name of their group where there is one."""

    rows: Sequence[Cells]
    group: str = ""


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row is its heading, which stays in sight where the rest scrolls."""

    caption: str
    columns: Sequence[Column]
    bodies: Sequence[Body]


def table(
    caption: str, headings: Sequence[str], rows: Sequence[Cells], texts: Sequence[str] = (), grouped: int = 0
) -> Table:
    """Return a table of rows as texts.

    Args:
        caption: What it shows.
        headings: Of all columns of the rows.
        rows: Texts.
        texts: Headings of columns that hold no numbers, beside the first.
        grouped: So many first cells name the group of a row, which is written once above its rows.
    """
    shown = headings[grouped:]
    columns = [Column(heading, place > 0 and heading not in texts) for place, heading in enumerate(shown)]
    runs = groupby(rows, key=lambda row: tuple(map(str, row[:grouped])))
    bodies = [Body([row[grouped:] for row in run], ", ".join(filter(None, names))) for names, run in runs]
    return Table(caption, columns, bodies)


@dataclass(frozen=True)
class Picture:
    """A picture as the address of an `img` element, its text for those who do not see it, and its caption."""

    src: str
    alt: str
    caption: str = ""


def data_address(content: bytes, kind: str) -> str:
    """Return a file's content as a `data:` address of a media type."""
    return f"data:{kind};base64,{b64encode(content).decode()}"


def png_address(pixels: NDArray[np.uint8]) -> str:
    """Return a grey (H, W) or RGB (H, W, 3) picture as the address of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return data_address(buffer.getvalue(), "image/png")


def svg_picture(figure: Figure, alt: str, caption: str = "") -> Picture:
    """Return a chart; draw it inside `rc_context(svg_style())` so that the same chart gives the same bytes."""
    return Picture(data_address(svg_bytes(figure), "image/svg+xml"), alt, caption)


def svg_bytes(figure: Figure) -> bytes:
    """Return a chart, drawn inside `rc_context(svg_style())`, as the bytes of an SVG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


# Charts lie on white in print, and on a white plate where a page is dark. Every colour has a contrast of at least
# 4.5 : 1 on white and can be told from the others without red, green or blue cones (Okabe and Ito's hues, darkened).
INK, SOFT, LINE, GRID = "#1d2733", "#56616f", "#8a8f98", "#e8ebef"
BLUE, VERMILION, GREEN, PURPLE = "#1771ca", "#c4521e", "#034f40", "#902e7a"
SERIES = (BLUE, VERMILION, GREEN, PURPLE, INK)
MARKERS = ("o", "s", "^", "D", "v")
ARM_COLOURS: Mapping[str, str] = MappingProxyType({"real_only": VERMILION, "real_plus_gan": BLUE})
ARM_MARKERS: Mapping[str, str] = MappingProxyType({"real_only": "s", "real_plus_gan": "o"})
WIDTH_IN = 10.6


def svg_style() -> dict[Any, Any]:
    """Return matplotlib's settings, for `matplotlib.rc_context`."""
    return {
        "svg.hashsalt": "scarforge",
        "svg.fonttype": "path",  # looks the same wherever it is opened
        "text.parse_math": False,  # names come from the data
        "text.color": INK,
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": LINE,
        "xtick.color": LINE,
        "xtick.labelcolor": INK,
        "ytick.color": LINE,
        "ytick.labelcolor": INK,
        "legend.frameon": False,
    }


def tidy(axes: Axes, axis: Literal["both", "x", "y"] = "both") -> None:
    """Lay a pale grid behind a chart."""
    axes.grid(axis=axis, color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)


def say_instead(axes: Axes, text: str) -> None:
    """Write why a chart is empty where its points would be."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=SOFT)


def dark_enough(colour: tuple[int, int, int], contrast: float = 4.5) -> str:
    """Return a colour, darkened until lines in it have a contrast of `contrast` : 1 on white."""
    for part in np.linspace(1, 0, 51):
        darker = tuple(round(part * value) for value in colour)
        if contrast_on_white(darker) >= contrast:
            break
    return "#{:02x}{:02x}{:02x}".format(*darker)


def contrast_on_white(colour: Sequence[int]) -> float:
    """Return the contrast of an RGB colour on white (WCAG 2.2, relative luminance)."""
    shares = np.asarray(colour) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    return float(1.05 / (linear @ (0.2126, 0.7152, 0.0722) + 0.05))
