"""One frozen tree of settings for a run: the defaults of each part, a profile's values, then `--set key=value`."""

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, ValidationError, create_model, field_validator, model_validator
from pydantic_core import ErrorDetails

from common.config import Device, FrozenConfig, Precision, read_yaml
from common.errors import InputError
from gan.simulator import SimulatorConfig
from gan.training.config import HOLE_FIELDS, PRESETS, Paint, Pix2PixConfig, SynthesisConfig, TransplantConfig
from imaging.augmentation.recipe import AugmentConfig
from imaging.phantom import PhantomConfig
from imaging.slices.balance import BalanceConfig
from imaging.slices.regions import RegionConfig
from imaging.sources.config import SourceConfig
from segmentation.localiser.config import LocaliserConfig
from segmentation.model_kind import TRAINING_SETS
from segmentation.networks.table import NETWORKS
from segmentation.training.config import MixingConfig, TrainConfig

FOLDS = 5
_WEIGHTS = ("vgg16_weights", "alexnet_weights", "inception_weights")
_MOST_SEED = 2**32 - 1  # torch's and NumPy's generators take more; people and file names do not
_MOST_SLICES = 1_000_000
_OF_A_FOLDER = ("root", "spacing_mm", "intensities", "donors")

_AN_EXAMPLE = {"pix2pix": "pix2pix.steps=2000", "simulator": "simulator.neighbours=8"}

Seed = Annotated[int, Field(ge=0, le=_MOST_SEED)]


class QualitySettings(FrozenConfig):
    """How synthetic slices are judged, and when they may not be trained on."""

    vgg16_weights: str = Field(
        default="",
        description="safetensors file of ImageNet VGG16 features, for distances and LPIPS; empty: own encoder only",
    )
    alexnet_weights: str = Field(
        default="", description="safetensors file of ImageNet AlexNet features, for LPIPS and variety; empty: without"
    )
    inception_weights: str = Field(
        default="", description="file of torch-fidelity's Inception weights; needs that package; empty: without"
    )
    slices: int = Field(default=500, ge=10, description="synthetic slices that are judged; copies: all are searched")
    utility_steps: int | None = Field(
        default=None,
        ge=0,
        description="optimiser steps of a segmenter trained on synthetic slices only; 0: none, null: the profile's",
    )
    minimum_adherence_cavity: float = Field(
        default=0.5, ge=0, le=1, description="Dice of the judge's cavity on synthetic slices"
    )
    minimum_adherence_myocardium: float = Field(
        default=0.3, ge=0, le=1, description="Dice of the judge's normal myocardium on synthetic slices"
    )
    minimum_adherence_lesions: float = Field(
        default=0.5,
        ge=0,
        description="the judge's infarct and no-reflow: Dice on synthetic slices over that on real ones",
    )
    maximum_copied_share: float = Field(
        default=0.03, ge=0, le=1, description="of synthetic slices that copy a training ventricle; chance: at most 0.01"
    )
    classifier_steps: int = Field(
        default=160, ge=1, description="optimiser steps of the network that tells drawings from real slices"
    )
    maximum_told_apart: float = Field(
        default=0.75,
        ge=0.5,
        le=1,
        description="area under the ROC of a network that tells drawings from real slices",
    )
    minimum_variety: float = Field(
        default=0.25, ge=0, description="how different synthetic ventricles are, relative to real patients"
    )

    @property
    def weight_files(self) -> dict[str, str]:
        """Every weights file that is named, by the setting's name."""
        return {name: getattr(self, name) for name in _WEIGHTS if getattr(self, name)}

    @property
    def weights(self) -> dict[str, str]:
        """A digest of the content of every weights file that is named, by the setting's name: for cache keys.

        Raises:
            InputError: A file cannot be read.
        """
        return {name: _content_digest(name, file) for name, file in self.weight_files.items()}

    @property
    def key(self) -> dict[str, Any]:
        """What cache keys hold of these settings: of a weights file its content, wherever it lies."""
        return {**self.model_dump(mode="json"), **self.weights}


def _content_digest(name: str, path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            f"quality.{name}: {path} cannot be read ({error.strerror}); name a weights file, or leave it empty"
        ) from error


