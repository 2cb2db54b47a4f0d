"""What a model says of itself: `model_card.json`, typed; the reading of its other JSON files; the card of a pack."""

import json
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from common.errors import InputError, one_line
from common.files import of_the_disk, read_json
from common.pages.words import count, words
from runtime.pack import Manifest, packed

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
    salt: str | None = None  # of the patients, where they are hashes (`runtime.pack.salted`)


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
    patients: list[str] = _NOT_SAID  # that were trained on, or chose the checkpoint (validation)
    salt: str = _NOT_SAID  # of a pack, where patients are hashes (`runtime.pack.salted`)
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
    hook = partial(_Entries, path)
    try:
        inside = _packed_json(folder, name)
        content = json.loads(inside, object_hook=hook) if inside else read_json(path, hook)
    except (OSError, ValueError) as error:
        raise of_the_disk(path, error) or InputError(
            f"{path}: cannot be read ({one_line(error)}); rematerialise the model asset"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no names with values; rematerialise the model asset")
    return content


def _packed_json(folder: Path, name: str) -> str | None:
    content = pack.json(folder.name, name) if (pack := packed(folder)) else None
    return None if content is None else json.dumps(content)


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


_INTENDED_USE = (
    "Research on short-axis cardiac MRI like that of its training; no medical device, and no basis of any decision "
    "about a patient. Look at each result: a study unlike the training is flagged, but not every wrong one is."
)
_TERMS = (
    "The weights may be used on the terms of all these data together; ScarForge's code is MIT. Patients trained on "
    "stand in the pack as salted hashes, by which `scarforge external-test` refuses them."
)


def render_pack_card(said: Manifest, about: str, command: str, external: Sequence[str] = ()) -> str:
    """Return the card of a pack as Markdown.

    Args:
        said: The pack.
        about: A sentence about its kind of model.
        command: What made it.
        external: What external tests gave, Markdown.
    """
    parts = [
        f"# {said.name}",
        f"{about} Packed by ScarForge {said.scarforge}: {_counted(said)}.",
        f"```\n{command}\n```",
        "## Intended use",
        _INTENDED_USE,
        "## Data and licence",
        *(f"- {one.name}: {one.licence}. {one.attribution}." for one in said.data),
        _TERMS,
        "## Results on patients not seen",
        _results_text(said),
        "## Probabilities and volumes",
        _trust(said),
        "## External test",
        *(external or ["None was made."]),
        "## Limits",
        *_limits(said),
    ]
    return "\n\n".join(parts) + "\n"


def _counted(said: Manifest) -> str:
    folds = ", ".join(f"fold {part.fold} seed {part.seed}" for part in said.networks)
    origin = f"{said.source}/{said.profile}" + (f", experiment {said.experiment}" if said.experiment else "")
    boxes = sorted({f"{part.source}/{part.profile}" for part in said.localisers})
    localisers = f"{count(len(said.localisers), 'localiser')} of {', '.join(boxes)}" if boxes else "no localiser"
    return f"{count(len(said.networks), 'network')} of {origin} ({folds}), {localisers}"


def _results_text(said: Manifest) -> str:
    rows = [row for row in said.results if row["rule"] in ("official", "positive")]
    if not rows:
        return "Not measured: the test patients of the folds are not beside the model."
    lines = ["| rule | tissue | Dice | 95 % interval | patients |", "|---|---|---|---|---|"]
    for row in rows:
        interval = "–" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"
        tissue = words(row["tissue"])
        lines.append(f"| {row['rule']} | {tissue} | {row['mean']:.3f} | {interval} | {row['patients']} |")
    folds = max(int(row["folds"] or 0) for row in rows)
    seen = count(folds, "fold")
    how = f"Test patients of {seen}, each segmented by the network that had not seen them, out of fold."
    return "\n".join([how, "", *lines])


def _trust(said: Manifest) -> str:
    if said.calibration is None or not said.intervals:
        return "Not measured: `--probabilities` are as the networks give them, and volumes have no interval."
    one, lines = said.calibration, []
    if one.error_before is not None and one.error_after is not None:
        told = (
            f"Temperature {one.temperature:.3f}, fitted on the validation patients. Expected calibration error of the "
            f"test patients of all folds: {one.error_before:.4f} before, {one.error_after:.4f} after (15 bins, pixels "
            "that reference or prediction give to a tissue)."
        )
        lines += [
            told,
            "",
            "| confidence | right | pixels |",
            "|---|---|---|",
            *(f"| {bin_.confidence:.3f} | {bin_.accuracy:.3f} | {bin_.pixels} |" for bin_ in one.after),
            "",
        ]
    lines += ["| volume | 90 % interval, mL | covered by the other folds' | volumes |", "|---|---|---|---|"]
    for name, interval in said.intervals.items():
        covered = "–" if interval.coverage is None else f"{interval.coverage:.1%}"
        half = f"± {interval.half_width_ml:.2f}"
        lines.append(f"| {words(name)} | {half} | {covered} | {interval.volumes} |")
    return "\n".join(lines)


def _limits(said: Manifest) -> list[str]:
    region = said.networks[0].card.get("region", {})
    size = f"{region.get('size_px', '?')} mm" if region else "its training's size"
    lines = [f"- Segments within {size} around the left ventricle, 1 mm pixels; label set `{said.label_set}`."]
    if said.flagged:
        share = said.flagged.flagged / said.flagged.studies
        told = f"{said.flagged.flagged} of {said.flagged.studies} test studies were flagged ({share:.0%})"
        lines.append(f"- {told}, each by the network that had not seen it.")
    chosen = [words(step.step) for step in said.steps if step.applied]
    lines.append(f"- `--post-processing` applies {', '.join(chosen) or 'nothing'}.")
    if not said.localisers:
        lines.append("- Without a localiser: to start trainings from, or with `--localiser`.")
    return lines
