"""Reads PNG and TIFF as grey values, of 8, 16 or 32 bits, without changing a number."""

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from imaging.errors import InputError
from imaging.nifti import MOST_VOXELS

_FORMATS = ("PNG", "TIFF")  # Pillow would try sixty others
_GREY = ("1", "L", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")
_COLOUR = ("RGB", "RGBA", "RGBX")
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


def read_grey(path: Path, as_index: bool = False) -> NDArray[Any]:
    """Read every page of a file as grey values.

    Colours count as grey where red, green and blue are equal; transparency is ignored where it is the same
    everywhere. The resolution that a file announces is not read: it seldom is the scanner's.

    Args:
        path: `.png`, or `.tif` with one page or several.
        as_index: Give the entry's number instead of its colour where the file has a palette; for label maps.

    Returns:
        (pages, H, W), in the type of the file; bilevel files give False and True.

    Raises:
        InputError: It is unreadable, or too large, or truly coloured, or its pages differ in size.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of tags that are not read here
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as image:
                return _pages(path, image, as_index)
    except _UNREADABLE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the file system's, not the format's
        detail = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: not a readable PNG or TIFF ({detail}); export it again") from error


def _pages(path: Path, image: Image.Image, as_index: bool) -> NDArray[Any]:
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
        pages.append(_page(path, image, as_index))
    return np.stack(pages)


def _page(path: Path, image: Image.Image, as_index: bool) -> NDArray[Any]:
    """Return one page (H, W)."""
    _check_stored(path, image)
    if image.mode in _GREY:
        return np.array(image)
    if image.mode in ("P", "PA") and as_index:
        values = np.array(image)
        return values if image.mode == "P" else _opaque(path, values)[..., 0]
    if image.mode in ("P", "PA"):
        return _equal_channels(path, np.array(image.convert("RGB")))
    if image.mode == "LA":
        return _opaque(path, np.array(image))[..., 0]
    if image.mode in _COLOUR:
        values = np.array(image)
        return _equal_channels(path, (_opaque(path, values) if image.mode == "RGBA" else values)[..., :3])
    raise InputError(f"{path}: is stored as {image.mode}; save it as grey values")


def _check_stored(path: Path, image: Image.Image) -> None:
    """Refuse what Pillow would decode to other numbers than were meant."""
    assert isinstance(image, ImageFile)
    if image.mode not in _GREY and any(";16" in str(tile.args) for tile in image.tile):  # such as RGB;16B
        raise InputError(f"{path}: has colours or transparency of 16 bits, of which 8 would be lost; save it as grey")
    photometric = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC)
    if photometric == 0 and image.mode not in ("1", "L"):  # which Pillow inverts
        raise InputError(f"{path}: stores white as zero; save it with black as zero (MinIsBlack)")


def _opaque(path: Path, values: NDArray[Any]) -> NDArray[Any]:
    """Return (H, W, channels) unchanged where its last channel, the transparency, is the same everywhere."""
    alpha = values[..., -1]
    if alpha.min() != alpha.max():
        raise InputError(f"{path}: its transparency varies ({alpha.min()} to {alpha.max()}); save it without")
    return values


def _equal_channels(path: Path, values: NDArray[Any]) -> NDArray[Any]:
    """Return (H, W) from (H, W, 3) of which all channels are the same."""
    coloured = int(np.count_nonzero((values != values[..., :1]).any(axis=-1)))
    if coloured:
        raise InputError(
            f"{path}: {coloured} pixels are coloured; save an image as grey values, and a mask as grey values "
            "or with a palette whose entries are its numbers"
        )
    return values[..., 0]
