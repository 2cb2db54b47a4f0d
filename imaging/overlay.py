"""Pictures of slices with their labels: overlays, and contact sheets of many."""

import io
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from skimage.measure import find_contours

from common.errors import InputError
from common.pages.words import words
from imaging.labels import LabelSet

_OPACITY = 0.35
_INSIDE = 0.75  # of the way from the centre of a pixel outside to that of its neighbour inside
_TITLE_PX, _LEGEND_PX, _GAP_PX = 12, 18, 2
_LEGEND_FONT_PX, _LEGEND_STEP_PX = 10, 24


def overlay(image: NDArray[np.floating], mask: NDArray[np.integer], labels: LabelSet) -> NDArray[np.uint8]:
    """Paint labels (H, W), half transparent and outlined, over an image (H, W) in [0, 1]; returns (H, W, 3) RGB."""
    grey = np.clip(np.asarray(image, np.float32), 0, 1)
    picture = np.repeat((grey * 255)[..., None], 3, axis=-1)
    for value, _ in labels.foreground:
        inside = mask == value
        colour = np.array(labels.colours[value], np.float32)
        picture[inside] = (1 - _OPACITY) * picture[inside] + _OPACITY * colour
        outline = inside & ~cv2.erode(inside.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
        picture[outline] = colour
    return picture.round().astype(np.uint8)


def outlines(inside: NDArray[np.bool_]) -> list[list[tuple[float, float]]]:
    """Return the closed outlines of a mask (H, W) as (column, row), 0 at the outer edge of the first pixel.

    They run a quarter of a pixel inside the mask's own edge, so that those of two tissues never hide each other.
    """
    padded = np.pad(inside, 1).astype(np.float32)
    # Pixel centres lie at halves; the padding has moved all by one.
    lines: list[NDArray[np.float64]] = find_contours(padded, _INSIDE)  # type: ignore[no-untyped-call]
    return [[(float(column) - 0.5, float(row) - 0.5) for row, column in line] for line in lines]


def contact_sheet(
    images: NDArray[np.floating],
    masks: NDArray[np.integer],
    labels: LabelSet,
    columns: int,
    titles: Sequence[str] | None = None,
) -> Image.Image:
    """Return slices (N, H, W) side by side, each with its labels and title, above a legend of the tissues.

    Args:
        images: In [0, 1].
        masks: Labels; all zero shows the bare images, and no legend.
        labels: Colours and names.
        columns: Slices in a row.
        titles: One for each slice.

    Raises:
        InputError: Images, masks and titles do not belong together, or there are no columns.
    """
    _check_sheet(images, masks, columns, titles)
    count, height, width = images.shape
    rows = -(-count // columns)
    cell_height = height + _GAP_PX + (_TITLE_PX if titles else 0)
    legend = _LEGEND_PX if masks.any() else 0
    sheet_width = max(columns * (width + _GAP_PX), _legend_width(labels) if legend else 0)
    sheet = Image.new("RGB", (sheet_width, rows * cell_height + legend), "black")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=9)
    for place in range(count):
        left, top = place % columns * (width + _GAP_PX), place // columns * cell_height
        if titles:
            draw.text((left + 1, top), titles[place], fill="white", font=font)
            top += _TITLE_PX
        sheet.paste(Image.fromarray(overlay(images[place], masks[place], labels)), (left, top))
    if legend:
        _draw_legend(draw, labels, rows * cell_height + 3)
    return sheet


def png_bytes(image: Image.Image) -> bytes:
    """Return an image as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _check_sheet(
    images: NDArray[np.floating], masks: NDArray[np.integer], columns: int, titles: Sequence[str] | None
) -> None:
    if images.ndim != 3 or images.shape != masks.shape or not len(images):
        raise InputError(
            f"a contact sheet needs slices and masks of one shape (N, H, W) with N at least 1, not {images.shape} "
            f"and {masks.shape}; give each slice its own mask"
        )
    if titles is not None and len(titles) != len(images):
        raise InputError(f"{len(titles)} titles for {len(images)} slices; give one for each slice or none at all")
    if columns < 1:
        raise InputError(f"a contact sheet of {columns} columns; give at least 1")


def _legend_width(labels: LabelSet) -> int:
    font = ImageFont.load_default(size=_LEGEND_FONT_PX)
    return round(sum(_LEGEND_STEP_PX + font.getlength(words(name)) for _, name in labels.foreground)) + 4


def _draw_legend(draw: ImageDraw.ImageDraw, labels: LabelSet, top: int) -> None:
    font = ImageFont.load_default(size=_LEGEND_FONT_PX)
    left = 4.0
    for value, name in labels.foreground:
        draw.rectangle((left, top, left + 10, top + 10), fill=labels.colours[value])
        draw.text((left + 14, top - 1), words(name), fill="white", font=font)
        left += _LEGEND_STEP_PX + draw.textlength(words(name), font=font)
