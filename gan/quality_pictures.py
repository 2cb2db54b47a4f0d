"""Pictures of slices for the quality page, as addresses of `img` elements that need no other file."""

import io
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gan.quality_crops import ventricle_crops
from gan.quality_report import Copies, QualityReport
from gan.quality_slices import Images

_GAP_PX = 3
_CROP_PX = 96
_MASKS_SHOWN = 4
_DEVIATION_SHOWN = 0.1


@dataclass(frozen=True)
class Picture:
    """A picture as the address of an `img` element, its text for those who do not see it, and its caption."""

    src: str
    alt: str
    caption: str = ""


def gallery_strips(report: QualityReport) -> list[Picture]:
    """Return one strip of the same validation slices for each subject: real, drawn, painted."""
    return [Picture(strip(images), f"{name}: {len(images)} slices", name) for name, images in report.gallery.items()]


def same_mask_strips(report: QualityReport) -> list[Picture]:
    """Return a strip for each mask: the real slice, drawings with different noise, and their deviation."""
    strips = []
    for image, drawings in list(zip(report.variety.originals, report.variety.redrawn, strict=True))[:_MASKS_SHOWN]:
        deviation = np.clip(np.asarray(drawings, np.float32).std(axis=0) / _DEVIATION_SHOWN, 0, 1)
        parts = [image, *drawings, deviation]
        text = f"real slice, {len(drawings)} drawings from its mask, and their deviation from one another"
        strips.append(Picture(strip(parts), text))
    return strips


def closest_pairs(copies: Copies) -> list[Picture]:
    """Return each of the closest pairs side by side: synthetic ventricle, nearest training ventricle."""
    ours, theirs = (ventricle_crops(part.images, part.masks, _CROP_PX)[0] for part in (copies.drawn, copies.found))
    pictures = []
    for row, left, right in zip(copies.worst.to_dict("records"), ours, theirs, strict=True):
        names = f"row {row['row']} of {row['donors']}", f"{row['nearest_case']}, slice {row['nearest_slice']}"
        figures = f"distance {row['distance']:.2f}, ratio {row['ratio']:.2f}, features {row['feature_distance']:.2f}"
        text = f"synthetic {names[0]} beside {names[1]}"
        pictures.append(Picture(strip([left, right]), text, f"{names[0]} | {names[1]}: {figures}"))
    return pictures


def strip(images: Sequence[NDArray[np.floating]] | Images) -> str:
    """Return images (H, W) in [0, 1] side by side as the address of a PNG."""
    gap = np.full((len(images[0]), _GAP_PX), 255, np.uint8)
    parts = []
    for image in images:
        parts += [(np.clip(np.asarray(image, np.float32), 0, 1) * 255).round().astype(np.uint8), gap]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(parts[:-1], axis=1)).save(buffer, format="PNG", optimize=True)
    return data_address(buffer.getvalue(), "image/png")


def data_address(content: bytes, kind: str) -> str:
    """Return content as an address that holds it."""
    return f"data:{kind};base64,{b64encode(content).decode()}"
