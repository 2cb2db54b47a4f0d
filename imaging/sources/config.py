"""What a source's files may leave open and a user must say."""

import re
from typing import Self

from pydantic import Field, field_validator, model_validator

from common.config import FrozenConfig
from common.errors import InputError, some_of
from imaging.labels import LABEL_SETS, LabelSet

_GROUPS = ("patient", "frame", "slice")


class SourceConfig(FrozenConfig):
    """Options of the formats whose files do not tell everything.

    `imaging.sources.patient_names` holds the rule for names that the last two decide.

    Attributes:
        label_set: Key of `LABEL_SETS`: of the masks, for formats that do not fix it.
        label_values: Name of the tissue by the number in the mask, such as {85: cavity, 170: myocardium};
            empty where the numbers are the label values. Numbers named `background` are dropped.
        spacing_mm: (slice, row, column), for files that carry no spacing.
        patient_pattern: Regular expression that matches the whole name of a file (without its ending, with the folders
            below `images`) and has a group `patient`, perhaps `frame` and `slice`; empty: the names tell by themselves.
        one_slice_per_patient: Whether files that lie side by side are a patient each, unless a word such as `slice03`
            or `frame01` tells otherwise.
    """

    label_set: str = "emidec"
    label_values: dict[int, str] = Field(default_factory=dict)
    spacing_mm: tuple[float, float, float] | None = None
    patient_pattern: str = ""
    one_slice_per_patient: bool = False

    @field_validator("label_set")
    @classmethod
    def _is_in_the_table(cls, value: str) -> str:
        if value not in LABEL_SETS:
            raise ValueError(f"input should be {' or '.join(map(repr, LABEL_SETS))}")
        return value

    @field_validator("spacing_mm")
    @classmethod
    def _positive(cls, value: tuple[float, float, float] | None) -> tuple[float, float, float] | None:
        if value is not None and not all(0 < side < float("inf") for side in value):
            raise ValueError("the three sides (slice, row, column) must be positive millimetres")
        return value

    @field_validator("patient_pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            groups = re.compile(value).groupindex
        except (re.error, OverflowError) as error:
            raise ValueError(f"it is no regular expression ({error}); correct it") from error
        if value and "patient" not in groups:
            raise ValueError("it has no group called 'patient'; write one, as in '(?P<patient>.+)_(?P<slice>[0-9]+)'")
        if unknown := sorted(set(groups) - set(_GROUPS)):
            raise ValueError(f"it has a group {some_of(unknown)}; known are {', '.join(_GROUPS)}")
        return value

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if self.patient_pattern and self.one_slice_per_patient:
            raise ValueError("patient_pattern and one_slice_per_patient say two things; give one of them")
        return self

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
                f"source.label_values: [{some_of(map(repr, unknown))}] are no tissues of label set {self.label_set!r}; "
                f"choose from {list(tissues)}, or another source.label_set"
            )
        if not self.label_values:
            return None
        return {0: 0} | {number: tissues.index(name) for number, name in self.label_values.items()}


DEFAULT = SourceConfig()