class Settings(FrozenConfig):
    """Everything that decides a result, and how it is computed.

    Each network of the table has a part of its own name beside these, see `settings_class`.
    """

    profile: str
    description: str = ""
    seeds: tuple[Seed, ...] = Field(default=(0,), min_length=1, description="one segmenter is trained for each seed")
    split_seed: Seed = 0
    validation_share: float = Field(default=0.15, gt=0, lt=0.5, description="of a fold's training patients")
    training_patients: int | None = Field(
        default=None, ge=1, description="of each fold: everything is trained on these alone; null: all there are"
    )
    training_slices: int = Field(
        default=10_000, ge=10, le=_MOST_SLICES, description="slices in each arm; mixing.protocol=add puts more beside"
    )
    synthetic_share: float = Field(
        default=0.5, gt=0, le=1, description="of the real-plus-GAN arm, unless mixing.protocol is add"
    )
    processes: int = Field(default=0, ge=0, description="worker processes for slices; 0: one a core")
    device: Device = "auto"
    precision: Precision = "auto"
    deterministic: bool = Field(
        default=False, description="only kernels that give the same bits each time (docs/gpu.md)"
    )
    phantom: PhantomConfig = PhantomConfig()
    source: SourceConfig = SourceConfig()
    region: RegionConfig = RegionConfig()
    localiser: LocaliserConfig = LocaliserConfig()
    augment: AugmentConfig = AugmentConfig()
    balance: BalanceConfig = BalanceConfig()
    synthesis: SynthesisConfig = SynthesisConfig()
    transplant: TransplantConfig = TransplantConfig()
    simulator: SimulatorConfig = SimulatorConfig()
    pix2pix: Pix2PixConfig = PRESETS["context"]
    mixing: MixingConfig = MixingConfig()
    quality: QualitySettings = QualitySettings()

    @model_validator(mode="after")
    def _check_holes(self) -> Self:
        drawn, cut = self.pix2pix, self.simulator
        for name in HOLE_FIELDS:
            if drawn.context and getattr(drawn, name) != getattr(cut, name):
                raise ValueError(
                    f"pix2pix.{name} {getattr(drawn, name)} and simulator.{name} {getattr(cut, name)} must be equal: "
                    "one learns to fill the hole that the other cuts"
                )
        return self

    @model_validator(mode="after")
    def _share_is_of_a_protocol_that_replaces(self) -> Self:
        if self.mixing.protocol == "add" and self.synthetic_share != type(self).model_fields["synthetic_share"].default:
            raise ValueError(
                f"synthetic_share {self.synthetic_share:g} is a share of equal totals, and mixing.protocol add puts "
                "synthetic slices beside all real ones: set mixing.synthetic_per_real, or mixing.protocol=replace"
            )
        return self

    @field_validator("seeds")
    @classmethod
    def _each_seed_once(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("each seed may be named once: a second training with a seed is the first again")
        return seeds

    @model_validator(mode="after")
    def _regions_can_be_halved(self) -> Self:
        sides = {name: self._halved_sides(name) for name in ("pix2pix", *NETWORKS)}
        for name, (halvings, named) in sides.items():
            for what, side in named.items():
                if side % 2**halvings or side < 2**halvings:
                    raise ValueError(
                        f"{what} {side} cannot be halved {halvings} times, as {name} does; "
                        f"use a multiple of {2**halvings}, such as {max(round(side / 2**halvings), 1) * 2**halvings}"
                    )
        return self

    def _halved_sides(self, name: str) -> tuple[int, dict[str, int]]:
        """Return how often a network halves its input, and the sides it is given by the settings that say them."""
        config = self.pix2pix if name == "pix2pix" else self.network(name)
        widths = config.widths if isinstance(config, Pix2PixConfig) else config.network.widths
        sides = {"region.size_px": self.region.size_px}
        if config.crop_px:
            sides[f"{name}.crop_px"] = config.crop_px
        return len(widths), sides

    @model_validator(mode="after")
    def _windows_fit_into_regions(self) -> Self:
        for name in ("pix2pix", *NETWORKS):
            crop = getattr(self, name).crop_px
            if crop and crop > self.region.size_px:
                raise ValueError(
                    f"{name}.crop_px {crop} is larger than region.size_px {self.region.size_px}: windows are cut "
                    "out of regions; make the one smaller or the other larger"
                )
        return self

    def network(self, name: str) -> TrainConfig:
        """Return the training configuration of a key of `NETWORKS`."""
        config: TrainConfig = getattr(self, name)
        return config

    @property
    def transplants(self) -> bool:
        """Whether lesions are transplanted instead of drawn."""
        return self.synthesis.method == "transplant"

    @property
    def from_folder(self) -> bool:
        """Whether synthetic slices are taken from a folder that another program has filled."""
        return self.synthesis.method == "folder"

    @property
    def generates(self) -> bool:
        """Whether a generator is trained, which can draw any mask again."""
        return self.synthesis.method == "pix2pix"

    @property
    def paints(self) -> Paint:
        """What of a synthetic slice is not the camera's; of a folder's the store tells where it was painted."""
        if self.from_folder:
            return "ventricle"
        return "lesion" if self.transplants else self.pix2pix.paint

    @property
    def synthetic_slices(self) -> int:
        """How many slices of the real-plus-GAN arm are synthetic."""
        return self.mixing.synthetic_slices(self.training_slices, self.synthetic_share)

    def arm(self, training_set: str) -> dict[str, int]:
        """Return how many slices of each asset make up a key of `TRAINING_SETS`."""
        if not TRAINING_SETS[training_set].has_synthetic:
            return {"augmented_slices": self.training_slices}
        real = self.mixing.real_slices(self.training_slices, self.synthetic_share)
        return {"augmented_slices": real, "synthetic_slices": self.synthetic_slices}

    def training(self, network: str, training_set: str) -> TrainConfig:
        """Return how a network is trained on a key of `TRAINING_SETS`."""
        return self.mixing.training(self.network(network), TRAINING_SETS[training_set].has_synthetic)

    @property
    def digest(self) -> str:
        """A hash of everything that decides a result, which device, precision, kernels and process count do not."""
        beside = {"device", "precision", "deterministic", "processes", "seeds", "description"}
        if self.training_patients is None:  # it stands in a digest only where it is set
            beside |= {"training_patients"}
        content = self.model_dump(mode="json", exclude=beside)
        if not self.from_folder:  # the same of what only a folder's slices ask for
            for name in _OF_A_FOLDER:
                del content["synthesis"][name]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]


