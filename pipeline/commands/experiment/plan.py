"""What an experiment trains: a plan in YAML, its arms with their settings, and what each arm is measured by.

`scarforge sweep` is a short way to write such a plan.
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, PositiveInt, ValidationError, field_validator
from pydantic_core import ErrorDetails

from common.config import FrozenConfig, read_yaml_file
from common.errors import InputError, some_of
from engine.settings import Seed, Settings, load_settings, suggest
from imaging.sources.table import source_labels
from segmentation.model_kind import REAL_ONLY, REAL_PLUS_GAN
from segmentation.networks.table import NETWORKS
from segmentation.training.config import TrainConfig

ALL: Literal["all"] = "all"
Patients = Literal["all"] | PositiveInt
TrainingSet = Literal["real_only", "real_plus_gan"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=60)]
_OF_PLAN = {"seeds": "seeds: [0, 1]", "training_patients": "patients: [10, all]"}  # where these settings are given
Fold = Annotated[int, Field(ge=0, le=4)]


class ArmPlan(FrozenConfig):
    """One arm as a plan has it.

    Attributes:
        overrides: `key=value` laid over those of all arms.
        training_set: What the segmenter is trained on; by default `real_only` for an arm of that name.
        against: The arm that it is measured by; by default the real-only arm of equally many steps.
    """

    overrides: tuple[str, ...] = Field((), alias="set")
    training_set: TrainingSet | None = None
    against: Name | None = None


class Plan(FrozenConfig):
    """An experiment: every arm with every network, fold, seed and number of patients.

    Attributes:
        name: Of the experiment and its folder.
        about: What is asked and predicted, for the report.
        source: Format of the studies.
        root: Their folder.
        profile: Whose values the arms change.
        networks: The segmenters.
        overrides: `key=value` laid over the profile, for all arms.
        folds: Which fifths of the patients are tested.
        seeds: One segmenter is trained for each; generator and checks take the first.
        patients: Numbers of real training patients a fold; everything of an arm is trained on these alone.
        scored_on: `validation` patients decide; `test` patients are scored once.
        checks: Whether a failed check of synthetic slices stops the arm (`block`), or is told (`warn`).
        curve: Whether Dice is drawn against the share of synthetic slices.
        arms: What is compared.
    """

    name: Name
    about: str = ""
    source: str = "phantom"
    root: Path | None = None
    profile: str = "quick"
    networks: tuple[str, ...] = Field(("attention_res_unet",), min_length=1)
    overrides: tuple[str, ...] = Field((), alias="set")
    folds: tuple[Fold, ...] = Field((0, 1, 2, 3, 4), min_length=1)
    seeds: tuple[Seed, ...] = Field((0,), min_length=1)
    patients: tuple[Patients, ...] = Field((ALL,), min_length=1)
    scored_on: Literal["validation", "test"] = "validation"
    checks: Literal["block", "warn"] = "block"
    curve: bool = False
    arms: dict[Name, ArmPlan] = Field(min_length=1)

    @field_validator("networks", "folds", "seeds", "patients")
    @classmethod
    def _each_once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if twice := sorted({str(value) for value in values if values.count(value) > 1}):
            raise ValueError(f"names {some_of(twice)} twice; give each once")
        return values

    @field_validator("networks")
    @classmethod
    def _are_networks(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in values if name not in NETWORKS]:
            raise ValueError(f"{some_of(unknown)} is no network; choose among {', '.join(NETWORKS)}")
        return values

    @field_validator("patients", mode="before")
    @classmethod
    def _are_patients(cls, values: Any) -> Any:
        for value in values if isinstance(values, Sequence) and not isinstance(values, str) else (values,):
            if value != ALL and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"{value!r} is no number of patients; give a list of whole numbers from 1, or {ALL}")
        return values

    @field_validator("arms", mode="before")
    @classmethod
    def _nothing_changed(cls, arms: Any) -> Any:
        return {name: arm or {} for name, arm in arms.items()} if isinstance(arms, Mapping) else arms

    def to_yaml(self) -> str:
        """Return the plan as `read_plan` reads it."""
        content = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def read_plan(path: Path) -> Plan:
    """Read a plan.

    Raises:
        InputError: It cannot be read, or a key or value is wrong; the message names what is allowed.
    """
    keys = "is no plan; write keys such as name, source and arms (docs/experiments.md)"
    return _validated(read_yaml_file(path, str(path), "give the YAML file of a plan", keys), str(path))


def _validated(content: Mapping[str, Any], where: str) -> Plan:
    try:
        return Plan.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise InputError(f"{where}: {_fault(first)}{more}") from error


def _fault(error: ErrorDetails) -> str:
    places = [str(part) for part in error["loc"] if part != "[key]"]
    field = ".".join(dict.fromkeys(places))
    if error["type"] == "extra_forbidden":
        known = _keys(ArmPlan if len(places) > 1 else Plan)
        return f"{field!r} does not exist; {suggest(places[-1], known, places[:-1])}"
    if error["type"] == "missing":
        return f"{field!r} is missing; a plan needs name and arms"
    message = error["msg"].removeprefix("Value error, ")
    return f"{field!r}: {message[:1].lower()}{message[1:]}, got {repr(error['input'])[:80]}"


def _keys(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


@dataclass(frozen=True)
class Arm:
    """An arm of a plan, its settings resolved.

    Attributes:
        name: As the plan has it.
        training_set: `real_only` or `real_plus_gan`.
        overrides: All that are laid over the profile.
        settings: Resolved, of all patients.
        against: The arm that it is measured by; empty for none.
        added: It is not in the plan, but another arm is measured by it.
    """

    name: str
    training_set: str
    overrides: tuple[str, ...]
    settings: Settings
    against: str = ""
    added: bool = False

    def training(self, network: str) -> TrainConfig:
        """Return how real slices alone are trained on in this arm."""
        return self.settings.training(network, REAL_ONLY)

    def steps(self, networks: Sequence[str]) -> tuple[int, ...]:
        """Return each network's optimiser steps."""
        return tuple(self.training(network).steps for network in networks)

    @property
    def share(self) -> float:
        """The share of synthetic slices in the training set."""
        counts = self.settings.arm(self.training_set)
        return counts.get("synthetic_slices", 0) / sum(counts.values())

    def with_patients(self, patients: Patients) -> tuple[tuple[str, ...], Settings]:
        """Return overrides and settings of so many training patients."""
        if patients == ALL:
            return self.overrides, self.settings
        settings = self.settings.model_copy(update={"training_patients": patients})
        return (*self.overrides, f"training_patients={patients}"), settings


