"""Reads PNG and TIFF as grey values of 8, 16 or 32 bits, or as colours, without changing a number."""

import errno
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from common.errors import InputError, one_line, some_of
from imaging.volumes.nifti import MOST_VOXELS

_FORMATS = ("PNG", "TIFF")  # Pillow would try sixty others
_GREY = ("1", "L", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")
_COLOUR = ("RGB", "RGBA", "RGBX")
COLOURED = 4  # axes of (pages, H, W, 3)
_PHOTOMETRIC = 262  # TIFF's tag; 0 is white as zero
# What Pillow raises for files that are cut off, corrupt, enormous, or something else altogether.
_UNREADABLE = (
    UnidentifiedImageError,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RuntimeError,
    SyntaxError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def page_count(path: Path) -> int:
    """Return how many pages a TIFF has; 1 for other files, which reading will refuse where they are no PNG."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=["TIFF"]) as image:
                return int(getattr(image, "n_frames", 1))
    except _UNREADABLE:
        return 1


def read_grey(path: Path) -> NDArray[Any]:
    """Read every page of a file as grey values (pages, H, W).

    Raises:
        InputError: As `read_pixels`, or it is truly coloured.
    """
    pixels = read_pixels(path)
    if pixels.ndim == COLOURED:
        coloured = int(np.count_nonzero((pixels != pixels[..., :1]).any(axis=-1)))
        raise InputError(f"{path}: {coloured} pixels are coloured; save an image as grey values")
    return pixels


def read_pixels(path: Path) -> NDArray[Any]:
    """Read every page of a file as grey values, or as colours where a pixel is coloured.

    Colours count as grey where red, green and blue are equal, those of a palette too: the number of its entry says
    nothing, programs renumber them. Transparency is ignored where it is the same everywhere. The resolution that a
    file announces is not read: it seldom is the scanner's.

    Args:
        path: `.png`, or `.tif` with one page or several.

    Returns:
        (pages, H, W), in the type of the file; bilevel files give False and True. Coloured files: (pages, H, W, 3).

    Raises:
        InputError: It is unreadable, or too large, or its pages differ in size.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of tags that are not read here
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as image:
                return _pages(path, image)
    except _UNREADABLE as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # the file system's; EINVAL is a place in the file that cannot be
        raise InputError(f"{path}: not a readable PNG or TIFF ({one_line(error)}); export it again") from error


def _pages(path: Path, image: Image.Image) -> NDArray[Any]:
    count = int(getattr(image, "n_frames", 1))
    if image.format == "PNG" and count > 1:
        raise InputError(f"{path}: is an animation of {count} frames; save the slices as a TIFF or as single files")
    if count * image.width * image.height > MOST_VOXELS:
        raise ValueError(f"its header announces {count} pages of {image.height} x {image.width}")
    size = image.size
    pages = []
    for page in range(count):
        image.seek(page)
        if image.size != size:
            raise InputError(
                f"{path}: page {page} has {image.height} x {image.width} pixels and page 0 {size[1]} x {size[0]}; "
                "save slices of one size"
            )
        pages.append(_page(path, image))
    return _stack(pages)


def _stack(pages: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return (pages, H, W, 3) from (H, W, 3), or (pages, H, W) where every page is grey."""
    if all((page == page[..., :1]).all() for page in pages if page.ndim == COLOURED - 1):
        return np.stack([page if page.ndim < COLOURED - 1 else page[..., 0] for page in pages])
    return np.stack([page if page.ndim == COLOURED - 1 else np.dstack([page] * 3) for page in pages])


def _page(path: Path, image: Image.Image) -> NDArray[Any]:
    """Return one page, (H, W) or (H, W, 3)."""
    _check_stored(path, image)
    if image.mode in _GREY:
        return np.array(image)
    if image.mode == "PA":
        _opaque(path, np.array(image))
    if image.mode in ("P", "PA"):
        _check_palette(path, image)
        return np.array(image.convert("RGB"))
    if image.mode == "LA":
        return _opaque(path, np.array(image))[..., 0]
    if image.mode in _COLOUR:
        values = np.array(image)
        return (_opaque(path, values) if image.mode == "RGBA" else values)[..., :3]
    raise InputError(f"{path}: is stored as {image.mode}; save it as grey values")


def _check_stored(path: Path, image: Image.Image) -> None:
    """Refuse what Pillow would decode to other numbers than were meant."""
    assert isinstance(image, ImageFile)
    if image.mode not in _GREY and any(";16" in str(tile.args) for tile in image.tile):  # such as RGB;16B
        raise InputError(f"{path}: has colours or transparency of 16 bits, of which 8 would be lost; save it as grey")
    photometric = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC)
    if photometric == 0 and image.mode not in ("1", "L"):  # which Pillow inverts
        raise InputError(f"{path}: stores white as zero; save it with black as zero (MinIsBlack)")


def _check_palette(path: Path, image: Image.Image) -> None:
    """Refuse pixels whose palette has no entry of their number, which Pillow would take for black: background."""
    entries, numbers = (
        len(image.getpalette() or ()) // 3,
        np.array(image).reshape(image.height, image.width, -1)[..., 0],
    )
    if numbers.max() >= entries:
        raise InputError(
            f"{path}: {np.count_nonzero(numbers >= entries)} pixels have no colour, as its palette has {entries} "
            f"entries and they are number {some_of(np.unique(numbers[numbers >= entries]))}; save it again"
        )


def _opaque(path: Path, values: NDArray[Any]) -> NDArray[Any]:
    """Return (H, W, channels) unchanged where its last channel, the transparency, is the same everywhere."""
    alpha = values[..., -1]
    if alpha.min() != alpha.max():
        raise InputError(f"{path}: its transparency varies ({alpha.min()} to {alpha.max()}); save it without")
    return values