def settings_class() -> type[Settings]:
    """Return the settings with a part for each network of the table, without a default: a profile gives it."""
    return _with_parts(tuple(NETWORKS))


@cache
def _with_parts(networks: tuple[str, ...]) -> type[Settings]:
    parts: dict[str, Any] = dict.fromkeys(networks, (TrainConfig, ...))
    return create_model("Settings", __base__=Settings, __doc__=Settings.__doc__, __module__=__name__, **parts)


def profile_names() -> list[str]:
    """Return the names of the profiles that come with the project."""
    folder = files("engine") / "profiles"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_settings(profile: str, overrides: Sequence[str] = (), seeds: Sequence[int] = ()) -> Settings:
    """Read a profile and lay `key=value` overrides over it.

    Args:
        profile: A name from `profile_names()`.
        overrides: Such as `pix2pix.steps=2000`; values are read as YAML.
        seeds: Replace the profile's seeds where given.

    Raises:
        InputError: An unknown profile or key, or a wrong value; the message names what is allowed.
    """
    if profile not in profile_names():
        raise InputError(f"profile {profile!r} does not exist; choose one of {', '.join(profile_names())}")
    content = read_yaml((files("engine") / "profiles" / f"{profile}.yaml").read_text(encoding="utf-8"), profile)
    content["profile"] = profile
    for override in overrides:
        _lay_over(content, override)
    if seeds:
        content["seeds"] = list(seeds)
    return _validated(_with_preset(content))


def _lay_over(content: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise InputError(f"--set {override!r}: write key=value, such as pix2pix.steps=2000")
    if key.strip() == "profile":
        raise InputError(f"--set {override!r}: a profile is chosen by --profile {value}, which brings all its values")
    *path, last = key.strip().split(".")
    for part in path:
        content = content.setdefault(part, {})
        if not isinstance(content, dict):
            raise InputError(f"--set {override!r}: {part!r} is a single value and has no keys below it")
    content[last] = read_yaml(value, f"--set {override!r}")


def _with_preset(content: dict[str, Any]) -> dict[str, Any]:
    """Put a named Pix2Pix preset beneath the profile's own values, and let the simulator cut the holes it fills."""
    for part in ("pix2pix", "simulator"):
        if not isinstance(content.get(part) or {}, Mapping):
            raise InputError(f"setting {part!r}: has keys below it, such as {_AN_EXAMPLE[part]}, got {content[part]!r}")
    values: Mapping[str, Any] = content.get("pix2pix") or {}
    name = values.get("preset", "context")
    if name not in PRESETS:
        raise InputError(f"pix2pix.preset={name!r} does not exist; choose one of {', '.join(PRESETS)}")
    own = {key: value for key, value in values.items() if key != "preset"}
    pix2pix = {**PRESETS[name].model_dump(), **own}
    holes = {key: pix2pix[key] for key in HOLE_FIELDS}
    return {**content, "pix2pix": pix2pix, "simulator": {**holes, **(content.get("simulator") or {})}}


def _validated(content: dict[str, Any]) -> Settings:
    try:
        return settings_class().model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise InputError(f"{_fault(first)}{more}; profile {content['profile']!r}") from error


def _fault(error: ErrorDetails) -> str:
    """Say what is wrong with one setting: an unknown key with those that exist, or a wrong value."""
    field = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        *path, last = map(str, error["loc"])
        return f"setting {field!r} does not exist; {suggest(last, _keys_below(path), path)}"
    given = "" if isinstance(error["input"], Mapping) else f", got {repr(error['input'])[:80]}"
    message = error["msg"].removeprefix("Value error, ")
    where = f"setting {field!r}" if field else "settings"
    return f"{where}: {message[:1].lower()}{message[1:]}{given}"


def _keys_below(path: Sequence[str]) -> list[str]:
    """Return the keys of the part of the settings that `path` leads to."""
    part: type[BaseModel] = settings_class()
    for name in path:
        annotation = part.model_fields[name].annotation if name in part.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        part = annotation
    return list(part.model_fields)


def suggest(wrong: str, keys: Iterable[str], path: Sequence[str]) -> str:
    """Name the likeliest keys, or all there are."""
    keys = sorted(keys)
    likely = difflib.get_close_matches(wrong, keys, n=3)
    named = [".".join([*path, key]) for key in likely or keys]
    return f"did you mean {' or '.join(named)}?" if likely else f"there are {', '.join(named)}"
