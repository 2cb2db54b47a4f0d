"""Pictures of one predicted study: labels over every slice, entropy, and where the region was cut."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from imaging.labels import LabelSet
from imaging.overlay import contact_sheet
from imaging.prepare import apply_window, intensity_window
from segmentation.study_prediction import StudyPrediction

_MOST_COLUMNS = 6
_COMPRESSION = 4
_REGION_COLOUR, _BOX_COLOUR = (255, 170, 0), (120, 220, 255)


def overlay_sheet(prediction: StudyPrediction, labels: LabelSet) -> Image.Image:
    """Return every slice's region with the labels drawn over it."""
    return _sheet(prediction.images, prediction.regions, labels)


def entropy_sheet(prediction: StudyPrediction, labels: LabelSet) -> Image.Image:
    """Return every slice's predictive entropy: black is sure, white is all classes equally likely."""
    return _sheet(prediction.entropy, np.zeros_like(prediction.regions), labels)


def place_picture(prediction: StudyPrediction) -> Image.Image:
    """Return the whole middle slice on the 1 mm grid with the region (orange) and the ventricle's box (blue)."""
    plane = prediction.prepared[len(prediction.prepared) // 2]
    grey = (255 * apply_window(plane, intensity_window(prediction.prepared))).astype(np.uint8)
    picture = Image.fromarray(grey).convert("RGB")
    draw = ImageDraw.Draw(picture)
    box, half = prediction.box, prediction.images.shape[-1] / 2
    row, column = box.centre
    draw.rectangle((column - half, row - half, column + half - 1, row + half - 1), outline=_REGION_COLOUR)
    draw.rectangle((box.left, box.top, box.right - 1, box.bottom - 1), outline=_BOX_COLOUR)
    return picture


def png_bytes(picture: Image.Image) -> bytes:
    """Return a picture as the bytes of a PNG file; the best compression would take as long as the network."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=_COMPRESSION)
    return buffer.getvalue()


def _sheet(images: NDArray[np.float32], masks: NDArray[np.uint8], labels: LabelSet) -> Image.Image:
    titles = [f"slice {place + 1}" for place in range(len(images))]
    return contact_sheet(images, masks, labels, columns=min(_MOST_COLUMNS, len(images)), titles=titles)
