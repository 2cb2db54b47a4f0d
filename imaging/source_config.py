"""What a source's files may leave open and a user must say."""

from typing import Literal

from pydantic import Field, field_validator

from imaging.config import FrozenConfig
from imaging.errors import InputError
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

    def label_numbers(self) -> dict[int, int] | None:
        """Return the label value by the number in the mask; None where the numbers are the label values.

        0 is background unless `label_values` says otherwise.

        Raises:
            InputError: `label_values` names a tissue that the label set does not have.
        """
        tissues = self.labels.tissues
        unknown = sorted(set(self.label_values.values()) - set(tissues))
        if unknown:
            raise InputError(
                f"source.label_values: {unknown} are no tissues of label set {self.label_set!r}; "
                f"choose from {list(tissues)}, or another source.label_set"
            )
        if not self.label_values:
            return None
        return {0: 0} | {number: tissues.index(name) for number, name in self.label_values.items()}
