"""What a model says of itself: `model_card.json`, typed; and the reading of a model's other JSON files."""

from collections.abc import Mapping
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from common.errors import InputError, one_line
from common.files import of_the_disk, read_json

CARD = "model_card.json"


class _Said(Enum):
    NOTHING = "nothing"  # an enumeration's member stays itself when pydantic copies a default


_NOT_SAID: Any = _Said.NOTHING


class DiceValidation(BaseModel):
    """Dice of a segmenter on the validation patients."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: str
    dice: dict[str, float]
    mean: float


class StepChoice(BaseModel):
    """Which steps of post-processing the validation patients chose, and the mean Dice before and after each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    chosen: list[str]
    rule: str = "positive"
    mean_dice: dict[str, float] = {}


class Ancestor(BaseModel):
    """A model that a training started from: its source, and whom it has seen, as far as its card tells."""

    model_config = ConfigDict(frozen=True)

    source: str | None = None
    profile: str | None = None
    fold: int | None = None
    patients: list[str] | None = None
    weights: str | None = None  # SHA-256


class ModelCard(BaseModel):
    """What a model says of itself, `model_card.json`: each training says what applies to it, the rest stays unsaid.

    Reading a field that was not said is the file's fault, told in one line; `says` asks first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    # what the caller knows
    source: str | None = _NOT_SAID
    profile: str = _NOT_SAID
    fold: int = _NOT_SAID
    seed: int = _NOT_SAID
    stage: str = _NOT_SAID
    trial: str = _NOT_SAID
    training_set: str = _NOT_SAID
    code_version: str | None = _NOT_SAID
    parents: dict[str, str] = _NOT_SAID  # data versions of what was read
    slices: int = _NOT_SAID  # of the training set
    patients: list[str] = _NOT_SAID  # that were trained on
    split_digest: str = _NOT_SAID
    digest: str = _NOT_SAID  # of the training set
    region: dict[str, Any] = _NOT_SAID  # how they were cut: a `RegionConfig`, and what the store adds
    # what every training says
    network: str = _NOT_SAID
    parameters: int = _NOT_SAID
    best_step: int = _NOT_SAID
    spacing_mm: float = _NOT_SAID
    label_set: str = _NOT_SAID
    validation: DiceValidation | dict[str, float] = _NOT_SAID
    intended_use: str = _NOT_SAID
    precision: str = _NOT_SAID  # of its training: bf16 (autocast, weights in fp32), or fp32 (on GPUs without TF32)
    deterministic: bool = _NOT_SAID  # where only kernels that give the same bits each time were taken
    # a segmenter
    input_size: list[int] = _NOT_SAID  # rows, columns
    steps: int = _NOT_SAID
    post_processing: StepChoice = _NOT_SAID
    started_from: list[Ancestor] = _NOT_SAID  # the latest first
    # Pix2Pix
    region_px: int = _NOT_SAID
    selected_step: int = _NOT_SAID
    troubles: list[str] = _NOT_SAID
    # the localiser
    head: str = _NOT_SAID
    input_px: int = _NOT_SAID
    fov_mm: float = _NOT_SAID
    validation_iou: float = _NOT_SAID

    weights_sha256: str = _NOT_SAID  # so that a folder tells wherever it is copied

    _path: Path = PrivateAttr(default=Path(CARD))

    def __getattribute__(self, name: str) -> Any:
        """Return a field; one that was not said raises `InputError`."""
        value = super().__getattribute__(name)
        if value is _NOT_SAID:
            raise _lacks(self._path, name)
        return value

    @classmethod
    def read(cls, folder: Path) -> "ModelCard":
        """Read the card of a model folder; entries that this version does not know are left out.

        Raises:
            InputError: The file is absent, no JSON, or an entry has another type.
        """
        content, path = read_model_json(folder, CARD), folder / CARD
        try:
            card = cls.model_validate({name: value for name, value in content.items() if name in cls.model_fields})
        except ValidationError as error:
            named = ", ".join(sorted({str(one["loc"][0]) for one in error.errors()}))
            raise InputError(f"{path}: {named} cannot be read; rematerialise the model asset") from error
        card._path = path
        return card

    def says(self, name: str) -> bool:
        """Tell whether a field was said."""
        return name in self.model_fields_set

    def said(self) -> dict[str, Any]:
        """Return what was said as plain values."""
        return self.model_dump(exclude_unset=True)

    def completed(self, **entries: Any) -> "ModelCard":
        """Return the card with further entries; an undeclared one is refused."""
        return ModelCard.model_validate({**self.said(), **entries})

    @property
    def dice(self) -> DiceValidation:
        """What a segmenter reached on the validation patients."""
        if isinstance(self.validation, DiceValidation):
            return self.validation
        raise _lacks(self._path, "validation of a segmenter")


def read_model_json(folder: Path, name: str) -> dict[str, Any]:
    """Read `config.json` of a model folder, or another file of named values.

    Raises:
        InputError: The file is absent, no JSON or no mapping; also later, when an entry is asked for that it lacks.
    """
    path = folder / name
    try:
        content = read_json(path, partial(_Entries, path))
    except (OSError, ValueError) as error:
        raise of_the_disk(path, error) or InputError(
            f"{path}: cannot be read ({one_line(error)}); rematerialise the model asset"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no names with values; rematerialise the model asset")
    return content


class _Entries(dict[str, Any]):
    """What a model's file says, at any depth; an entry that it lacks is the file's fault, told in one line."""

    def __init__(self, path: Path, entries: Mapping[str, Any]) -> None:
        super().__init__(entries)
        self._path = path

    def __missing__(self, name: str) -> Any:
        raise _lacks(self._path, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)  # a copy in another process is a plain one


def _lacks(path: Path, name: str) -> InputError:
    return InputError(
        f"{path}: lacks {name!r}: another version wrote it, or it was edited; rematerialise the model asset"
    )