def resolved_arms(plan: Plan) -> dict[str, Arm]:
    """Return every arm by name, with those that are added for others to be measured by.

    Raises:
        InputError: An arm's settings are wrong, two arms are the same, or `against` names none.
    """
    arms = {name: _resolved(plan, name, given) for name, given in plan.arms.items()}
    _refuse_twins(arms)
    for name, given in plan.arms.items():
        if given.against is not None and (given.against == name or given.against not in arms):
            others = [other for other in arms if other != name]
            likely = difflib.get_close_matches(given.against, others, n=1) or others
            raise InputError(f"arm {name!r}: against {given.against!r} is no other arm; choose {some_of(likely)}")
    found = dict(arms)
    for arm in arms.values():
        if arm.training_set == REAL_PLUS_GAN and not arm.against:
            reference = _reference(plan, arm, list(found.values()))
            found[reference.name] = reference
            found[arm.name] = replace(arm, against=reference.name)
    first = {arm.name: arm for arm in found.values() if arm.training_set == REAL_ONLY}
    return {**first, **{name: arm for name, arm in found.items() if name not in first}}


def _resolved(plan: Plan, name: str, given: ArmPlan) -> Arm:
    overrides = (*plan.overrides, *given.overrides)
    for override in overrides:
        if (key := override.partition("=")[0].strip()) in _OF_PLAN:
            raise InputError(f"arm {name!r}: {override!r} is for all arms: write {_OF_PLAN[key]} into the plan")
    try:
        settings = load_settings(plan.profile, overrides, plan.seeds)
        lesions = source_labels(plan.source, settings.source).has_lesions
    except InputError as error:
        raise InputError(f"arm {name!r}: {error}") from error
    training_set = given.training_set or (REAL_ONLY if name == REAL_ONLY else REAL_PLUS_GAN)
    if training_set == REAL_PLUS_GAN and not lesions:
        raise InputError(f"arm {name!r}: {plan.source} has no lesions to synthesise; give it training_set: {REAL_ONLY}")
    return Arm(name, training_set, overrides, settings, given.against or "")


def _refuse_twins(arms: Mapping[str, Arm]) -> None:
    seen: dict[tuple[str, str], str] = {}
    for arm in arms.values():
        first = seen.setdefault((arm.training_set, arm.settings.digest), arm.name)
        if first != arm.name:
            raise InputError(f"arms {first!r} and {arm.name!r} have the same settings; leave one out, or change it")


