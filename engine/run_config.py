"""What a run may be configured with: names and settings as a form of Dagster's, which refuses what is not among them.

The form is made of the settings themselves (`engine.settings`), so that it has each of their keys.
"""

import inspect
import json
import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, TypeAlias, get_args, get_origin

import dagster as dg
from pydantic import BaseModel, Field, create_model

from common.errors import InputError
from engine.settings import profile_names, settings_class
from imaging.sources.table import SOURCES, source_format

_CHOSEN_OTHERWISE = {"profile", "description", "seeds"}


def _changes_class(part: type[BaseModel], name: str = "") -> type[dg.Config]:
    """Return a part of the settings as Dagster's form: every key optional, with its description and its choices."""
    told = _documented(part)
    fields: dict[str, Any] = {
        key: (_form_of(field.annotation, f"{name}_{key}"), Field(None, description=field.description or told.get(key)))
        for key, field in part.model_fields.items()
        if key not in _CHOSEN_OTHERWISE or name
    }
    return create_model(f"Changes{name}", __base__=dg.Config, **fields)


def _form_of(annotation: Any, name: str) -> Any:
    """Return the type that Dagster's form has for a setting; what it cannot say is checked when a run begins."""
    kinds = [each for each in get_args(annotation) if each is not NoneType] if NoneType in get_args(annotation) else []
    kind: Any = kinds[0] if len(kinds) == 1 else annotation
    kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if get_origin(kind) is Literal:
        kind = _choices(name.strip("_"), get_args(kind))
    elif isinstance(kind, type) and issubclass(kind, BaseModel):
        kind = _changes_class(kind, name)
    elif get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        kind = list.__class_getitem__(get_args(inner)[0] if get_origin(inner) is Annotated else inner)
    elif kind not in (str, int, float, bool):
        kind = Any
    return Optional[kind]  # noqa: UP045 # a type that is known at run time only


def _choices(name: str, choices: Iterable[object]) -> Any:
    enumeration: Any = StrEnum  # its members are known at run time only
    return enumeration(name, {each: each for each in map(str, choices)})


def _documented(part: type[BaseModel]) -> dict[str, str]:
    """Return what a configuration's docstring says of its attributes."""
    _, _, listed = inspect.cleandoc(part.__doc__ or "").partition("Attributes:\n")
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8,}.*)*)", listed, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


if TYPE_CHECKING:
    SourceName: TypeAlias = str
    ProfileName: TypeAlias = str
    SettingsChanges: TypeAlias = dg.Config
else:  # in the launchpad, what is none of these is refused before there is a run
    SourceName, ProfileName = Literal[tuple(SOURCES)], Literal[tuple(profile_names())]
    SettingsChanges = _changes_class(settings_class())


def overrides_of(changes: Mapping[str, Any]) -> list[str]:
    """Return changed settings, nested or under dotted names, as `key=value`."""
    return [f"{key}={json.dumps(value)}" for key, value in flatten(changes).items()]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values under dotted names, as MLflow's parameters want them."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def default_profile(source: str) -> str:
    """Return the profile that fits a source: that of the phantom teaches nothing about patients."""
    return "demo" if source == "phantom" else "quick"


def check_names(source: str, profile: str) -> None:
    """Raise `InputError` with the names there are, where source or profile is none of them."""
    source_format(source)
    if profile not in profile_names():
        raise InputError(f"profile {profile!r} does not exist; choose one of {', '.join(profile_names())}")


def forge_fields(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return source, root, profile and home, for everything that configures a run.

    Dagster resets the fields that a run's configuration leaves out to their class's defaults, whatever the resource
    was made with. So whoever sets one of them, as each job sets its profile, has to give all.

    Args:
        environment: Usually `os.environ`.
    """
    root, source = environment.get("SCARFORGE_ROOT"), environment.get("SCARFORGE_SOURCE", "phantom")
    profile = environment.get("SCARFORGE_PROFILE") or default_profile(source)
    check_names(source, profile)
    return {
        "source": source,
        "root": str(Path(root).absolute()) if root else "",
        "profile": profile,
        "home": "",  # the environment's where the run is carried out, since a stored run outlives a moved workspace
    }
