"""The page of `scarforge predict` as one HTML file: no script, no network, every text from the data escaped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined

from imaging.dataset_card.page import significant, words
from imaging.dataset_card.pictures import Picture, data_address
from imaging.labels import LabelSet
from pipeline.prediction_record import Predicted

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
        model: What `pipeline.prediction_record.model_facts` says.
        labels: Names and colours of the tissues.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(resources.files("pipeline").joinpath(_TEMPLATE).read_text(encoding="utf-8"))
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