def _reference(plan: Plan, arm: Arm, arms: Sequence[Arm]) -> Arm:
    """Return the real-only arm of equally many steps, trained alike if there is one, or else a new one."""
    steps = arm.steps(plan.networks)
    fitting = [other for other in arms if other.training_set == REAL_ONLY and other.steps(plan.networks) == steps]
    alike = [other for other in fitting if all(other.training(name) == arm.training(name) for name in plan.networks)]
    if fitting:
        return (alike or fitting)[0]
    name = REAL_ONLY if not any(other.name == REAL_ONLY for other in arms) else f"{REAL_ONLY}_{_words(steps)}_steps"
    if any(other.name == name for other in arms):
        raise InputError(f"arm {arm.name!r}: needs a real-only arm of {_words(steps)} steps, but {name!r} is another")
    of_networks = (f"{network}.steps={count}" for network, count in zip(plan.networks, steps, strict=True))
    overrides = (*plan.overrides, "mixing.protocol=replace", *of_networks)
    return Arm(name, REAL_ONLY, overrides, load_settings(plan.profile, overrides, plan.seeds), added=True)


def _words(steps: Sequence[int]) -> str:
    return "_".join(str(count) for count in dict.fromkeys(steps))


def sweep_plan(
    source: str,
    root: Path | None,
    profile: str,
    fold: int,
    shares: Sequence[float],
    patients: Sequence[Patients],
    network: str = next(iter(NETWORKS)),
    slices: int | None = None,
    seeds: Sequence[int] = (),
    overrides: Sequence[str] = (),
    scored_on: str = "test",
) -> Plan:
    """Return the plan that trains a segmenter at several shares of synthetic slices.

    Failed checks of synthetic slices are told and stop nothing, and no segmenter is trained on them alone unless the
    overrides ask for it: whether they are of use is what the curve tells. Synthetic slices replace real ones
    (`mixing.protocol=replace`), so that every share has the same total.

    Args:
        source: Format of the studies.
        root: Their folder.
        profile: The profile.
        fold: The fold.
        shares: Of synthetic slices; 0 is real only.
        patients: Numbers of real training patients.
        network: What is trained.
        slices: In every training set; None for the profile's.
        seeds: None for the profile's.
        overrides: `key=value` laid over the profile.
        scored_on: `test` or `validation`.
    """
    own = (
        "quality.utility_steps=0",
        "mixing.protocol=replace",
        *overrides,
        *([] if slices is None else [f"training_slices={slices}"]),
    )
    content = {
        "name": f"sweep_{network}_fold_{fold}",
        "source": source,
        "root": root,
        "profile": profile,
        "networks": [network],
        "set": own,
        "folds": [fold],
        "seeds": seeds or load_settings(profile, own).seeds,
        "patients": sorted(patients, key=lambda count: (count != ALL, -count if isinstance(count, int) else 0)),
        "scored_on": scored_on,
        "checks": "warn",
        "curve": True,
        "arms": {f"share_{share:g}": _share_arm(share) for share in shares},
    }
    return _validated(content, "sweep")


def _share_arm(share: float) -> dict[str, Any]:
    return {"set": [f"synthetic_share={share:g}"]} if share else {"training_set": REAL_ONLY}


def read_shares(text: str) -> tuple[float, ...]:
    """Read shares such as `0,0.25,1`; `InputError` where one is no share or is given twice."""
    shares = tuple(round(_number(part, "--shares", "0,0.25,0.5,0.75,1"), 4) for part in text.split(","))
    for share in shares:
        if not 0 <= share <= 1:
            raise InputError(f"--shares {share:g} is outside 0 to 1; 0 is real slices only, 1 synthetic only")
    return _sorted_once(shares, "--shares")


def read_patients(text: str) -> tuple[Patients, ...]:
    """Read numbers of real patients such as `10,20,all`."""
    names = [part.strip() for part in text.split(",")]
    if names.count(ALL) > 1:
        raise InputError(f"--patients names {ALL} twice; give each once")
    numbers = tuple(_number(name, "--patients", "10,20,all") for name in names if name != ALL)
    for patients in numbers:
        if patients < 1 or patients != int(patients):
            raise InputError(f"--patients {patients:g} is no number of patients; give whole numbers from 1, or {ALL}")
    counted: tuple[Patients, ...] = tuple(int(patients) for patients in _sorted_once(numbers, "--patients"))
    return (*counted, ALL) if ALL in names else counted


def read_seeds(text: str) -> tuple[int, ...]:
    """Read seeds such as `0,1,2`; empty for the profile's."""
    if not text:
        return ()
    numbers = tuple(_number(part, "--seeds", "0,1,2") for part in text.split(","))
    if any(number < 0 or number != int(number) for number in numbers):
        raise InputError(f"--seeds {text} are no whole numbers from 0; write them like 0,1,2")
    return tuple(int(seed) for seed in _sorted_once(numbers, "--seeds"))


def _number(text: str, option: str, example: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{option}: {text.strip()!r} is no number; write it like {example}")
    return number


def _sorted_once(numbers: tuple[float, ...], option: str) -> tuple[float, ...]:
    twice = sorted({number for number in numbers if numbers.count(number) > 1})
    if twice:
        raise InputError(f"{option} names {some_of(f'{number:g}' for number in twice)} twice; give each once")
    return tuple(sorted(numbers))
