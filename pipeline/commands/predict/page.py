"""The page of `scarforge predict` as one HTML file: no script, no network, every text from the data escaped.

Pictures of one predicted study: labels over every slice, entropy, and where the region was cut.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from imaging.dataset_card.figures import Picture, data_address
from imaging.dataset_card.page import significant, words
from imaging.labels import LabelSet
from imaging.overlay import contact_sheet
from imaging.studies.preparation import apply_window, intensity_window
from pipeline.commands.predict.record import Predicted
from segmentation.prediction.study import StudyPrediction

_TEMPLATE = "templates/prediction.html.j2"
_DESCRIBED = {
    "overlays": "every slice with the predicted tissues",
    "entropy": "predictive entropy of every slice, white where all classes are equally likely",
    "place": "the whole middle slice with the region in orange and the ventricle's box in blue",
}


@dataclass(frozen=True, eq=False)
class PagePart:
    """One study on the page, with its pictures as PNG files by name: `overlays`, `entropy`, `place`."""

    predicted: Predicted
    pictures: Mapping[str, bytes]

    @property
    def shown(self) -> dict[str, Picture]:
        """The pictures as addresses, with a text for those who do not see them."""
        return {
            name: Picture(data_address(self.pictures[name], "image/png"), f"{self.predicted.case_id}: {text}")
            for name, text in _DESCRIBED.items()
        }


def render_page(parts: Sequence[PagePart], problems: Sequence[str], model: Mapping[str, Any], labels: LabelSet) -> str:
    """Return the page as text.

    Args:
        parts: The studies that were segmented.
        problems: One line for each that was not.
        model: What `pipeline.commands.predict.record.model_facts` says.
        labels: Names and colours of the tissues.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(
        resources.files("pipeline.commands.predict").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    )
    colours = {tissue: "#{:02x}{:02x}{:02x}".format(*labels.colours[value]) for value, tissue in labels.foreground}
    return template.render(
        parts=parts,
        problems=problems,
        model=model,
        colours=colours,
        groups={name: [labels.tissues[value] for value in values] for name, values in labels.official_groups.items()},
        words=words,
        number=_number,
    )


def _number(value: float | None) -> str:
    return "–" if value is None else significant(value)


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
