"""What a source's files may leave open and a user must say."""

from typing import Literal

from pydantic import Field, field_validator

from imaging.config import FrozenConfig
from imaging.labels import LABEL_SETS, LabelSet


class SourceConfig(FrozenConfig):
    """Options of the formats whose files do not tell everything (`nifti`, `image_pairs`, `lvquan18`).

    Attributes:
        label_set: Label set of the masks, for formats that do not fix it.
        label_values: Name of the tissue by the number in the mask, such as {85: cavity, 170: myocardium};
            empty where the numbers are the label values. Numbers named `background` are dropped.
        spacing_mm: (slice, row, column), for files that carry no spacing.
    """

    label_set: Literal["emidec", "cine"] = "emidec"
    label_values: dict[int, str] = Field(default_factory=dict)
    spacing_mm: tuple[float, float, float] | None = None

    @field_validator("spacing_mm")
    @classmethod
    def _positive(cls, value: tuple[float, float, float] | None) -> tuple[float, float, float] | None:
        if value is not None and not all(0 < side < float("inf") for side in value):
            raise ValueError("the three sides (slice, row, column) must be positive millimetres")
        return value

    @property
    def labels(self) -> LabelSet:
        """The chosen label set."""
        return LABEL_SETS[self.label_set]
